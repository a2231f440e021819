"""Spectrogram of a recording of any length, in a bounded number of columns."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from astfast.front_end import mel_scale

COLUMNS = 1_600  # at least, of a recording that has as many frames; twice as many at most
FRAME, SHIFT = 0.064, 0.010  # seconds
FRAMES = 4_096  # that are transformed at a time
BANDS = 96
LOWEST = 40.0  # Hz
RANGE = 80.0  # dB below the loudest that are told apart


class Spectrogram:
    """Power by time and mel band. Once there are too many columns, two by two become their mean.

    ``rate``: Hz, of the audio that ``add`` gets.
    """

    def __init__(self, rate: int) -> None:
        self.rate, self.samples = rate, 0
        self._shift, self._length = round(SHIFT * rate), round(FRAME * rate)
        self._window = np.hanning(self._length)
        self._filters = filters(rate, self._length)  # [F, bands]
        self._rest = np.empty(0, np.float32)  # samples of frames to come
        self._frames = np.empty((0, BANDS))  # of columns that are not whole
        self._frames_a_column = 1
        self._columns = np.empty((0, BANDS))

    def add(self, blocks: Iterable[NDArray[np.float32]]) -> Spectrogram:
        """Takes audio in; returns itself."""
        for block in blocks:
            self.samples += len(block)
            self._rest = np.concatenate([self._rest, block])
            while len(self._rest) >= self._shift * FRAMES + self._length:
                self._transform(FRAMES)
        return self

    def decibels(self) -> NDArray[np.float64]:
        """Level below the loudest, [columns, bands], once all audio is there; the first column is at 0 s."""
        self._rest = np.pad(self._rest, (0, self._length))
        self._transform(1 + (len(self._rest) - self._length - 1) // self._shift)
        self._append(np.repeat(self._frames[-1:], -len(self._frames) % self._frames_a_column, axis=0))
        level = 10.0 * np.log10(np.maximum(self._columns, 1e-12))
        below: NDArray[np.float64] = np.maximum(level - level.max(), -RANGE)
        return below

    @property
    def seconds_a_column(self) -> float:
        """Time from a column to the next."""
        return self._frames_a_column * self._shift / self.rate

    def _transform(self, frames: int) -> None:
        views = np.lib.stride_tricks.sliding_window_view(self._rest, self._length)[:: self._shift][:frames]
        spectrum = np.fft.rfft(views * self._window)  # [frames, F]
        self._rest = self._rest[frames * self._shift :]
        self._append((spectrum.real**2 + spectrum.imag**2) @ self._filters)

    def _append(self, frames: NDArray[np.float64]) -> None:
        """Frames [frames, bands], to columns."""
        self._frames = np.concatenate([self._frames, frames])
        while len(self._frames) >= self._frames_a_column:
            count = min(len(self._frames) // self._frames_a_column, 2 * COLUMNS - len(self._columns))
            taken, self._frames = np.split(self._frames, [count * self._frames_a_column])
            columns = taken.reshape(count, self._frames_a_column, BANDS).mean(1)
            self._columns = np.concatenate([self._columns, columns])
            if len(self._columns) == 2 * COLUMNS:
                self._columns = self._columns.reshape(COLUMNS, 2, BANDS).mean(1)
                self._frames_a_column *= 2


def filters(rate: int, length: int) -> NDArray[np.float64]:
    """Triangles on the mel scale over the bins of a spectrum, [length // 2 + 1, BANDS], that add up to one; none is
    narrower than a bin."""
    frequencies = np.fft.rfftfreq(length, 1 / rate)
    centres = band_centres(rate)
    bins = mel_scale(frequencies)  # [F]
    width = np.maximum(centres[1] - centres[0], np.interp(centres, bins[:-1], np.diff(bins)))
    triangles = np.maximum(0.0, 1.0 - np.abs(bins[:, None] - centres) / width)
    found: NDArray[np.float64] = triangles / triangles.sum(0)
    return found


def band_centres(rate: int) -> NDArray[np.float64]:
    """Middles of the bands on the mel scale, [BANDS]."""
    return np.linspace(mel_scale(LOWEST), mel_scale(rate / 2), BANDS)
