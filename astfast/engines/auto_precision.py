"""precision="auto": the fastest precision whose scores were seen to stay within 0.01 of float32's.

The check runs the model in both precisions on fixed synthetic clips. That costs a second load, so its verdict is kept
in the user's cache folder, under the checkpoint's fingerprint, the backend and the version of astfast.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from astfast import cache
from astfast.models.base import ModelConfig

TOLERANCE = 0.01  # of a score
FILE = "precision.json"


def check_clips(config: ModelConfig) -> list[NDArray[np.float32]]:
    """Three fixed clips that fill the model's input: decaying noise bursts, a chirp with harmonics, faint hum."""
    rate, samples = config.front_end.sampling_rate, config.front_end.input_samples
    t = np.arange(samples) / rate  # seconds
    noise = np.random.default_rng(0).standard_normal(samples)
    bursts = 0.3 * noise * np.exp(-6.0 * (t % 0.7))
    phase = 2.0 * np.pi * (120.0 * t + 140.0 * t * t / max(t[-1], 1.0))
    chirp = 0.2 * np.sin(phase) + 0.1 * np.sin(3.0 * phase) + 0.01 * noise
    hum = 0.002 * np.sin(2.0 * np.pi * 50.0 * t)
    return [clip.astype(np.float32) for clip in (bursts, chirp, hum)]


def within_tolerance(fast: NDArray[np.float32], exact: NDArray[np.float32]) -> bool:
    """Whether two sets of scores [B, L] are the same to within TOLERANCE."""
    return bool(np.abs(fast - exact).max() <= TOLERANCE)


def remembered(key: str, check: Callable[[], bool]) -> bool:
    """The verdict of ``check`` under this key, from the cache where it is, else computed and kept."""
    known = cache.read(FILE).get(key)
    if isinstance(known, bool):
        return known
    verdict = check()
    cache.update(FILE, lambda verdicts: verdicts.update({key: verdict}))
    return verdict
