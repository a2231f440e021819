"""Speed of decoding, by format: file to mono samples at 16 kHz.

python -m benchmarks.run_decoding [--turns 5]

Ten seconds of a sound are read from a path and as bytes, on one thread and on two, and as bytes beside a thread that
runs Python, which is where a decoder that calls Python waits for the interpreter's lock. The samples are compared with
those of the WAV before anything is timed. "mean of NumPy" is the WAV with ``block.mean(axis=1)`` in the place of added
columns, as it was before.
"""

from __future__ import annotations

import argparse
import io
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import soundfile

from astfast.audio import mono
from astfast.audio.inputs import load_audio
from astfast.benchmarking.peers import missing_packages
from astfast.benchmarking.timing import spread, time_interleaved
from benchmarks import arguments
from benchmarks.pages import markdown, write_section
from benchmarks.rows import ROOT, Rows

PAGE = ROOT / "docs" / "decoding.md"
SECONDS = 10.0
PER_THREAD = 16  # files that each of two threads reads
# name -> (soundfile format, subtype) or (PyAV container, codec); Hz, channels
SOUNDFILE = {
    "WAV, 16 kHz mono": ("WAV", "PCM_16", 16_000, 1),
    "WAV": ("WAV", "PCM_16", 44_100, 2),
    "FLAC": ("FLAC", "PCM_16", 44_100, 2),
    "MP3": ("MP3", "MPEG_LAYER_III", 44_100, 2),
    "Ogg Vorbis": ("OGG", "VORBIS", 44_100, 2),
    "Opus": ("OGG", "OPUS", 48_000, 2),
}
FFMPEG = {"M4A (AAC)": ("mp4", "aac", 44_100), "WebM (Opus)": ("webm", "libopus", 48_000)}


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments.parser(__doc__, turns=5, seconds=0.2).parse_args(argv)
    folder = options.cache / "decoding"
    folder.mkdir(parents=True, exist_ok=True)
    table = [("format", "path, ms", "bytes, ms", "two threads over one", "bytes beside a busy thread, times alone")]
    with Rows("decoding", options.out, threads=1) as rows:
        for name, path in write_files(folder).items():
            row = rows.write(format=name, seconds_of_sound=SECONDS, **time_format(path, options))
            table.append(columns(name, row))
            print(*table[-1], sep="  ", flush=True)
    if options.out is None:
        write_section(PAGE, "speed", markdown(table))


def time_format(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each way to read one file."""
    content = path.read_bytes()
    whole = load_audio(path).wave
    assert np.array_equal(whole, load_audio(content).wave)
    assert abs(len(whole) / 16_000 - SECONDS) < 0.15
    with ThreadPoolExecutor(2) as pool:
        ways: dict[str, Callable[[], Any]] = {
            "path": lambda: load_audio(path),
            "bytes": lambda: load_audio(content),
            "one thread": lambda: read_on(pool, path, threads=1),
            "two threads": lambda: read_on(pool, path, threads=2),
        }
        if path.suffix == ".wav":
            ways["mean of NumPy"] = lambda: with_mean_of_numpy(path)
        times = dict(zip(ways, time_interleaved(list(ways.values()), options.turns, options.seconds), strict=True))
    busy = [beside_a_busy_thread(content) for _ in range(options.turns)]
    return {**{way: spread(seconds) for way, seconds in times.items()}, "beside a busy thread": spread(busy)}


def columns(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table, of the medians."""
    path, content, one, two, busy = (
        row[way][1] for way in ("path", "bytes", "one thread", "two threads", "beside a busy thread")
    )
    before = f" ({1e3 * row['mean of NumPy'][1]:.1f} with NumPy's mean)" if "mean of NumPy" in row else ""
    return (name, f"{1e3 * path:.1f}{before}", f"{1e3 * content:.1f}", f"{2 * one / two:.2f}", f"{busy / content:.1f}")


def read_on(pool: ThreadPoolExecutor, path: Path, threads: int) -> None:
    """Reads the file PER_THREAD times on each of so many threads."""
    jobs = [pool.submit(lambda: [load_audio(path) for _ in range(PER_THREAD)]) for _ in range(threads)]
    for job in jobs:
        job.result()


def with_mean_of_numpy(path: Path) -> None:
    def mean(block: Any) -> Any:
        return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)

    with mock.patch.object(mono, "mean_of_channels", mean):
        load_audio(path)


def beside_a_busy_thread(content: bytes) -> float:
    """Seconds that one file takes while another thread counts in Python."""
    done = threading.Event()

    def count() -> None:
        number = 0
        while not done.is_set():
            number += 1

    counting = threading.Thread(target=count)
    counting.start()
    try:
        started = time.perf_counter()
        load_audio(content)
        return time.perf_counter() - started
    finally:
        done.set()
        counting.join()


def write_files(folder: Path) -> dict[str, Path]:
    """The same sound in every format."""
    files = {}
    for name, (format_, subtype, rate, channels) in SOUNDFILE.items():
        files[name] = folder / f"{name.replace(' ', '_').replace(',', '')}.{format_.lower()}"
        soundfile.write(files[name], sound(rate, channels), rate, format=format_, subtype=subtype)
    if missing_packages("av"):
        return files
    for name, (container, codec, rate) in FFMPEG.items():
        files[name] = folder / f"{codec}.{container}"
        files[name].write_bytes(encoded(container, codec, sound(rate, 2), rate))
    return files


def sound(rate: int, channels: int) -> Any:
    """Tones and noise, other ones in each channel: [samples, channels]."""
    t = np.arange(int(SECONDS * rate)) / rate
    tones = [np.sin(2 * np.pi * (300 + 200 * channel) * t * (1 + t / 20)) for channel in range(channels)]
    noise = np.random.default_rng(0).standard_normal((len(t), channels))
    return (0.3 * np.stack(tones, axis=1) + 0.05 * noise).astype(np.float32)


def encoded(container: str, codec: str, samples: Any, rate: int) -> bytes:
    """Stereo samples in a container that FFmpeg writes."""
    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as output:
        track = output.add_stream(codec, rate=rate, layout="stereo", bit_rate=128_000)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout="stereo")
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(track.codec_context.format, "stereo", rate, track.codec_context.frame_size or 960)
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            output.mux(track.encode(piece))
    return stream.getvalue()


if __name__ == "__main__":
    main()
