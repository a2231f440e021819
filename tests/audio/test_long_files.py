"""The beginning of a recording of three hours: memory, and CPU time beside a short file.

Times are the least of several turns, one of each in turn: other processes and a slower clock fall on all of them.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 44_100
SHORT, LONG = 10, 3 * 3600  # seconds
MEMORY = 120e6  # bytes above those of a process that has read a short file
SCRIPT = """
import json, re, sys, time
from pathlib import Path
from astfast.audio.inputs import load_audio

def seconds(path, samples):
    start = time.process_time()
    clip = load_audio(path, max_samples=samples)
    return time.process_time() - start, len(clip.wave)

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

short, long = sys.argv[1:]
seconds(short, 160_000)
Path("/proc/self/clear_refs").write_text("5")
before = peak()
_, count = seconds(long, 160_000)
memory = peak() - before
turns = [[seconds(path, samples)[0] for path, samples in ((short, 160_000), (long, 160_000), (long, 160))]
         for _ in range(15)]
alone, whole, opening = map(min, zip(*turns))
print(json.dumps([memory, alone, whole, opening, count]))
"""


def sound(seconds: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.3, 0.3, (seconds * RATE, 2)).astype(np.float32)


def write_flac(path: Path, seconds: int) -> None:
    """Ten seconds of sound, and silence, which is encoded in seconds."""
    silence = np.zeros((SHORT * RATE, 2), np.int16)
    with soundfile.SoundFile(path, "w", RATE, 2) as file:
        file.write(sound(SHORT))
        for _ in range(seconds // SHORT - 1):
            file.write(silence)


def write_packets(path: Path, seconds: int, codec: str, rate: int = RATE) -> None:
    """Packets of ten seconds over and over, since encoding hours takes minutes."""
    av = pytest.importorskip("av")
    with av.open(path, "w") as output:
        track = output.add_stream(codec, rate=rate, layout="stereo", bit_rate=128_000)
        frame = av.AudioFrame.from_ndarray(sound(SHORT).reshape(1, -1), format="flt", layout="stereo")
        frame.sample_rate, frame.pts = RATE, 0
        context = track.codec_context
        context.open()
        resampler = av.AudioResampler(context.format, "stereo", rate, context.frame_size)
        packets = [packet for piece in resampler.resample(frame) for packet in track.encode(piece)]
        data = [bytes(packet) for packet in packets[2:]]
        for number in range(seconds * rate // context.frame_size):
            packet = av.Packet(data[number % len(data)])
            packet.stream, packet.time_base = track, Fraction(1, rate)
            packet.pts = packet.dts = number * context.frame_size
            packet.duration = context.frame_size
            output.mux(packet)


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "flac": write_flac,
    "m4a": lambda path, seconds: write_packets(path, seconds, "aac"),
    "mp3": lambda path, seconds: write_packets(path, seconds, "libmp3lame"),
    "opus": lambda path, seconds: write_packets(path, seconds, "libopus", 48_000),
}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", WRITERS)
def test_ten_seconds_of_three_hours_take_little_memory_and_time(suffix: str, tmp_path: Path) -> None:
    short, long = tmp_path / f"short.{suffix}", tmp_path / f"long.{suffix}"
    for path, seconds in ((short, SHORT), (long, LONG)):
        WRITERS[suffix](path, seconds)
    command = [sys.executable, "-c", SCRIPT, str(short), str(long)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    memory, alone, whole, opening, count = json.loads(done.stdout)
    print(
        f"{suffix}: {memory / 1e6:.1f} MB, {1e3 * whole:.1f} ms; short {1e3 * alone:.1f}, opening {1e3 * opening:.1f}"
    )
    assert count == 160_000
    assert memory <= MEMORY
    assert whole <= 1.5 * alone + opening
