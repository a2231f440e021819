"""Logits to scores, and the best of them: activation, aggregation and top-k, each defined once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ACTIVATIONS = ("auto", "sigmoid", "softmax", "none")
AGGREGATES = ("mean", "max")
AUDIOSET_LABELS = 527


def activation_of(problem_type: str | None, num_labels: int, asked: str = "auto") -> str:
    """Activation of a model: the one ``asked`` for, else that of the checkpoint's problem_type, else sigmoid for the
    527 AudioSet labels and softmax for any other set.

    Raises ValueError for a name that is not in ACTIVATIONS.
    """
    if asked not in ACTIVATIONS:
        raise ValueError(f"activation {asked!r} is unknown: use one of {', '.join(ACTIVATIONS)}")
    if asked != "auto":
        return asked
    if problem_type is not None:
        return {"multi_label_classification": "sigmoid", "regression": "none"}.get(problem_type, "softmax")
    return "sigmoid" if num_labels == AUDIOSET_LABELS else "softmax"


def activate(logits: NDArray[np.float32], activation: str) -> NDArray[np.float32]:
    """Logits [B, L] -> scores [B, L] float32; computed in float64, so that no logit overflows."""
    x = logits.astype(np.float64)
    if activation == "sigmoid":
        x = np.exp(-np.logaddexp(0.0, -x))
    elif activation == "softmax":
        x = np.exp(x - x.max(axis=-1, keepdims=True))
        x /= x.sum(axis=-1, keepdims=True)
    return x.astype(np.float32)


def aggregated(scores: NDArray[np.float32], how: str) -> NDArray[np.float32]:
    """Scores of the parts of a clip [parts, L] -> of the clip [L]: their "mean" or "max"; one part's, bit for bit."""
    found = scores.max(axis=0) if how == "max" else scores.mean(axis=0, dtype=np.float64)
    with np.errstate(under="ignore"):
        return np.asarray(found, np.float32)


def top_k(scores: NDArray[np.float32], k: int | None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores [..., L] -> the k best [..., k], best first, and their indices; ties by index. None for all L."""
    best = np.argsort(-scores, axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(scores, best, -1), best
