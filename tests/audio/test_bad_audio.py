"""Every bad input is an AudioError that names it and what to do."""

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from astfast.audio import arrays
from astfast.audio.inputs import load_audio, open_audio
from astfast.errors import AudioError
from tests.cases.recordings import RATE, at_16k, file_bytes

torch = pytest.importorskip("torch")


# Bad inputs


def wav_header(channels: int = 1, rate: int = RATE, data: bytes = b"\0\0" * 100) -> bytes:
    fmt = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 * channels, 2 * channels, 16)
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


TEXT = b"this is a text file and no audio at all\n" * 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (TEXT, "not audio"),
        (b"\0" * 1000, "not audio"),
        (wav_header(data=b""), "no samples"),
        (wav_header(channels=0), "zero|0 channels"),
        (wav_header(rate=0), "."),
        (wav_header(rate=999), "999 Hz is not possible"),
        (wav_header(rate=1_000_001), "is not possible"),
        (wav_header()[:30], "."),
    ],
)
def test_bad_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "dog.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=message) as raised:
        load_audio(path)
    assert "dog.wav" in str(raised.value)
    for x in (content, io.BytesIO(content)):
        with pytest.raises(AudioError, match=message):
            load_audio(x)


@pytest.mark.parametrize("rate", [arrays.LOWEST_RATE, arrays.HIGHEST_RATE])
def test_the_lowest_and_highest_rates_are_read(rate: int) -> None:
    assert len(load_audio(wav_header(rate=rate)).wave) == pytest.approx(100 * RATE / rate, abs=1)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "missing.wav", "no such file"),
        (tmp_path, "folder"),
        ("a\0b.wav", "can't be opened"),
        ("x" * 5000, "can't be opened"),
        ("/dev/null", "not a regular file"),
    ]:
        with pytest.raises(AudioError, match=message):
            load_audio(path)


@pytest.mark.parametrize("url", ["http://example.org/a.wav", "https://example.org/a.wav", "s3://b/a", "file:///a.wav"])
def test_urls_are_refused(url: str) -> None:
    with pytest.raises(AudioError, match="URLs are not fetched"):
        load_audio(url)


@pytest.mark.parametrize("format_", ["WAV", "OGG", "MP3", "AIFF"])
def test_a_file_that_ends_early_is_read_as_far_as_it_goes(format_: str) -> None:
    noise = np.random.default_rng(0).standard_normal(10 * RATE) / 8
    content = file_bytes(noise, format=format_)
    whole, half = load_audio(content), load_audio(content[: len(content) // 2])
    assert 3 * RATE < len(half.wave) < 6 * RATE
    np.testing.assert_allclose(half.wave[: 3 * RATE], whole.wave[: 3 * RATE], atol=1e-6)


def test_what_decodes_before_the_end_of_a_damaged_file_is_kept() -> None:
    noise = np.random.default_rng(0).standard_normal(60 * RATE) / 8
    content = file_bytes(noise, format="FLAC")
    clip = load_audio(content[: len(content) * 9 // 10])
    assert len(clip.wave) / RATE == pytest.approx(54, abs=0.5)
    (note,) = clip.notes
    assert "cut off after 5" in note.message
    for format_ in ("OGG", "MP3"):
        with pytest.raises(AudioError):
            load_audio(file_bytes(noise[:RATE], format=format_)[:100])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e13])
@pytest.mark.parametrize("position", [0, 12_345, 299_999])
def test_samples_that_are_not_finite_are_found(bad: float, position: int) -> None:
    samples = np.zeros(300_000, np.float32)
    samples[position] = bad
    for x in (at_16k(samples), at_16k(np.stack([np.zeros_like(samples), samples]))):
        with pytest.raises(AudioError, match=f"at {position / RATE:.3f} s"):
            load_audio(x)
    content = file_bytes(samples, format="WAV", subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        load_audio(content, on_damage="error")
    if position:
        assert len(load_audio(content).wave) == position
    else:
        with pytest.raises(AudioError, match="not finite"):
            load_audio(content)
    with pytest.raises(AudioError, match="not finite"):
        load_audio(np.float64([0, 1e300]), sampling_rate=RATE)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 3, 4), np.float32), "3-D"),
        (np.zeros((2, 100), np.float32), "one clip is 1-D"),
        (np.float32(1), "0-D"),
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros(100, np.complex64), "complex64"),
        (np.zeros(100, bool), "bool"),
        (np.zeros(100, np.int64), "int64"),
        (np.zeros(100, np.uint16), "uint16"),
        (np.array(["a"]), "<U1"),
        (np.array([object()]), "object"),
        (torch.zeros(100, dtype=torch.complex64), "complex64"),
        (at_16k(np.zeros((2, 3, 4), np.float32)), "3-D"),
        (at_16k(np.zeros((2, 0), np.float32)), "no samples"),
        (at_16k([[1.0], [1.0, 2.0]]), "NumPy"),
        (at_16k("dog.wav"), "0-D"),
        (at_16k(None), "needs 'array'"),
        ({"array": np.zeros(9, np.float32)}, "'path' of a file, this one has 'array'"),
        ({"sampling_rate": RATE}, "needs 'array'"),
        ({}, "nothing"),
        (None, "NoneType"),
        (3.5, "float.*NumPy array"),
        ([0.1, 0.2], "list.*NumPy array"),
        (object(), "not an audio input"),
        (np.ndarray, "not an audio input"),
        (io.StringIO("text"), "binary mode"),
    ],
)
def test_bad_arrays_and_objects(x: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        load_audio(x, sampling_rate=RATE)


@pytest.mark.parametrize(
    "rate", [0, -16_000, 999, 1_000_001, 44_100.5, np.nan, np.inf, 1e30, "16000", "high", True, 1j, [16_000], object()]
)
def test_bad_rates(rate: Any) -> None:
    samples = np.zeros(100, np.float32)
    with pytest.raises(AudioError, match="sampling"):
        load_audio(samples, sampling_rate=rate)
    with pytest.raises(AudioError, match="sampling"):
        load_audio({"array": samples, "sampling_rate": rate})


@pytest.mark.parametrize("rate", [16_000.0, np.int64(16_000), np.float32(16_000), torch.tensor(16_000)])
def test_rates_of_any_number_type(rate: Any) -> None:
    assert len(load_audio(np.zeros(100, np.float32), sampling_rate=rate).wave) == 100


def test_closed_file_objects_and_bad_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_header())
    opened = path.open("rb")
    opened.close()
    with pytest.raises(AudioError, match="closed"):
        load_audio(opened)
    with path.open() as text, pytest.raises(AudioError, match="binary mode"):
        load_audio(text)


def test_a_decompression_bomb_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "silence.flac"
    soundfile.write(path, np.zeros(100 * RATE, np.int16), RATE)
    assert len(load_audio(path, max_duration=100).wave) == 100 * RATE
    with pytest.raises(AudioError, match=r"limit of 99 s.*max_duration"):
        load_audio(path, max_duration=99)
    assert load_audio(path, max_duration=99, max_samples=RATE).truncated  # little is decoded
    with pytest.raises(AudioError, match="limit"):
        load_audio(path, max_duration=20, max_samples=99 * RATE)


def test_a_length_that_the_header_hides_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfile.SoundFile, "frames", property(lambda self: 2**63 - 1))
    stream = open_audio(wav_header(data=b"\0\0" * RATE))
    assert stream.duration is None
    assert sum(map(len, stream.blocks)) == RATE
    with pytest.raises(AudioError, match="limit"):
        load_audio(wav_header(data=b"\0\0" * RATE), max_duration=0.99)


# Packages and threads


@pytest.mark.parametrize(("package", "x"), [("soundfile", wav_header()), ("soxr", wav_header(rate=8000))])
def test_missing_packages_are_named(package: str, x: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(AudioError, match=f"pip install {package}"):
        load_audio(x)
    assert len(load_audio(at_16k(np.zeros(10, np.float32))).wave) == 10  # which needs neither


@pytest.mark.parametrize(
    "content", [b"NIST_1A\n   1024\n", b"\xf0\x7e\0\1\0\0\x10" + b"\x7b" * 4000, b".sd\0", b"ajkg"]
)
def test_formats_that_are_no_documented_ones(content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """TIMIT's "shorten", and sample dumps, whose reader in libsndfile prints on standard output."""
    with pytest.raises(AudioError):
        load_audio(content + bytes(2000))
    assert capfd.readouterr().out == ""
