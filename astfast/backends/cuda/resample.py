"""Resampling of waveforms on the GPU: the filter of soxr, which the CPU path uses, as one matrix product.

Between whole-number rates a resampler is the same filter again every ``old`` input and ``new`` output samples (the
rates without their common divisor). Impulses in each of the ``old`` places give all its taps, so that what is computed
here is what soxr (HQ) computes, to 1e-5 of the peak; in the first two milliseconds, where soxr itself settles, to 5%.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from astfast.errors import AudioError
from astfast.pcm import INT16_FULL_SCALE

REACH = 128  # samples of the lower rate that the filter extends to either side; soxr's ends before
MAX_PERIOD = 3200  # of ``old`` and ``new``: the taps of longer ones take seconds to read, and fill memory


class Resampler:
    """Resamples waveforms on ``device`` from ``rate`` to ``target_rate`` Hz.

    Raises AudioError for rates that have no short period in common.
    """

    def __init__(self, rate: int, target_rate: int, device: torch.device) -> None:
        self.old, self.new = periods(rate, target_rate)
        if not can_resample(rate, target_rate):
            raise AudioError(
                f"{rate} Hz is resampled to {target_rate} Hz on the CPU only: pass the clips in host memory, or at a "
                "usual rate"
            )
        matrix = taps(rate, target_rate)  # [width, new]
        self.reach = (len(matrix) - self.old) // 2
        self._matrix = torch.from_numpy(matrix).to(device)

    def samples(self, length: int) -> int:
        """Number of output samples of a waveform of ``length`` samples."""
        return (2 * length * self.new + self.old) // (2 * self.old)  # rounded, halves up, as soxr does

    def needed(self, samples: int) -> int:
        """Number of input samples that the first ``samples`` output samples depend on."""
        return -(-samples // self.new) * self.old + self.reach

    def __call__(self, waves: torch.Tensor) -> torch.Tensor:
        """[B, S], float32 in [-1, 1] or int16 -> [B, samples(S)] float32 in [-1, 1]."""
        waves = waves / INT16_FULL_SCALE if waves.dtype == torch.int16 else waves
        samples = self.samples(waves.shape[1])
        blocks = -(-samples // self.new)
        end = (blocks - 1) * self.old + len(self._matrix)
        padded = F.pad(waves, (self.reach, max(0, end - self.reach - waves.shape[1])))[:, :end]
        frames = padded.unfold(1, len(self._matrix), self.old)  # [B, blocks, width]
        return (frames @ self._matrix).flatten(1)[:, :samples]


def can_resample(rate: int, target_rate: int) -> bool:
    """Whether two rates in Hz have a period in common that is short enough for a ``Resampler``."""
    return max(periods(rate, target_rate)) <= MAX_PERIOD


def periods(rate: int, target_rate: int) -> tuple[int, int]:
    """Period of the filter in input and output samples."""
    divisor = math.gcd(rate, target_rate)
    return rate // divisor, target_rate // divisor


@functools.cache
def taps(rate: int, target_rate: int) -> NDArray[np.float32]:
    """[reach + old + reach, new]: column p makes output sample ``n * new + p`` of inputs from ``n * old - reach``."""
    import soxr

    old, new = periods(rate, target_rate)
    reach = math.ceil(REACH * max(1.0, rate / target_rate))
    apart = -(-(4 * reach + 2 * old) // old) * old + 1  # no block of outputs sees two; each is one place further
    places = -(-2 * reach // old) * old + apart * np.arange(old)
    impulses = np.zeros(places[-1] + 2 * reach + old)
    impulses[places] = 1.0
    response = soxr.resample(impulses, rate, target_rate, quality="HQ")
    matrix = np.zeros((2 * reach + old, new), np.float32)
    for place in places:
        first = (place - reach) // old - 1  # blocks n that the filter reaches the impulse from
        for n in range(first, (place + reach) // old + 1):
            row = place - n * old + reach
            if 0 <= row < len(matrix):
                matrix[row] = response[n * new : (n + 1) * new]
    return matrix
