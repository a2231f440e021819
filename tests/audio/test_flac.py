"""FLAC streams: lengths that are unknown or wrong, joined files, and what is behind damage."""

import contextlib
import os

import numpy as np
import pytest

from astfast.audio import flac
from astfast.audio.descriptors import taken
from astfast.audio.inputs import load_audio
from astfast.errors import AudioError
from tests.cases.odd_audio import tone
from tests.cases.recordings import RATE, file_bytes

X = tone(12.0, RATE)
FLAC = file_bytes(X, format="FLAC", subtype="PCM_16")
BLOCK = 4096


def with_total(total: int) -> bytes:
    content = bytearray(FLAC)
    content[21] = content[21] & 0xF0 | total >> 32
    content[22:26] = (total & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(content)


def messages(content: bytes) -> tuple[np.ndarray, list[str]]:
    clip = load_audio(content)
    return clip.wave, [note.message for note in clip.notes]


def expected() -> np.ndarray:
    return load_audio(FLAC).wave


@pytest.mark.parametrize("total", [0, 2**35])
def test_an_unknown_length_is_no_length(total: int) -> None:
    wave, notes = messages(with_total(total))
    np.testing.assert_array_equal(wave, expected())
    assert notes == []
    assert messages(with_total(total) + b"TAG" + bytes(125))[1] == []


@pytest.mark.parametrize("total", [1, BLOCK, 50_000])
def test_samples_behind_the_count_are_read(total: int) -> None:
    wave, notes = messages(with_total(total))
    np.testing.assert_array_equal(wave, expected())
    assert len(notes) == 1
    assert "more is there: all of it is read" in notes[0]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_cut_file_is_read_as_far_as_it_goes(share: float) -> None:
    wave, notes = messages(FLAC[: int(len(FLAC) * share)])
    np.testing.assert_array_equal(wave, expected()[: len(wave)])
    assert len(wave) % BLOCK == 0
    assert len(wave) / len(X) == pytest.approx(share, abs=0.1)
    (note,) = notes
    assert f"cut off after {len(wave) / RATE:.2f} s: {12 - len(wave) / RATE:.2f} s are missing" in note


@pytest.mark.parametrize("length", [1, 40, 10_000])
@pytest.mark.parametrize("total", [len(X), 0])
def test_what_is_behind_damage_is_kept_in_its_place(length: int, total: int) -> None:
    content = bytearray(with_total(total))
    half = len(content) // 2
    content[half : half + length] = bytes(byte ^ 0x5A for byte in content[half : half + length])
    wave, notes = messages(bytes(content))
    assert len(wave) == len(X)
    same = wave == expected()
    damaged = np.flatnonzero(~same)
    assert damaged.size > 0
    assert same[:40_000].all()
    assert same[-40_000:].all()
    (note,) = notes
    assert "damaged at" in note
    assert damaged[0] / RATE - float(note.split("damaged at ")[1].split(" s")[0]) == pytest.approx(
        0, abs=2 * BLOCK / RATE
    )


def test_with_strict_damage_is_an_error() -> None:
    with pytest.raises(AudioError, match=r"cut off after .* on_damage"):
        load_audio(FLAC[: len(FLAC) // 2], on_damage="error")


def test_joined_files_are_read_one_behind_the_other() -> None:
    wave, notes = messages(FLAC + FLAC + FLAC)
    np.testing.assert_array_equal(wave, np.tile(expected(), 3))
    assert len(notes) == 1
    assert "joined" in notes[0]
    wave, notes = messages(with_total(0) * 2)  # libFLAC makes a silent frame of the second header
    assert 0 <= len(wave) - 2 * len(X) <= BLOCK
    np.testing.assert_array_equal(wave[-len(X) :], expected())
    half = FLAC[: len(FLAC) // 2]
    wave, notes = messages(half + FLAC)
    np.testing.assert_array_equal(wave[-len(X) :], expected())
    assert any("missing" in note for note in notes)


def test_junk_between_frames_costs_nothing() -> None:
    content = FLAC[: len(FLAC) // 2]
    file = taken(FLAC, "x")
    info = flac.stream_info(file, 0)
    assert info is not None
    frame = flac.next_frame(file, len(content), len(FLAC), info, 0)
    place = flac.next_frame(file, len(content), len(FLAC), info, 90_000)
    assert frame is None or place is None or place[0] >= frame[0]
    start = (place or frame or (0, 0))[0]
    wave, notes = messages(FLAC[:start] + b"\x11" * 5000 + FLAC[start:])
    np.testing.assert_array_equal(wave, expected())
    assert len(notes) == 1


def test_many_holes_end_in_time() -> None:
    rng = np.random.default_rng(0)
    content = bytearray(FLAC * 4)
    for place in rng.integers(50, len(content) - 1, 3000):
        content[place] ^= 0xFF
    wave, notes = messages(bytes(content))
    assert len(wave) > 0
    assert 1 <= len(notes) <= 2


def test_many_holes_are_scanned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers of frames without frames, then sync codes that are none: each place is looked at a few times, not 200."""
    file = taken(FLAC, "x")
    info = flac.stream_info(file, 0)
    assert info is not None
    first = flac.next_frame(file, 42, len(FLAC), info, 0)
    assert first is not None
    header = FLAC[first[0] : first[0] + flac.LONGEST_HEADER]
    content = FLAC[: first[0]] + header * 150 + b"\xff\xf8\x00" * 2000 + FLAC[first[0] :]
    checked = []
    check = flac.first_sample
    monkeypatch.setattr(flac, "first_sample", lambda data, block: checked.append(0) or check(data, block))
    with contextlib.suppress(AudioError):
        messages(content)
    assert len(checked) < 4 * (150 + 2000 + 100)


def test_noise_is_not_searched_for_frames_read_by_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loud noise has the first byte of a frame of MP3 or AAC hundreds of times: each was read up to six times."""
    noise = np.random.default_rng(0).standard_normal(RATE * 10).clip(-4, 4) / 4.1
    content, reads, pread = file_bytes(noise, format="FLAC", subtype="PCM_16"), [], os.pread
    monkeypatch.setattr(os, "pread", lambda *arguments: reads.append(1) or pread(*arguments))
    assert len(load_audio(content).wave) == RATE * 10
    assert content.count(b"\xff") > 500
    assert len(reads) < 60
