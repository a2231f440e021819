"""Ready log-mel spectrograms from a caller -> a checked float32 batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.audio.arrays import to_numpy
from astfast.errors import AudioError

NAME = "<features>"


def check_spectrograms(features: Any, frames: int, mels: int) -> NDArray[np.float32]:
    """Spectrograms [B, frames, mels], or one of them, as a contiguous float32 array [B, frames, mels]; B may be 0.

    ``features`` is an array, a nested list of numbers, or a tensor of any library, device and real type. Raises
    AudioError for another shape, for what holds no real numbers, and for values that are not finite in float32.
    """
    x = to_numpy(features, NAME)
    if x.ndim == 1 and not x.size:
        return np.empty((0, frames, mels), np.float32)
    if x.dtype.kind not in "fiu":
        raise AudioError(f"{NAME}: values of type {x.dtype}: pass an array of float32, as features() returns")
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[1:] != (frames, mels):
        raise AudioError(
            f"{NAME}: shape {np.shape(features)}: this model reads (batch, {frames} frames, {mels} mel bins), as "
            "features() returns"
        )
    with np.errstate(over="ignore"):  # found just below
        spectrograms = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(spectrograms).all():
        raise AudioError(f"{NAME}: NaN or infinity in it: find out where it was made")
    return spectrograms
