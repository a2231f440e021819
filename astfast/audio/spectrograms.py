"""Ready log-mel spectrograms from a caller -> a checked float32 batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.audio.arrays import to_numpy
from astfast.errors import AudioError

NAME = "<features>"


def check_spectrograms(features: Any, frames: tuple[int, int], mels: int) -> NDArray[np.float32]:
    """Spectrograms [B, frames, mels], or one of them, as a contiguous float32 array [B, frames, mels]; B may be 0.

    ``frames``: the fewest and the most.

    ``features`` is an array, a nested list of numbers, or a tensor of any library, device and real type. Raises
    AudioError for another shape, for what holds no real numbers, and for values that are not finite in float32.
    """
    x = to_numpy(features, NAME)
    if x.ndim == 1 and not x.size:
        return np.empty((0, frames[1], mels), np.float32)
    if x.dtype.kind not in "fiu":
        raise AudioError(f"{NAME}: values of type {x.dtype}: pass an array of float32, as features() returns")
    x = x[None] if x.ndim == 2 else x
    fewest, most = frames
    if x.ndim != 3 or not fewest <= x.shape[1] <= most or x.shape[2] != mels:
        wanted = most if fewest == most else f"{fewest} to {most}"
        raise AudioError(
            f"{NAME}: shape {np.shape(features)}: this model reads (batch, {wanted} frames, {mels} mel bins), as "
            "features() returns"
        )
    with np.errstate(over="ignore", under="ignore"):  # found just below
        spectrograms = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(spectrograms).all():
        raise AudioError(f"{NAME}: NaN or infinity in it: find out where it was made", kind="not_finite")
    return spectrograms
