"""int8 quantisation: weights prepared so that outlier channels of activations cost less precision.

SmoothQuant (Xiao et al. 2023, https://arxiv.org/abs/2211.10438) without calibration: outlier channels of a layer's
input are divided by a factor and their weights multiplied by it, so that the layer computes the same function and loses
less when it is quantised. How large a channel gets follows from the weights that make it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from astfast.ops import LayerNorm, Linear, NormLinear

OUTLIER = 2.0  # times the median channel: a channel above it is an outlier
MIGRATION = 0.7  # exponent: how much of an outlier's excess moves from the activations to the weights

Floats = NDArray[np.float32]


def spread_outliers(w: NormLinear) -> NormLinear:
    """The layer with outlier channels of its LayerNorm divided: a normalised value has a standard deviation of 1 and
    rarely exceeds 3."""
    gamma, beta = (np.asarray(x, np.float32) for x in (w.norm.weight, w.norm.bias))
    factors = _factors(np.float32(3.0) * np.abs(gamma) + np.abs(beta))
    if factors is None:
        return w
    norm = LayerNorm(gamma / factors, beta / factors, w.norm.eps)
    return NormLinear(norm, Linear(np.asarray(w.linear.weight, np.float32) * factors, w.linear.bias))


def spread_input_outliers(w: Linear, input_magnitudes: Floats) -> tuple[Linear, Floats | None]:
    """The layer with outlier columns of its weight multiplied, and what its input's columns have to be multiplied by in
    exchange; None where there are no outliers. ``input_magnitudes`` [K]: as ``output_magnitudes`` of the layer before
    gives them."""
    factors = _factors(input_magnitudes)
    if factors is None:
        return w, None
    return Linear(np.asarray(w.weight, np.float32) * factors, w.bias), 1.0 / factors


def output_magnitudes(w: NormLinear) -> Floats:
    """How large the outputs of a layer get [N]: over normalised inputs each has the mean W beta + b, and as standard
    deviation the norm of its row of W gamma."""
    gamma, beta, weight, bias = (
        np.asarray(x, np.float32) for x in (w.norm.weight, w.norm.bias, w.linear.weight, w.linear.bias)
    )
    magnitudes: Floats = np.float32(3.0) * np.sqrt(np.square(weight) @ np.square(gamma)) + np.abs(weight @ beta + bias)
    return magnitudes


def _factors(magnitudes: Floats) -> Floats | None:
    """What channels that get so large are to be divided by; None where none is an outlier."""
    excess: Floats = magnitudes / np.float32(OUTLIER * max(float(np.median(magnitudes)), np.finfo(np.float32).tiny))
    if not (excess > 1.0).any():
        return None
    factors: Floats = np.power(np.maximum(excess, 1.0), MIGRATION, dtype=np.float32)
    return factors
