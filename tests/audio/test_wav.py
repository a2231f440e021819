"""WAV, RF64 and BW64 whose sizes are wrong are read to their end, with a word where that may matter."""

import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from astfast.audio.inputs import load_audio, open_audio
from astfast.errors import AudioError
from tests.cases.odd_audio import RATE, pcm, tone, wav

X = tone(1.5)
DATA = pcm(X)
THIRD = len(DATA) // 6 * 2


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)


def ds64(*sizes: int) -> bytes:
    return b"ds64" + struct.pack("<IQQQI", 28, *sizes, 0)


LONG = (72 + len(DATA), len(DATA), len(X))
LIST_PADDED_TO_4 = b"LIST" + struct.pack("<I", 16) + b"INFOISFT" + struct.pack("<I", 2) + b"ab\0\0"


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (wav(DATA), ""),
        (wav(DATA, riff=0, size=0), "its header was never finished: all 1.5 s behind it are read"),
        (wav(DATA, riff=8, size=0), "never finished"),
        (wav(DATA, riff=36, size=0), "never finished"),
        (wav(DATA, riff=0xFFFFFFFF, size=0), "never finished"),
        (wav(DATA, riff=0xFFFFFFFF, size=0xFFFFFFFF), ""),  # written to a pipe
        (wav(DATA, riff=0x7FFFFFFF, size=0x7FFFFFDB), ""),
        (wav(DATA, size=THIRD), "its header counts 0.5 s, 1.5 s are there: all of it is read"),
        (wav(DATA, riff=36 + THIRD, size=THIRD), "counts 0.5 s"),
        (wav(DATA, behind=chunk(b"id3 ", b"\x80" * 1999)), ""),
        (wav(DATA, behind=b"\x55\xaa\x81" * 600), ""),  # too little to be sound that is left over
        (wav(DATA, behind=bytes(len(DATA))), ""),  # room that a recorder reserved
        (wav(DATA, before=LIST_PADDED_TO_4), ""),
        (wav(DATA, before=chunk(b"bext", bytes(603)) + chunk(b"cue ", bytes(4))), ""),
        (wav(DATA, before=chunk(b"LIST", b"INFO" + chunk(b"INAM", b"caf\xe9 \xff"))), ""),
        (wav(DATA, head=b"RF64", riff=0xFFFFFFFF, size=0xFFFFFFFF, before=ds64(*LONG)), ""),
        (wav(DATA, head=b"BW64", riff=0xFFFFFFFF, size=0xFFFFFFFF, before=ds64(*LONG)), ""),
        (wav(DATA, head=b"RF64", riff=0xFFFFFFFF, size=0xFFFFFFFF, before=ds64(0, 0, 0)), "never finished"),
        (wav(DATA, head=b"BW64", riff=0xFFFFFFFF, size=0xFFFFFFFF, before=ds64(0, 0, 0)), "never finished"),
    ],
)
def test_all_samples_are_read(content: bytes, note: str, tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    path.write_bytes(content)
    for source in (content, path):
        clip = load_audio(source, target_rate=RATE)
        np.testing.assert_array_equal(clip.wave, np.frombuffer(DATA, "<i2") / np.float32(32768))
        assert len(clip.notes) == bool(note)
        assert all(note in given.message for given in clip.notes)
    assert all(given.message.startswith(f"{path}: ") for given in clip.notes)


@pytest.mark.parametrize("size", [len(DATA), 3 * len(DATA)])
def test_a_file_that_is_cut_is_read_as_far_as_it_goes(size: int) -> None:
    clip = load_audio(wav(DATA, size=size)[: 44 + len(DATA) // 2], target_rate=RATE)
    np.testing.assert_array_equal(clip.wave, np.frombuffer(DATA, "<i2")[: len(X) // 2] / np.float32(32768))
    (note,) = clip.notes
    assert f"cut off: its header counts {size / 2 / RATE:.1f} s, 0.8 s are there" in note.message


def test_an_empty_recording_stays_one() -> None:
    for content in (wav(b""), wav(b"", behind=chunk(b"LIST", b"INFO" + bytes(100)))):
        with pytest.raises(AudioError, match="no samples in it"):
            load_audio(content)


def test_a_size_that_wrapped_at_4_gib_is_seen_through(tmp_path: Path) -> None:
    size = 2**32 + 2 * RATE * 60
    path = tmp_path / "night.wav"
    path.write_bytes(wav(b"", riff=(size + 36) % 2**32, size=size % 2**32))
    with path.open("r+b") as file:
        file.truncate(44 + size - 4)  # sparse
        file.seek(0, os.SEEK_END)
        file.write(b"\1\0\2\0")
    started = time.perf_counter()
    stream = open_audio(path, target_rate=RATE, max_duration=1e9)
    assert stream.duration == size / 2 / RATE
    assert "is read" in stream.notes[0].message
    assert len(load_audio(path, target_rate=RATE, max_samples=10 * RATE).wave) == 10 * RATE
    assert time.perf_counter() - started < 2


def test_more_than_4_gib_get_a_header_that_counts_them() -> None:
    from astfast.audio.wav import Header, with_new_header

    part = with_new_header(Header(wav(b"")[20:36], 44, 0), 2**33)
    assert part.prefix[:4] == b"RF64"
    riff, data, frames = struct.unpack_from("<QQQ", part.prefix, 20)
    assert (riff, data, frames) == (len(part.prefix) - 8 + 2**33, 2**33, 2**32)
