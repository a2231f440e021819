"""MP3 streams: with and without a count, joined, behind junk and cut."""

import numpy as np
import pytest

from astfast.audio import mp3
from astfast.audio.descriptors import taken
from astfast.audio.frames import mp3_frame
from astfast.audio.inputs import load_audio, open_audio
from tests.cases.odd_audio import tone
from tests.cases.recordings import RATE, file_bytes

X = tone(3.0, RATE)
MP3 = file_bytes(X, format="MP3", bitrate_mode="CONSTANT")


def without_info(content: bytes) -> bytes:
    first = mp3_frame(content[:4])
    assert first is not None
    return content[first.size :] if mp3.counted_bytes(taken(content, "x"), 0) else content


def quality(seconds: float, level: float, noise: bool = False) -> bytes:
    samples = np.random.default_rng(0).normal(0, 0.3, int(seconds * RATE)).clip(-1, 1) if noise else tone(seconds, RATE)
    content = file_bytes(samples.astype(np.float32), format="MP3", compression_level=level, bitrate_mode="CONSTANT")
    return without_info(content)


def seconds(content: bytes) -> tuple[float, list[str]]:
    clip = load_audio(content)
    return len(clip.wave) / RATE, [note.message for note in clip.notes]


@pytest.mark.parametrize(
    ("header", "size", "rate"),
    [
        ("fffb9064", 417, 44_100),  # MPEG-1 layer III, 128 kbit/s
        ("fffb9264", 418, 44_100),  # padded
        ("fff34064", 120, 22_050 + 1_950),  # MPEG-2 layer III, 32 kbit/s at 24 kHz
        ("ffe34064", 240, 12_000),  # MPEG-2.5
        ("fffd9064", 522, 44_100),  # layer II, 160 kbit/s
        ("ffff9064", 312, 44_100),  # layer I, 288 kbit/s
    ],
)
def test_sizes_of_frames(header: str, size: int, rate: int) -> None:
    found = mp3_frame(bytes.fromhex(header))
    assert found is not None
    if header in ("fff34064", "ffe34064"):
        header_rate = {"fff34064": 22_050, "ffe34064": 11_025}[header]
        assert found.stream[2] == header_rate
        assert found.size == 72_000 * 32 // header_rate
    else:
        assert (found.size, found.stream[2]) == (size, rate)


@pytest.mark.parametrize("header", ["fff0", "00fb9064", "ffeb9064", "fff99064", "fffb0064", "fffbf064", "fffb9c64"])
def test_what_is_no_header(header: str) -> None:
    assert mp3_frame(bytes.fromhex(header)) is None


def test_the_delay_of_the_encoder_is_cut_where_it_is_known() -> None:
    assert seconds(MP3) == (3.0, [])
    length, notes = seconds(without_info(MP3))
    assert 3.0 < length < 3.15
    assert notes == []
    assert open_audio(MP3).duration == 3.0
    assert open_audio(without_info(MP3)).duration is None  # which libsndfile guesses


def test_joined_files_are_read_one_behind_the_other() -> None:
    wave = load_audio(MP3).wave
    np.testing.assert_allclose(load_audio(MP3 * 3).wave, np.tile(wave, 3), atol=1e-6)
    tag = b"TAG" + bytes(125)
    cover = b"ID3\x03\0\0\0\x05\0\0" + bytes(5 << 14)
    np.testing.assert_allclose(load_audio(MP3 + tag + cover + MP3 + tag).wave, np.tile(wave, 2), atol=1e-6)
    assert seconds(MP3 + without_info(MP3) * 2)[0] == pytest.approx(9.0, abs=0.35)
    assert open_audio(MP3 * 3).duration is None


def test_a_joined_file_of_another_rate_is_told_of() -> None:
    other = file_bytes(tone(1.0, 24_000), 24_000, format="MP3")
    length, notes = seconds(MP3 + other)
    assert length == pytest.approx(3.0, abs=0.01)
    (note,) = notes
    assert "from 3.0 s on it has 1 channels at 24000 Hz: that is not read" in note


@pytest.mark.parametrize("up", [False, True])
def test_a_guess_of_the_length_is_no_length(up: bool) -> None:
    loud, quiet = quality(1.0, 0.0, noise=True), quality(8.0, 0.99)
    content = quiet[: len(quiet) // 8] + loud * 2 if up else loud + quiet
    assert len(load_audio(content, max_duration=60.0).wave) / RATE == pytest.approx(3.0 if up else 9.0, abs=0.4)


@pytest.mark.parametrize("junk", [bytes(300), bytes(5000), b"\x7f" * 777, b"ID3\x03\0\0\0\0\0\x64" + bytes(612)])
def test_frames_are_found_behind_junk(junk: bytes) -> None:
    np.testing.assert_array_equal(load_audio(junk + MP3).wave, load_audio(MP3).wave)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_behind_damage_is_read(seed: int) -> None:
    damaged = bytearray(MP3)
    half, bad = len(damaged) // 2, len(damaged) // 20
    damaged[half : half + bad] = np.random.default_rng(seed).integers(0, 256, bad, dtype=np.uint8).tobytes()
    assert seconds(bytes(damaged))[0] == pytest.approx(3.0, abs=0.35)


def test_half_a_file_is_half_as_long_and_said_to_be() -> None:
    length, notes = seconds(MP3[: len(MP3) // 2])
    assert length == pytest.approx(1.5, abs=0.25)
    (note,) = notes
    assert f"its header counts 3.0 s, {length:.1f} s decode" in note
    assert seconds(without_info(MP3)[: len(MP3) // 2])[1] == []  # nothing tells


@pytest.mark.parametrize("behind", [bytes(60_000), b"APETAGEX" + bytes(3000)])
def test_what_is_behind_the_frames_is_no_sound_and_no_damage(behind: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    assert seconds(MP3 + behind) == (3.0, [])
    assert capfd.readouterr().err == ""  # of libmpg123


def test_random_bytes_hold_no_stream() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 1 << 17, dtype=np.uint8).tobytes()
    assert mp3.find_frames(taken(noise, "x"), 0) is None
    assert mp3.find_frames(taken(b"\xff" * (1 << 17), "x"), 0) is None
    assert mp3.find_frames(taken(b"ID3\x03\0\0\0\0\0\x01 " * 10_000, "x"), 0) is None


def test_what_decodes_of_a_damaged_file_is_counted_whoever_decodes_it() -> None:
    pytest.importorskip("av")
    damaged = bytearray(MP3)
    half, bad = len(damaged) // 2, len(damaged) // 10
    damaged[half : half + bad] = bytes(bad)
    length, (note,) = seconds(bytes(damaged))
    assert 2.0 < length < 2.9
    assert f"its header counts 3.0 s, {length:.1f} s decode" in note
