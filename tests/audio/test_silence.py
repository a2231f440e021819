"""What libraries of C print about damaged files stays off the process's streams; what others print doesn't."""

import subprocess
import sys

import pytest

from astfast.audio.silence import silence_decoders

DAMAGED = """
import ctypes, io, random, sys, threading
import numpy as np, soundfile
from astfast.audio import silence
from astfast.audio.inputs import load_audio
from astfast.errors import AudioError
from tests.fuzz.mutate import mutated

files = []
for rate, channels in ((44_100, 2), (16_000, 1), (22_050, 1)):
    stream, noise = io.BytesIO(), np.random.default_rng(0).uniform(-0.5, 0.5, (rate // 2, channels))
    soundfile.write(stream, noise, rate, format="MP3", subtype="MPEG_LAYER_III")
    files.append(stream.getvalue())
rng = random.Random(0)
"""
DECODE = """
for _ in range(200):
    try:
        load_audio(mutated(rng.choice(files), files, [b"ID3", b"Xing"], rng))
    except AudioError:
        pass
"""
BESIDE = """
fputs, stderr, done = ctypes.CDLL(None).fputs, ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stderr"), threading.Event()
def write():
    for number in range(2000):
        fputs(b"C\\n", stderr)
        sys.stderr.write("Python\\n")
        done.wait(0.0001)
writer = threading.Thread(target=write)
writer.start()
"""


def printed(script: str) -> tuple[str, str]:
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the lines appear")
def test_damaged_mp3_files_print_nothing_and_other_threads_lose_no_line() -> None:
    stdout, stderr = printed(DAMAGED + BESIDE + DECODE + "writer.join()")
    assert stdout == ""
    assert sorted(set(stderr.splitlines())) == ["C", "Python"]
    assert (stderr.count("C\n"), stderr.count("Python\n")) == (2000, 2000)


def test_the_decoder_would_print() -> None:
    assert "error:" in printed(DAMAGED + "silence.silence_decoders = lambda: 0" + DECODE)[1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the lines appear")
def test_both_streams_of_the_library_are_redirected_once() -> None:
    import soundfile  # noqa: F401

    assert silence_decoders() == 2
    assert silence_decoders() == 2
