"""Every kind of input gives the right samples, every bad one an AudioError that names it and what to do."""

import io
import struct
import sys
import threading
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from astfast import audio, decoding
from astfast.audio import expand_batch, load_audio, open_audio
from astfast.errors import AudioError

RATE = 16_000
torch = pytest.importorskip("torch")


@pytest.fixture
def wave() -> np.ndarray:
    """Half a second of quiet noise, exact in 16-bit PCM."""
    pcm = np.random.default_rng(0).integers(-3000, 3000, RATE // 2)
    return (pcm / 32768).astype(np.float32)


def file_bytes(samples: np.ndarray, rate: int = RATE, **format_: str) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, **format_)
    return stream.getvalue()


def at_16k(samples: Any) -> dict[str, Any]:
    return {"array": samples, "sampling_rate": RATE}


# Files


@pytest.mark.parametrize(
    ("format_", "subtype", "error"),
    [
        ("WAV", "PCM_16", 0),
        ("WAV", "PCM_24", 0),
        ("WAV", "PCM_32", 0),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("WAV", "PCM_U8", 2**-7),
        ("WAV", "ULAW", 2**-7),
        ("FLAC", "PCM_16", 0),
        ("FLAC", "PCM_24", 0),
        ("AIFF", "PCM_16", 0),
        ("OGG", "VORBIS", None),
        ("OGG", "OPUS", None),
        ("MP3", "MPEG_LAYER_III", None),
    ],
)
def test_formats(wave: np.ndarray, format_: str, subtype: str, error: float | None) -> None:
    tone = 0.5 * np.sin(np.arange(len(wave)) * 0.1).astype(np.float32)
    clip = load_audio(file_bytes(tone if error is None else wave, format=format_, subtype=subtype))
    assert clip.wave.dtype == np.float32
    assert abs(len(clip.wave) - len(wave)) <= (2000 if error is None else 0)
    if error is None:  # lossy: the same sound, give or take the codec's delay and noise
        middle = clip.wave[2000:6000]
        assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
        assert np.argmax(np.abs(np.fft.rfft(middle))) == pytest.approx(4000 * 0.1 / (2 * np.pi), abs=1)
    else:
        np.testing.assert_allclose(clip.wave, wave, rtol=0, atol=error)


def test_a_file_by_path_bytes_and_file_object(wave: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "dog.wav"
    path.write_bytes(file_bytes(wave, format="WAV"))
    content = path.read_bytes()
    unseekable = SimpleNamespace(read=io.BytesIO(content).read, seekable=lambda: False)
    kinds = [path, str(path), content, bytearray(content), memoryview(content), io.BytesIO(content), unseekable]
    with path.open("rb") as opened:
        for kind in [*kinds, opened, opened]:  # the second time from its end: the file is read from its beginning
            np.testing.assert_array_equal(load_audio(kind).wave, wave)
        assert not opened.closed
    assert load_audio(path).name == load_audio(str(path)).name == str(path)


@pytest.mark.parametrize("channels", [2, 3, 8])
def test_channels_of_a_file_are_averaged(wave: np.ndarray, channels: int) -> None:
    spread = np.stack([wave * scale for scale in np.linspace(0, 1, channels)], axis=1)
    clip = load_audio(file_bytes(spread, format="WAV", subtype="FLOAT"))
    np.testing.assert_allclose(clip.wave, wave / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_other_rates_are_resampled_as_soxr_resamples_the_whole_clip(rate: int) -> None:
    samples = np.random.default_rng(rate).standard_normal(3 * rate + 1).astype(np.float32) / 8
    clip = load_audio(file_bytes(samples, rate, format="WAV", subtype="FLOAT"))
    np.testing.assert_array_equal(clip.wave, soxr.resample(samples, rate, RATE, quality="HQ"))
    assert clip.duration == pytest.approx(3.0, abs=1e-3)
    np.testing.assert_array_equal(load_audio(samples, sampling_rate=rate).wave, clip.wave)


def test_a_resampled_tone_keeps_its_pitch_and_level() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(44_100) / 44_100).astype(np.float32)
    resampled = load_audio(tone, sampling_rate=44_100).wave
    expected = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(resampled[500:-500], expected[500:-500], atol=1e-4)


@pytest.mark.parametrize("limit", [1, 5000, 7999, 8000, 8001])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_limit_gives_the_beginning_of_the_whole(limit: int, rate: int) -> None:
    samples = np.random.default_rng(0).standard_normal(rate // 2).astype(np.float32) / 8
    content = file_bytes(samples, rate, format="WAV", subtype="FLOAT")
    whole = load_audio(content)
    part = load_audio(content, max_samples=limit)
    assert len(whole.wave) == 8000
    np.testing.assert_array_equal(part.wave, whole.wave[:limit])
    assert part.truncated == (limit < 8000)
    assert not whole.truncated
    assert part.duration == pytest.approx(0.5)


def test_only_what_is_needed_of_a_long_file_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hour.flac"
    soundfile.write(path, np.zeros(3600 * RATE, np.int16), RATE)
    decoded = 0
    read = soundfile.SoundFile.read

    def counted(self: soundfile.SoundFile, *args: Any, **kwargs: Any) -> np.ndarray:
        nonlocal decoded
        block = read(self, *args, **kwargs)
        decoded += len(block)
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    clip = load_audio(path, max_samples=10 * RATE)
    assert clip.truncated
    assert (len(clip.wave), clip.duration) == (10 * RATE, 3600.0)
    assert decoded <= 10 * RATE + decoding.VALUES_PER_BLOCK


def test_a_long_stream_is_never_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    soundfile.write(path, np.zeros(1200 * 44_100, np.int16), 44_100)  # 212 MB as float32
    tracemalloc.start()
    length = sum(len(block) for block in open_audio(path).blocks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert length == 1200 * RATE
    assert peak < 16e6


def test_the_file_is_closed_when_enough_was_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(20 * RATE, np.int16), RATE)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        load_audio(path, max_samples=100)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


# Arrays


@pytest.mark.parametrize(
    ("dtype", "scale"), [("int8", 128), ("int16", 32768), ("int32", 2147483648), ("float16", 1), ("float64", 1)]
)
def test_array_types(dtype: str, scale: int) -> None:
    exact = np.float32([0, 0.5, -0.5, -1, 0.125, 0.9921875])
    for array in (samples := (exact * scale).astype(dtype), torch.from_numpy(samples), samples[::1], samples[None][0]):
        np.testing.assert_array_equal(load_audio(array, sampling_rate=RATE).wave, exact)
        np.testing.assert_array_equal(load_audio(at_16k(array)).wave, exact)


def test_unsigned_bytes_are_centred() -> None:
    np.testing.assert_array_equal(load_audio(at_16k(np.uint8([0, 128, 192]))).wave, np.float32([-1, 0, 0.5]))


def test_tensors_of_every_kind(wave: np.ndarray) -> None:
    tensor = torch.from_numpy(wave)
    for kind in (tensor, tensor.clone().requires_grad_(), tensor.double(), torch.stack([tensor] * 2, dim=1)[:, 0]):
        np.testing.assert_array_equal(load_audio(kind, sampling_rate=RATE).wave, wave)
    np.testing.assert_array_equal(load_audio(at_16k(tensor.bfloat16())).wave, tensor.bfloat16().float().numpy())


def test_a_dict_holds_channels_by_samples(wave: np.ndarray) -> None:
    for channels in (1, 2, 32):
        clip = load_audio({"raw": np.stack([wave] * channels), "sampling_rate": RATE, "path": "dog.wav"})
        np.testing.assert_allclose(clip.wave, wave, atol=1e-7)
        assert clip.name == "dog.wav"
    for samples in (wave.tolist(), [wave.tolist()]):
        np.testing.assert_array_equal(load_audio(at_16k(samples)).wave, wave)


def test_the_callers_array_is_neither_changed_nor_shared(wave: np.ndarray) -> None:
    original = wave.copy()
    load_audio(wave, sampling_rate=RATE).wave[:] = 0
    np.testing.assert_array_equal(wave, original)


def test_33_channels_are_refused_with_a_hint(wave: np.ndarray) -> None:
    with pytest.raises(AudioError, match=r"33 channels.*transpose"):
        load_audio(at_16k(np.zeros((33, 100), np.float32)))


def test_decoders_of_datasets_and_torchcodec(wave: np.ndarray) -> None:
    samples = SimpleNamespace(data=torch.from_numpy(np.stack([wave, wave])), sample_rate=RATE)
    clip = load_audio(SimpleNamespace(get_all_samples=lambda: samples))
    np.testing.assert_array_equal(clip.wave, wave)

    def failing() -> None:
        raise RuntimeError("no audio stream")

    with pytest.raises(AudioError, match="no audio stream"):
        load_audio(SimpleNamespace(get_all_samples=failing))


def test_a_bare_array_without_a_rate_warns_once_and_is_16_khz(wave: np.ndarray) -> None:
    audio._warn_of_assumed_rate.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            np.testing.assert_array_equal(load_audio(wave).wave, wave)
    assert len(caught) == 1
    assert "sampling_rate" in str(caught[0].message)


@pytest.mark.parametrize(("peak", "warns"), [(audio.LOUD, False), (np.nextafter(np.float32(audio.LOUD), 99), True)])
def test_integer_samples_in_a_float_array_warn(peak: float, warns: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_audio(at_16k(np.float32([0, peak, -peak])))
    assert [("integer samples" in str(w.message)) for w in caught] == [True] * warns


@settings(deadline=None)
@given(length=st.integers(1, 50), rate=st.integers(audio.LOWEST_RATE, audio.HIGHEST_RATE))
def test_the_shortest_clips_make_at_least_a_sample_at_any_rate(length: int, rate: int) -> None:
    clip = load_audio(np.full(length, 0.5, np.float32), sampling_rate=rate)
    assert len(clip.wave) >= 1
    assert abs(len(clip.wave) - length * RATE / rate) <= 1
    assert np.isfinite(clip.wave).all()


# Batches


def test_batches_and_single_inputs(wave: np.ndarray) -> None:
    decoder = SimpleNamespace(get_all_samples=None)
    for one in ("a.wav", Path("a.wav"), b"RIFF", bytearray(b"RIFF"), io.BytesIO(), at_16k(wave), decoder, wave):
        batch, single = expand_batch(one)
        assert single
        assert len(batch) == 1
        assert batch[0] is one
    for many in (
        ["a.wav", wave],
        ("a.wav", wave),
        (x for x in ("a.wav", wave)),
        {"a.wav": 1, wave.tobytes(): 2}.keys(),
    ):
        batch, single = expand_batch(many)
        assert not single
        assert len(batch) == 2
    for rows in (np.stack([wave, wave]), torch.from_numpy(np.stack([wave, wave]))):
        batch, single = expand_batch(rows)
        assert not single
        np.testing.assert_array_equal(np.asarray(batch[1]), wave)
    assert expand_batch([]) == ([], False)
    assert expand_batch(np.zeros((0, 16000), np.float32)) == ([], False)
    for nonsense in (None, 3, object()):
        assert expand_batch(nonsense) == ([nonsense], True)


def test_a_2d_array_of_samples_by_channels_is_refused() -> None:
    assert len(expand_batch(np.zeros((32, 2)))[0]) == 32
    with pytest.raises(AudioError, match="samples, channels"):
        expand_batch(np.zeros((33, 32)))
    assert len(expand_batch(np.zeros((33, 33)))[0]) == 33


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


@pytest.mark.parametrize("rate", [audio.LOWEST_RATE, audio.HIGHEST_RATE])
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


def test_damage_that_the_decoder_reports_is_an_error_once_it_is_reached() -> None:
    noise = np.random.default_rng(0).standard_normal(60 * RATE) / 8
    content = file_bytes(noise, format="FLAC")
    cut = content[: len(content) * 9 // 10]
    with pytest.raises(AudioError, match="damaged after"):
        load_audio(cut)
    assert load_audio(cut, max_samples=10 * RATE).truncated
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
    with pytest.raises(AudioError, match="not finite"):
        load_audio(file_bytes(samples, format="WAV", subtype="FLOAT"))
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
        ({"array": np.zeros(9, np.float32)}, "'sampling_rate', this one has 'array'"),
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


def test_torchcodec_reads_what_libsndfile_cannot(wave: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoder(source: str | bytes) -> SimpleNamespace:
        assert source == TEXT
        samples = SimpleNamespace(data=torch.from_numpy(wave[None]), sample_rate=RATE)
        return SimpleNamespace(get_all_samples=lambda: samples)

    module = SimpleNamespace(AudioDecoder=decoder)
    monkeypatch.setattr(decoding.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace(decoders=module))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    np.testing.assert_array_equal(load_audio(TEXT).wave, wave)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)  # there, but its FFmpeg is not
    with pytest.raises(AudioError, match=r"libsndfile: .*; torchcodec: "):
        load_audio(TEXT)


def test_many_threads_read_what_one_reads(tmp_path: Path) -> None:
    paths = []
    for index in range(8):
        paths.append(tmp_path / f"{index}.flac")
        soundfile.write(paths[-1], np.random.default_rng(index).standard_normal(22_050) / 8, 22_050 + index * 1000)
    alone = [load_audio(path).wave for path in paths]
    barrier = threading.Barrier(8)

    def read(index: int) -> np.ndarray:
        barrier.wait()
        return load_audio(paths[index]).wave

    with ThreadPoolExecutor(8) as pool:
        for expected, found in zip(alone, pool.map(read, range(8)), strict=True):
            np.testing.assert_array_equal(found, expected)
