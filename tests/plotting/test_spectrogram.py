"""Spectrograms of recordings: energy where and when the sound is, in bounded columns however long it is."""

from itertools import pairwise

import numpy as np
import pytest

from astfast.front_end import mel_scale
from astfast.plotting import spectrogram
from astfast.plotting.spectrogram import BANDS, COLUMNS, RANGE, Spectrogram, band_centres, filters

RATE = 16_000


def tone(hertz: float, seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


@pytest.mark.parametrize("hertz", [100, 440, 1_000, 3_000, 7_500])
def test_a_tone_is_loudest_in_its_band(hertz: float) -> None:
    level = Spectrogram(RATE).add([tone(hertz, 1.0)]).decibels()
    centres = band_centres(RATE)
    nearest = np.abs(centres - mel_scale(hertz)).argmin()
    assert np.abs(level[40].argmax() - nearest) <= 1


def test_time_is_where_the_sound_is() -> None:
    wave = np.concatenate([np.zeros(RATE, np.float32), tone(1_000, 0.5), np.zeros(RATE, np.float32)])
    found = Spectrogram(RATE).add([wave])
    level = found.decibels().max(1)
    loud = np.flatnonzero(level > -3) * found.seconds_a_column
    assert loud.min() == pytest.approx(1.0, abs=spectrogram.FRAME)
    assert loud.max() == pytest.approx(1.5, abs=spectrogram.FRAME)
    assert len(level) * found.seconds_a_column == pytest.approx(2.5, abs=found.seconds_a_column)


def test_blocks_of_any_size_give_the_same() -> None:
    wave = np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32)
    whole = Spectrogram(RATE).add([wave]).decibels()
    cuts = [0, 1, 700, 700, 16_000, 44_444, len(wave)]
    parts = Spectrogram(RATE).add(wave[a:b] for a, b in pairwise(cuts)).decibels()
    np.testing.assert_allclose(parts, whole, atol=1e-9)


def test_a_long_recording_has_bounded_columns_of_mean_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrogram, "COLUMNS", 20)
    wave = np.concatenate([tone(1_000, 7.0), 0.01 * tone(1_000, 6.0)])
    found = Spectrogram(RATE).add(np.array_split(wave, 50))
    level = found.decibels().max(1)
    assert 20 <= len(level) <= 40
    assert len(level) * found.seconds_a_column == pytest.approx(13.0, abs=found.seconds_a_column)
    edge = int(7.0 / found.seconds_a_column)
    np.testing.assert_allclose(level[1 : edge - 1], 0.0, atol=0.5)
    np.testing.assert_allclose(level[edge + 2 : -1], -40.0, atol=0.5)


@pytest.mark.parametrize("samples", [1, 100, 1_023, 1_024, 1_025])
def test_a_clip_that_is_shorter_than_a_frame_has_columns(samples: int) -> None:
    level = Spectrogram(RATE).add([np.ones(samples, np.float32)]).decibels()
    assert level.shape == (-(-samples // 160), BANDS)
    assert np.isfinite(level).all()


def test_silence_has_no_level_of_its_own() -> None:
    level = Spectrogram(RATE).add([np.zeros(RATE, np.float32)]).decibels()
    assert (level >= -RANGE).all()
    assert np.isfinite(level).all()


@pytest.mark.parametrize("rate", [8_000, 16_000, 32_000, 48_000])
def test_bands_leave_no_frequency_and_no_band_out(rate: int) -> None:
    matrix = filters(rate, round(spectrogram.FRAME * rate))
    np.testing.assert_allclose(matrix.sum(0), 1.0)
    assert matrix.shape[1] == BANDS
    inner = np.fft.rfftfreq(round(spectrogram.FRAME * rate), 1 / rate) > spectrogram.LOWEST
    assert (matrix[inner].max(1) > 0).all()
    assert COLUMNS > 1_000
