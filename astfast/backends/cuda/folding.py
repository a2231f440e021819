"""Folding of LayerNorm into the weights around it, in float64 and exact in real numbers: one factor a row is left.

P = I - 11^T / D subtracts the mean of D numbers. Every layer that writes the residual stream is projected by P over its
outputs (centred), so the stream's rows are zero-mean and LN(x) = gamma * x * rstd + beta with
rstd = 1 / sqrt(mean(x^2) + eps). gamma goes into the next weight and beta into its bias; that weight is projected by P
over its inputs too, so that what rounding leaves of a row's mean is subtracted as LayerNorm itself would.

``scale`` multiplies the whole stream (a power of two, exact): float16 holds massive activations that way. RMSNorm does
not see it, with eps * scale^2 in place of eps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.front_end import KaldiFbank, analysis_window
from astfast.ops import Embed, Linear, NormLinear

Matrix = NDArray[np.float64]


def float64(x: Any) -> Matrix:
    """A checkpoint's array in float64."""
    return np.asarray(x, dtype=np.float64)


def centred(x: Matrix, axis: int) -> Matrix:
    """x minus its mean along one axis."""
    mean: Matrix = x.mean(axis=axis, keepdims=True)
    return x - mean


def residual_linear(w: Linear, scale: float, centre: bool = True) -> tuple[Matrix, Matrix]:
    """A layer that writes the stream -> (weight [N, K] to be scaled after the product, bias [N] scaled already)."""
    weight, bias = float64(w.weight), float64(w.bias)
    return (centred(weight, 0), scale * centred(bias, 0)) if centre else (weight, scale * bias)


def embedding(w: Embed, scale: float, centre: bool = True) -> tuple[Matrix, Matrix]:
    """Patch projection -> (weight [D, p * p] with mel bins fastest, to be scaled after the product; table [T, D] to be
    added, scaled already: position plus prefix token or bias)."""
    p = w.patch_size
    weight = float64(w.projection.weight).reshape(-1, p, p).transpose(0, 2, 1).reshape(-1, p * p)
    table = float64(w.position).copy()
    prefix = float64(w.prefix)
    table[: len(prefix)] += prefix
    table[len(prefix) :] += float64(w.projection.bias)
    return (centred(weight, 0), scale * centred(table, 1)) if centre else (weight, scale * table)


def rms_linear(w: NormLinear) -> tuple[Matrix, Matrix]:
    """LayerNorm and linear of a zero-mean input -> (weight [N, K], bias [N]) behind a bare RMSNorm."""
    weight, bias = normalised_linear(w)
    return centred(weight, 1), bias


def normalised_linear(w: NormLinear) -> tuple[Matrix, Matrix]:
    """LayerNorm and linear -> (weight [N, K], bias [N]) behind a LayerNorm without gamma and beta."""
    weight = float64(w.linear.weight)
    return weight * float64(w.norm.weight), float64(w.linear.bias) + weight @ float64(w.norm.bias)


def spectral_matrix(front_end: KaldiFbank) -> Matrix:
    """Window and real DFT of a frame y that is folded at its centre, [ceil(frame_length / 2), fft_length].

    Counted from its centre the window is even, so that the sums y[n - 1 - i] + y[i] times the first half of the columns
    are the real parts of bins 0 to fft_length / 2 - 1, and the differences y[n - 1 - i] - y[i] times the second half
    their imaginary parts, but for a phase that the power spectrum does not see: half the products of the DFT. The
    Nyquist bin, which no mel filter reads, is left out.
    """
    n, bins = front_end.frame_length, front_end.fft_length // 2
    i = np.arange((n + 1) // 2)
    phase = 2.0 * np.pi * np.outer(i - (n - 1) / 2, np.arange(bins)) / front_end.fft_length
    window = np.where(2 * i == n - 1, 0.5, 1.0) * analysis_window(n)[i]  # a sample at the centre meets itself
    matrix: Matrix = window[:, None] * np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
    return matrix
