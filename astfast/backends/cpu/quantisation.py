"""int8 quantisation: weights prepared so that outlier channels of activations cost less precision (SmoothQuant)."""

from __future__ import annotations

import numpy as np

from astfast.ops import LayerNorm, Linear, NormLinear

OUTLIER = 2.0  # times the median channel: a channel above it is an outlier
MIGRATION = 0.7  # exponent: how much of an outlier's excess moves from the activations to the weights


def spread_outliers(w: NormLinear) -> NormLinear:
    """SmoothQuant without calibration: outlier channels of the LayerNorm divided, their weights multiplied.

    The layer computes the same function and loses less when it is quantised (Xiao et al. 2023,
    https://arxiv.org/abs/2211.10438). The magnitude of a channel follows from gamma and beta: a normalised value has a
    standard deviation of 1 and rarely exceeds 3.
    """
    gamma, beta, weight = (np.asarray(x, np.float32) for x in (w.norm.weight, w.norm.bias, w.linear.weight))
    largest = 3.0 * np.abs(gamma) + np.abs(beta)
    excess = largest / (OUTLIER * max(float(np.median(largest)), np.finfo(np.float32).tiny))
    outliers = np.flatnonzero(excess > 1.0)
    if not len(outliers):
        return w
    factor = np.ones_like(gamma)
    factor[outliers] = excess[outliers] ** MIGRATION
    weight = weight.copy()
    weight[:, outliers] *= factor[outliers]
    norm = LayerNorm(gamma / factor, beta / factor, w.norm.eps)
    return NormLinear(norm, Linear(weight, w.linear.bias))
