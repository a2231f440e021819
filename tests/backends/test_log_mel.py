"""The native log-mel front end: accuracy against float64, the same bits everywhere, any rate and number of bins."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astfast.front_end import LOG_FLOOR, PRE_EMPHASIS, FrontEnd, KaldiFbank, analysis_window, mel_filters
from tests import ROOT
from tests.cases.kaldi_float64 import filter_bank, log_mel
from tests.cases.log_mel_error import allowed_error

native = pytest.importorskip("astfast._native")
pytest.importorskip("torchaudio")

TIERS = [tier for tier, missing in native.tiers() if not missing]
LOG_UNITS = KaldiFbank(do_normalize=False)
LENGTHS = [1, 399, 400, 401, 559, 16_000, 163_840, 164_080, 200_000]
SAMPLES = ROOT / "samples"


def run(
    waves: list[np.ndarray], front_end: FrontEnd = LOG_UNITS, tier: str = TIERS[-1], threads: int = 1
) -> np.ndarray:
    """[B, max_length, num_mel_bins]; NaN where nothing was written."""
    out = np.full((len(waves), front_end.max_length, front_end.num_mel_bins), np.nan, np.float32)
    native.LogMel(
        tier,
        front_end.frame_length,
        front_end.frame_shift,
        front_end.fft_length,
        front_end.num_mel_bins,
        PRE_EMPHASIS,
        LOG_FLOOR,
        front_end.shift,
        front_end.scale,
        analysis_window(front_end.frame_length),
        mel_filters(front_end),
    ).run(waves, out, threads)
    return out


def torchaudio_log_mel(wave: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    import torch

    from astfast.backends.reference import ReferenceOps

    return ReferenceOps(1).log_mel([torch.from_numpy(wave)], front_end)[0].numpy()


def noise(n: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(n).standard_normal(n)


def tone(frequency: float) -> Callable[[int], np.ndarray]:
    return lambda n: 0.7 * np.sin(2 * np.pi * frequency / 16_000 * np.arange(n) + 0.5)


def chirp(n: int) -> np.ndarray:
    """20 Hz to 8 kHz over the clip."""
    t = np.arange(n)
    return 0.8 * np.sin(2 * np.pi / 16_000 * (20 * t + 7980 / 2 / n * t**2))


def square(period: int) -> Callable[[int], np.ndarray]:
    return lambda n: np.where(np.arange(n) % period < period / 2, 0.9, -0.9)


def speech_like(n: int) -> np.ndarray:
    """Harmonics of a gliding pitch under formant-like tilt, four syllables a second, and breath noise."""
    t = np.arange(n) / 16_000
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / 16_000
    voice = sum(np.sin(k * phase) / k**1.5 for k in range(1, 30))
    return 0.2 * voice * np.clip(np.sin(2 * np.pi * 4 * t), 0, 1) + 0.002 * noise(n)


SIGNALS: dict[str, Callable[[int], np.ndarray]] = {
    "noise": noise,
    "tone of 100 Hz": tone(100),
    "tone of 1 kHz": tone(1000),
    "tone of 5678.9 Hz": tone(5678.9),
    "chirp": chirp,
    "square of 250 Hz": square(64),
    "square at Nyquist": square(2),
    "speech-like": speech_like,
    "silence": np.zeros,
    "clicks": lambda n: np.where(np.arange(n) % max(1, n // 7), 0.0, 0.9),
    "offset of 0.9": lambda n: 0.9 + 0.01 * noise(n),
    "constant 0.9": lambda n: np.full(n, 0.9),
    "very quiet": lambda n: 1e-4 * noise(n),
    "integers in floats": lambda n: np.round(32768 * noise(n)),
}


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("length", LENGTHS)
def test_error_against_float64(signal: str, length: int) -> None:
    """The project's bar: in the near-empty bins beside a loud tone any float32 transform is off, torchaudio's too."""
    judge(SIGNALS[signal](length), LOG_UNITS)


@pytest.mark.parametrize("signal", ["noise", "tone of 5678.9 Hz", "silence", "clicks"])
def test_thirty_seconds(signal: str) -> None:
    """As DASS reads them, which runs at any length."""
    judge(SIGNALS[signal](480_000), replace(LOG_UNITS, max_length=2998))


def judge(signal: np.ndarray, front_end: KaldiFbank) -> None:
    wave = signal.astype(np.float32)
    exact = log_mel(wave, front_end)
    errors = np.abs(run([wave], front_end)[0] - exact)
    assert (errors <= allowed_error(exact, torchaudio_log_mel(wave, front_end))).all()


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("rate", [8000, 22_050])
def test_other_rates_are_transformed_in_float64(signal: str, rate: int) -> None:
    """What is left is float32's own: an energy, from at most 10 roundings of its sum, and the logarithm's 2 ulp."""
    front_end = KaldiFbank(sampling_rate=rate, num_mel_bins=64, do_normalize=False)
    wave = SIGNALS[signal](rate + 7).astype(np.float32)
    exact = log_mel(wave, front_end)
    rounding = 12 * 2.0**-24 + 2 * np.spacing(np.float32(np.abs(exact).max()))
    assert np.abs(run([wave], front_end)[0] - exact).max() <= rounding


@pytest.mark.parametrize(
    "front_end",
    [
        KaldiFbank(),
        KaldiFbank(max_length=128, mean=-6.845978, std=5.5654526),
        KaldiFbank(max_length=512, mean=-6.6268077, std=5.358466),
        KaldiFbank(max_length=301, num_mel_bins=64),
    ],
)
def test_normalised_features_are_those_of_transformers(front_end: FrontEnd) -> None:
    from transformers import ASTFeatureExtractor

    extractor = ASTFeatureExtractor(
        num_mel_bins=front_end.num_mel_bins, max_length=front_end.max_length, mean=front_end.mean, std=front_end.std
    )
    waves = [speech_like(n).astype(np.float32) for n in (400, 48_000, 163_840, 170_000)]
    theirs = np.asarray(extractor(waves, sampling_rate=16_000, return_tensors="np")["input_values"])
    np.testing.assert_allclose(run(waves, front_end), theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.*g*")), ids=lambda path: path.name)
def test_real_recordings_agree_with_transformers(path: Path) -> None:
    from transformers import ASTFeatureExtractor

    from astfast.audio.inputs import load_audio

    wave = load_audio(path).wave
    theirs = np.asarray(ASTFeatureExtractor()(wave, sampling_rate=16_000, return_tensors="np")["input_values"])
    np.testing.assert_allclose(run([wave], KaldiFbank()), theirs, rtol=0, atol=1e-3)


def test_silence_and_padding_have_their_known_values() -> None:
    clip = run([np.zeros(16_000, np.float32)], KaldiFbank())[0]
    np.testing.assert_allclose(clip[:98], -1.2776, atol=5e-5)
    np.testing.assert_allclose(clip[98:], 0.4670, atol=5e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_every_tier_gives_the_same_bits(length: int) -> None:
    wave = speech_like(length).astype(np.float32)
    first = run([wave], tier=TIERS[0])
    assert np.isfinite(first).all()
    for tier in TIERS[1:]:
        np.testing.assert_array_equal(run([wave], tier=tier), first, err_msg=tier)


@pytest.mark.parametrize("tier", TIERS)
def test_a_clip_has_the_same_bits_alone_in_any_batch_and_with_any_threads(tier: str) -> None:
    front_end = replace(LOG_UNITS, max_length=300)
    waves = [noise(n).astype(np.float32) for n in (1, 400, 41_000, 5000, 48_000, 70_000, 399)]
    alone = np.concatenate([run([wave], front_end, tier) for wave in waves])
    for threads in (1, 2, 5):
        np.testing.assert_array_equal(run(waves, front_end, tier, threads), alone)
        np.testing.assert_array_equal(run(waves[::-1], front_end, tier, threads), alone[::-1])


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 700), frames=st.integers(1, 600))
def test_a_frame_has_the_same_bits_wherever_it_lies(start: int, frames: int) -> None:
    """Its lane, its task and its neighbours change with the clip's beginning and length."""
    whole = run([CLIP])[0]
    part = CLIP[start * 160 : start * 160 + 240 + frames * 160]
    expected = whole[start : start + LOG_UNITS.num_frames(len(part))]
    np.testing.assert_array_equal(run([part])[0, : len(expected)], expected)


CLIP = speech_like(164_080).astype(np.float32)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("rate", "bins"),
    [(8000, 64), (11_025, 40), (16_000, 3), (16_000, 5), (22_050, 128), (32_000, 64), (44_100, 80), (192_000, 17)],
)
def test_any_rate_and_number_of_bins(rate: int, bins: int, tier: str) -> None:
    front_end = KaldiFbank(sampling_rate=rate, num_mel_bins=bins, max_length=110, do_normalize=False)
    wave = noise(rate + 1).astype(np.float32)
    np.testing.assert_allclose(run([wave], front_end, tier)[0], log_mel(wave, front_end), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 64, 127, 400])
def test_frames_of_any_length_read_nothing_beyond_the_clip(length: int, tier: str) -> None:
    """A clip that ends with its last frame, between NaN; transforms of 2 points and more, shifts beyond the frame."""
    rng = np.random.default_rng(length)
    fft_length = max(2, 1 << (length - 1).bit_length())
    window = rng.uniform(0.5, 1, length)
    filters = np.pad(rng.uniform(0.5, 1, (7, fft_length // 2)), ((0, 0), (0, 1)))
    for shift in (1, 3, length, length + 2):
        padded = np.full(length + 36 * shift + 64, np.nan, np.float32)
        wave = padded[32:-32]
        wave[:] = rng.standard_normal(len(wave))
        out = np.full((1, 40, 7), np.nan, np.float32)
        native.LogMel(tier, length, shift, fft_length, 7, 0.97, 1e-12, 0.0, 1.0, window, filters).run([wave], out, 1)
        frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), length)[::shift]
        frames = frames - frames.mean(axis=1, keepdims=True)
        frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        energies = np.abs(np.fft.rfft(frames * window, fft_length)) ** 2 @ filters.T
        assert len(frames) == 37
        np.testing.assert_allclose(np.exp(out[0, :37]), np.maximum(energies, 1e-12), rtol=1e-4)
        np.testing.assert_array_equal(out[0, 37:], 0)


@pytest.mark.parametrize("tier", TIERS)
def test_the_logarithm_is_within_2_ulp(tier: str) -> None:
    """One bin of power 1 under filters of every weight: what comes out is the logarithm of the weights."""
    rng = np.random.default_rng(0)
    smallest_normal = np.float32(2.0**-126)
    everywhere = rng.integers(smallest_normal.view(np.int32), np.float32(np.inf).view(np.int32), 300_000)
    near_one = np.float32(1).view(np.int32) + np.arange(-100_000, 100_000)
    switches = (np.float32(np.sqrt(0.5)) * np.float32(2) ** np.arange(-20, 21, dtype=np.float32)).view(np.int32)
    switches = (switches[:, None] + np.arange(-50, 50)).ravel()
    x = np.concatenate([everywhere, near_one, switches]).astype(np.int32).view(np.float32)
    filters = np.stack([x.astype(np.float64), np.zeros(len(x))], axis=1)
    out = np.empty((1, 1, len(x)), np.float32)
    window = np.array([1.0, 0.0])
    kernel = native.LogMel(tier, 2, 2, 2, len(x), 0.0, float(smallest_normal), 0.0, 1.0, window, filters)
    kernel.run([np.array([1, -1], np.float32)], out, 1)
    exact = np.log(x.astype(np.float64))
    ulp = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    assert (np.abs(out[0, 0] - exact) / np.maximum(ulp, 1e-45)).max() <= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tier": "avx1024"}, "tier"),
        ({"fft_length": 500}, "window|filters|power of two"),
        ({"frame_length": 513}, "longer than the FFT"),
        ({"frame_shift": 0}, "empty"),
        ({"num_mel_bins": 0}, "empty"),
        ({"window": np.ones(399)}, "window"),
        ({"window": np.ones(400, np.float32)}, "window"),
        ({"filters": np.ones((128, 257))}, "Nyquist"),
    ],
)
def test_bad_tables_are_refused(change: dict[str, Any], message: str) -> None:
    arguments = {
        "tier": TIERS[0],
        "frame_length": 400,
        "frame_shift": 160,
        "fft_length": 512,
        "num_mel_bins": 128,
        "pre_emphasis": 0.97,
        "floor": 1e-7,
        "shift": 0.0,
        "scale": 1.0,
    } | change
    length, points = arguments["frame_length"], arguments["fft_length"] // 2
    tables = {"window": np.ones(length), "filters": np.zeros((arguments["num_mel_bins"], points + 1))}
    with pytest.raises((ValueError, TypeError), match=message):
        native.LogMel(**tables | arguments)


def test_the_oracle_is_torchaudio_in_float64() -> None:
    """Up to the window and the filters, which torchaudio rounds to float32 even then."""
    import torch

    from astfast.backends.reference import ReferenceOps

    wave = speech_like(16_000).astype(np.float32)
    theirs = ReferenceOps(1, dtype=torch.float64).log_mel([torch.from_numpy(wave)], LOG_UNITS)[0].numpy()
    np.testing.assert_allclose(theirs[:98], filter_bank(wave, LOG_UNITS), rtol=0, atol=1e-4)
