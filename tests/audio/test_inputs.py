"""Every kind of input gives the right samples; what is refused stands in test_bad_audio.py."""

import io
import threading
import tracemalloc
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

from astfast.audio.arrays import HIGHEST_RATE, LOWEST_RATE
from astfast.audio.inputs import load_audio, open_audio
from astfast.audio.kinds import expand_batch, seconds_read
from astfast.audio.mono import SUSPICIOUS_PEAK
from astfast.errors import AudioError
from tests.cases.recordings import RATE, at_16k, file_bytes

torch = pytest.importorskip("torch")


@pytest.fixture
def wave() -> np.ndarray:
    """Half a second of quiet noise, exact in 16-bit PCM."""
    pcm = np.random.default_rng(0).integers(-3000, 3000, RATE // 2)
    return (pcm / 32768).astype(np.float32)


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


@pytest.mark.parametrize("limit", [1, 5000, 7839, 7840, 8000, 8001])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_limit_gives_the_beginning_of_the_whole(limit: int, rate: int) -> None:
    samples = np.random.default_rng(0).standard_normal(rate // 2).astype(np.float32) / 8
    content = file_bytes(samples, rate, format="WAV", subtype="FLOAT")
    whole = load_audio(content)
    part = load_audio(content, max_samples=limit)
    assert len(whole.wave) == 8000
    np.testing.assert_array_equal(part.wave, whole.wave[:limit])
    assert part.truncated == (limit < 7840)  # a tail of a frame, 160 samples, is none
    assert not whole.truncated
    assert part.duration == pytest.approx(0.5)


def test_only_what_is_needed_of_a_long_file_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hour.flac"
    soundfile.write(path, np.zeros(3600 * RATE, np.int16), RATE)
    decoded = 0
    read = soundfile.SoundFile.buffer_read_into

    def counted(self: soundfile.SoundFile, *args: Any) -> int:
        nonlocal decoded
        frames: int = read(self, *args)
        decoded += frames
        return frames

    monkeypatch.setattr(soundfile.SoundFile, "buffer_read_into", counted)
    clip = load_audio(path, max_samples=10 * RATE)
    assert clip.truncated
    assert (len(clip.wave), clip.duration) == (10 * RATE, 3600.0)
    assert decoded <= seconds_read(10 * RATE, RATE) * RATE + 1


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
    for data in (np.zeros((2, 0)), np.zeros(5), np.zeros((0, 5))):
        samples = SimpleNamespace(data=data, sample_rate=RATE)
        with pytest.raises(AudioError, match="no "):
            load_audio(SimpleNamespace(get_all_samples=lambda samples=samples: samples))


class LongDecoder:
    """Ten minutes, as torchcodec decodes them: in pieces, when asked for."""

    metadata = SimpleNamespace(duration_seconds=600.0, begin_stream_seconds=0.0)

    def __init__(self, wave: np.ndarray) -> None:
        self.wave = wave
        self.asked: list[tuple[float, float | None]] = []

    def get_all_samples(self) -> None:
        raise AssertionError("all of it is decoded")

    def get_samples_played_in_range(self, start: float, stop: float | None) -> SimpleNamespace:
        self.asked.append((start, stop))
        piece = self.wave[int(start * 1000) : None if stop is None else int(stop * 1000)]
        return SimpleNamespace(data=torch.from_numpy(piece[None]), sample_rate=1000)


def test_a_decoder_is_asked_for_what_is_needed_of_it_only() -> None:
    wave = np.random.default_rng(0).standard_normal(600_000).astype(np.float32) / 8
    decoder = LongDecoder(wave)
    clip = load_audio(decoder, target_rate=1000, max_samples=15_000)
    np.testing.assert_array_equal(clip.wave, wave[:15_000])
    assert (clip.truncated, clip.duration) == (True, 600.0)
    assert decoder.asked == [(0.0, 10.0), (10.0, 20.0)]
    np.testing.assert_array_equal(load_audio(decoder, target_rate=1000).wave, wave)
    refused = LongDecoder(wave)
    with pytest.raises(AudioError, match="limit of 60 s"):
        load_audio(refused, target_rate=1000, max_duration=60.0)
    assert len(refused.asked) == 1


def test_a_bare_array_without_a_rate_has_a_note_and_is_16_khz(wave: np.ndarray) -> None:
    clip = load_audio(wave)
    np.testing.assert_array_equal(clip.wave, wave)
    (note,) = clip.notes
    assert note.once
    assert "sampling_rate" in note.message
    assert load_audio(wave, RATE).notes == ()


@pytest.mark.parametrize(
    ("peak", "warns"), [(SUSPICIOUS_PEAK, False), (np.nextafter(np.float32(SUSPICIOUS_PEAK), 99), True)]
)
def test_integer_samples_in_a_float_array_have_a_note(peak: float, warns: bool) -> None:
    clip = load_audio(at_16k(np.float32([0, peak, -peak])))
    assert ["integer samples" in note.message for note in clip.notes] == [True] * warns


@settings(deadline=None)
@given(length=st.integers(1, 50), rate=st.integers(LOWEST_RATE, HIGHEST_RATE))
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
        assert len(list(batch)) == 2
    for rows in (np.stack([wave[::-1], wave]), torch.from_numpy(np.stack([wave[::-1], wave]))):
        batch, single = expand_batch(rows)
        assert not single
        np.testing.assert_array_equal(np.asarray(list(batch)[1]), wave)
    assert expand_batch([]) == ([], False)
    assert expand_batch(np.zeros((0, 16000), np.float32)) == ([], False)
    for nonsense in (None, 3, object()):
        assert expand_batch(nonsense) == ([nonsense], True)


def test_a_2d_array_of_samples_by_channels_is_refused() -> None:
    assert len(expand_batch(np.zeros((32, 2)))[0]) == 32
    with pytest.raises(AudioError, match="samples, channels"):
        expand_batch(np.zeros((33, 32)))
    assert len(expand_batch(np.zeros((33, 33)))[0]) == 33


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


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
def test_ten_seconds_are_one_block(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a thread that runs Python every call of a decoder or resampler waits for the interpreter's lock."""
    calls = []
    read, resample = soundfile.SoundFile.buffer_read_into, soxr.resample
    monkeypatch.setattr(soundfile.SoundFile, "buffer_read_into", lambda *args: calls.append("read") or read(*args))
    monkeypatch.setattr(soxr, "resample", lambda *args, **kw: calls.append("resample") or resample(*args, **kw))
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (441_000, 2))
    clip = load_audio(file_bytes(sound, 44_100, format=form), max_samples=10 * RATE)
    assert (len(clip.wave), clip.truncated) == (10 * RATE, False)
    assert calls == ["read", "resample"]


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM"])
def test_adpcm_has_at_most_a_block_more(subtype: str) -> None:
    """Blocks of 1,017 or 500 samples at 16 kHz: how many of the last one count, libsndfile doesn't tell."""
    tone = 0.3 * np.sin(np.arange(RATE // 20) * 0.1)
    assert 0 <= len(load_audio(file_bytes(tone, format="WAV", subtype=subtype)).wave) - len(tone) < 1017


@pytest.mark.parametrize(("form", "subtype"), [("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", None)])
def test_block_after_block_is_what_one_read_gives(form: str, subtype: str | None) -> None:
    """Seeking after each block changed samples of formats whose frames depend on those before."""
    rate = 48_000 if subtype == "OPUS" else RATE
    noise = np.random.default_rng(0).normal(0, 0.1, 20 * rate).astype(np.float32)
    quality = {"compression_level": 0.99} if form == "MP3" else {}
    content = file_bytes(noise, rate, format=form, subtype=subtype, **quality)
    whole = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    rounding = 2.0**-24 if form == "MP3" else 0  # of float32; seeking was off by 0.3
    np.testing.assert_allclose(load_audio(content, target_rate=rate).wave, whole, rtol=0, atol=rounding)
