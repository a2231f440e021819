"""Resampling on the GPU against the CPU path's."""

import numpy as np
import pytest
import torch

from astfast.audio.inputs import load_audio
from astfast.backends.cuda.resample import Resampler
from astfast.errors import AudioError
from tests.fakes.recording_runtime import at_rate


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 22050, 32000, 44100, 48000, 96000])
@pytest.mark.parametrize("samples", [3, 1000, 30001])
def test_resampling_on_the_device_is_that_of_the_cpu(rate: int, samples: int) -> None:
    wave = at_rate(rate, 1, 4.0)[0, :samples].numpy()
    expected = load_audio(wave, rate).wave
    got = Resampler(rate, 16000, torch.device("cpu"))(torch.from_numpy(wave)[None])[0].numpy()
    assert len(got) == len(expected)
    error, peak = np.abs(got - expected), np.abs(wave).max()
    assert error[32:].max(initial=0) <= 1e-5 * peak
    assert error[:32].max() <= 0.05 * peak  # the first two milliseconds, where soxr settles


def test_results_depend_on_no_more_samples_than_are_needed() -> None:
    resampler = Resampler(44100, 16000, torch.device("cpu"))
    wave = at_rate(44100, 1)
    needed = resampler.needed(5000)
    assert torch.equal(resampler(wave[:, :needed])[:, :5000], resampler(wave)[:, :5000])
    assert not torch.equal(resampler(wave[:, : needed - 700])[:, :5000], resampler(wave)[:, :5000])


def test_rates_without_a_short_period_are_refused() -> None:
    Resampler(3200 * 5, 16000 - 5, torch.device("cpu"))  # a period of 3,200
    with pytest.raises(AudioError, match="16001 Hz is resampled to 16000 Hz on the CPU only"):
        Resampler(16001, 16000, torch.device("cpu"))
