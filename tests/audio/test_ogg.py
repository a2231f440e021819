"""Ogg: chained streams, and what is cut."""

import struct

import numpy as np
import pytest

from astfast.audio.descriptors import taken
from astfast.audio.inputs import load_audio, open_audio
from astfast.audio.ogg import pages
from tests.cases.odd_audio import tone
from tests.cases.recordings import RATE, file_bytes

X = tone(5.0, RATE)
NOISE = file_bytes(np.random.default_rng(0).standard_normal(20 * RATE) / 8, format="OGG", subtype="VORBIS")
OGG = file_bytes(X, format="OGG", subtype="VORBIS")
OTHER = file_bytes(X[::-1].copy(), format="OGG", subtype="VORBIS")
OPUS = file_bytes(X, format="OGG", subtype="OPUS")


@pytest.mark.parametrize(("first", "second"), [(OGG, OTHER), (OGG, OGG), (OPUS, OPUS)])
def test_every_link_of_a_chain_is_read(first: bytes, second: bytes) -> None:
    clip = load_audio(first + second)
    np.testing.assert_allclose(clip.wave, np.concatenate([load_audio(x).wave for x in (first, second)]), atol=1e-6)
    assert clip.notes == ()
    assert open_audio(OGG + OTHER).duration is None
    assert open_audio(OGG).duration == 5.0


def test_junk_between_and_before_the_links_is_passed_over() -> None:
    wave = load_audio(OGG).wave
    np.testing.assert_array_equal(load_audio(b"\x55" * 500 + OGG).wave, wave)
    assert len(load_audio(OGG + b"\x55" * 70_000 + OTHER).wave) == 2 * len(wave)


def test_a_link_of_another_rate_is_told_of() -> None:
    clip = load_audio(OGG + file_bytes(tone(1.0, 44_100), 44_100, format="OGG"))
    assert len(clip.wave) == len(X)
    assert "from 5.0 s on it has 1 channels at 44100 Hz: that is not read" in clip.notes[0].message


def test_a_cut_file_is_read_to_its_last_whole_page_and_said_to_be_cut() -> None:
    found = list(pages(taken(NOISE, "x"), 0))
    assert found[-1].end == len(NOISE)
    middle = found[len(found) // 2]
    clip = load_audio(NOISE[: (middle.start + middle.end) // 2])
    assert len(clip.wave) == pytest.approx(found[len(found) // 2 - 1].time, abs=2000)
    (note,) = clip.notes
    assert "cut off in the middle of an Ogg page" in note.message


def crc(page: bytes) -> int:
    """Checksum of an Ogg page: polynomial 0x04C11DB7, bit by bit."""
    remainder = 0
    for byte in page:
        remainder ^= byte << 24
        for _ in range(8):
            remainder = (remainder << 1) ^ (0x104C11DB7 if remainder & 0x80000000 else 0)
    return remainder


def rewritten(content: bytes, later: int, left_out: range = range(0)) -> bytes:
    """The same stream with times that are ``later`` samples later, and without some of its pages."""
    made = b""
    for number, page in enumerate(pages(taken(content, "x"), 0)):
        if number not in left_out:
            data = bytearray(content[page.start : page.end])
            if 0 < page.time < 1 << 62:
                struct.pack_into("<Q", data, 6, page.time + later)
            struct.pack_into("<I", data, 22, 0)
            struct.pack_into("<I", data, 22, crc(bytes(data)))
            made += data
    return made


@pytest.mark.parametrize("content", [OPUS, OGG], ids=["Opus", "Vorbis"])
@pytest.mark.parametrize("seconds", [0, 1, 3, 10, 100_000])
def test_a_stream_that_begins_late_lacks_nothing(content: bytes, seconds: int) -> None:
    """A recording of a broadcast, or a part that was cut out with its times."""
    rate = 48_000 if content is OPUS else RATE
    clip = load_audio(rewritten(content, seconds * rate), on_damage="error")
    assert len(clip.wave) / RATE == pytest.approx(5.0, abs=0.1)
    assert clip.notes == ()


@pytest.mark.parametrize("later", [0, 10 * RATE])
def test_what_is_lost_of_a_stream_is_told_wherever_it_begins(later: int) -> None:
    count = len(list(pages(taken(NOISE, "x"), 0)))
    clip = load_audio(rewritten(NOISE, later, range(count // 2, count // 2 + 3)))
    (note,) = clip.notes
    assert "damaged in the middle: about 2" in note.message


def test_a_damaged_page_is_told_of() -> None:
    content = bytearray(NOISE)
    found = list(pages(taken(NOISE, "x"), 0))
    content[found[len(found) // 2].start + 100] ^= 0xFF
    clip = load_audio(bytes(content))
    assert 18 * RATE < len(clip.wave) < 20 * RATE
    (note,) = clip.notes
    assert "about 0.9 s are missing" in note.message
