"""Scores of waveforms that are longer than a model's input: it hears them in parts, all of which count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.scores import aggregated
from astfast.spans import starts_of_parts

FloatArray = NDArray[np.float32]


def scores_in_parts(
    score: Callable[[Any], FloatArray], waves: Any, input_samples: int, rate: int, aggregate: str
) -> FloatArray:
    """``score`` of waveforms of any length -> [B, L]: the ``aggregate`` over the parts of each.

    ``score`` gets a list of waveforms, each at most ``input_samples`` long (or longer by less than a frame), and gives
    their scores.
    """
    starts = [starts_of_parts(len(wave), input_samples, rate) for wave in waves]
    parts = [
        wave[start : start + input_samples] if len(of_wave) > 1 else wave
        for wave, of_wave in zip(waves, starts, strict=True)
        for start in of_wave
    ]
    scores = score(parts)
    if len(parts) == len(waves):
        return scores
    ends = np.cumsum([len(of_wave) for of_wave in starts])
    return np.stack([aggregated(part, aggregate) for part in np.split(scores, ends[:-1])])
