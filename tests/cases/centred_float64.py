"""The front ends of CED, PaSST and MAEST in float64, each written out from its own formulas: the oracles of all others.

Nothing here comes from astfast: no constant, filter or window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def power_spectra(x: Matrix, window: Matrix, fft_length: int, hop: int, pad_mode: str) -> Matrix:
    """[frames, fft_length // 2 + 1] of frames centred at 0, hop, 2 hop, ..., as torch.stft takes them."""
    before = (fft_length - len(window)) // 2
    window = np.pad(window, (before, fft_length - len(window) - before))
    padded = np.pad(x, fft_length // 2, mode=pad_mode)
    frames = np.lib.stride_tricks.sliding_window_view(padded, fft_length)[::hop]
    return np.abs(np.fft.rfft(frames * window)) ** 2


def hann(length: int, period: int) -> Matrix:
    return 0.5 * (1 - np.cos(2 * np.pi * np.arange(length) / period))


def triangles(corners: Matrix, at: Matrix) -> Matrix:
    """[filters, points] of slopes that are straight in the units of corners and points."""
    rows = []
    for left, centre, right in zip(corners[:-2], corners[1:-1], corners[2:], strict=True):
        rows.append(np.interp(at, [left, centre, right], [0.0, 1.0, 0.0]))
    return np.array(rows)


def ced(wave: NDArray[np.float32], frames: int) -> Matrix:
    """dB of the first ``frames`` frames or of all, [frames, 64], its BatchNorm not applied."""
    x = np.pad(np.asarray(wave, np.float64), (0, max(0, 2400 - len(wave))))
    power = power_spectra(x, hann(512, 512), 512, 160, "reflect")
    mel = np.linspace(0.0, 2595.0 * np.log10(1 + 8000.0 / 700.0), 66)
    filters = triangles(700.0 * (10 ** (mel / 2595.0) - 1), np.linspace(0.0, 8000.0, 257))
    decibel = 10.0 * np.log10(np.maximum(power @ filters.T, 1e-10))[:frames]
    return np.maximum(decibel, decibel.max() - 120.0)


def passt(wave: NDArray[np.float32]) -> Matrix:
    """[frames, 128], normalised."""
    x = np.pad(np.asarray(wave, np.float64), (0, max(0, 4801 - len(wave))))
    x = x[1:] - 0.97 * x[:-1]
    power = power_spectra(x, hann(800, 799), 1024, 320, "reflect")

    def kaldi_mel(frequency: Matrix) -> Matrix:
        return 1127.0 * np.log(1 + frequency / 700.0)

    corners = np.linspace(0.0, kaldi_mel(np.array(15_000.0)), 130)
    filters = np.pad(triangles(corners, kaldi_mel(np.arange(512) * 32_000 / 1024)), ((0, 0), (0, 1)))
    return (np.log(power @ filters.T + 1e-5) + 4.5) / 5.0


def maest(wave: NDArray[np.float32], pad_mode: str = "reflect") -> Matrix:
    """[frames, 96], normalised: of the authors' code, or with "constant" of the hub's extractor before it pads."""
    x = np.asarray(wave, np.float64)
    if pad_mode == "reflect":
        x = np.pad(x, (0, max(0, 3840 - len(x))))
    power = power_spectra(x, hann(512, 512), 512, 256, pad_mode)
    top = 15.0 + 27.0 * np.log(8.0) / np.log(6.4)
    mel = np.linspace(0.0, top, 98)
    corners = np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * 6.4 ** ((mel - 15.0) / 27.0))
    filters = triangles(corners, np.linspace(0.0, 8000.0, 257)) * (2.0 / (corners[2:] - corners[:-2]))[:, None]
    logarithms = np.log10(1 + 10_000.0 * (power @ filters.T))
    return (logarithms - 2.06755686098554) / (2 * 1.268292820667291)
