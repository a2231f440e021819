"""How far a float32 log-mel spectrogram may be from its exact values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating[Any]]


def allowed_error(exact: Matrix, by_torch: Matrix, log_unit: float = 1.0) -> Matrix:
    """Of each element: [frames, mels] exactly and by torch's own ops in float32 -> [frames, mels].

    The largest of 1e-4 of a natural logarithm, twice torch's largest error, and twice what rounding must cost: an
    amplitude is off by some 2^-24 of the frame's loudest, whatever the transform, and the power by twice that. Torch's
    own error alone is no bar for quiet bands, since it changes several-fold with the processor. Rounding counts up to
    1e-3: bands that are quieter than a four-thousandth hold little else. ``log_unit``: units of the spectrogram in one
    of natural logarithm.
    """
    loudest = exact.max(axis=-1, keepdims=True)
    rounding = np.minimum(1e-3, 2 * 2 * 2.0**-24 * np.exp((loudest - exact) / (2 * log_unit)))
    theirs = float(np.abs(by_torch - exact).max())
    bound: Matrix = np.maximum(rounding * log_unit, max(1e-4 * log_unit, 2 * theirs))
    return bound
