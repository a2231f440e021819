"""precision="auto": the fastest precision whose scores were seen to stay within 0.01 of float32's.

The check runs the model in both precisions on fixed synthetic clips. That costs a second load, so its verdict is kept
in the user's cache folder, under the checkpoint's fingerprint, the backend and the version of astfast.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astfast.config import ModelConfig
from astfast.environment import cache_folder
from astfast.scores import activate, activation_of

TOLERANCE = 0.01  # of a score


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


def within_tolerance(config: ModelConfig, fast: NDArray[np.float32], exact: NDArray[np.float32]) -> bool:
    """Whether two sets of logits [B, L] give the same scores to within TOLERANCE."""
    activation = activation_of(config)
    return bool(np.abs(activate(fast, activation) - activate(exact, activation)).max() <= TOLERANCE)


def remembered(key: str, check: Callable[[], bool]) -> bool:
    """The verdict of ``check`` under this key, from the cache where it is, else computed and kept."""
    path = cache_folder() / "precision.json"
    verdicts = _read(path)
    if key not in verdicts:
        verdicts[key] = check()
        _write(path, _read(path) | verdicts)
    return verdicts[key]


def _read(path: Path) -> dict[str, bool]:
    try:
        verdicts = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {str(k): v for k, v in verdicts.items() if isinstance(v, bool)} if isinstance(verdicts, dict) else {}


def _write(path: Path, verdicts: dict[str, bool]) -> None:
    """Atomic, and never in the way: a cache folder that can't be written only costs the check again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(verdicts, file, indent=1, sort_keys=True)
        Path(file.name).replace(path)
    except OSError:
        return
