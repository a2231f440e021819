"""Logits to scores: the activation, and which one a checkpoint was trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from astfast.models.ast.config import ModelConfig

ACTIVATIONS = ("auto", "sigmoid", "softmax", "none")
AUDIOSET_LABELS = 527


def activation_of(config: ModelConfig, asked: str = "auto") -> str:
    """The activation that turns this model's logits into scores: the one asked for, else the checkpoint's
    problem_type, else sigmoid for the 527 AudioSet labels and softmax for any other set.

    Raises ValueError for a name that is none of ACTIVATIONS.
    """
    if asked not in ACTIVATIONS:
        raise ValueError(f"activation {asked!r} is unknown: use one of {', '.join(ACTIVATIONS)}")
    if asked != "auto":
        return asked
    if config.problem_type is not None:
        return {"multi_label_classification": "sigmoid", "regression": "none"}.get(config.problem_type, "softmax")
    return "sigmoid" if config.num_labels == AUDIOSET_LABELS else "softmax"


def activate(logits: NDArray[np.float32], activation: str) -> NDArray[np.float32]:
    """Logits [B, L] -> scores [B, L] float32; computed in float64, so that no logit overflows."""
    x = logits.astype(np.float64)
    if activation == "sigmoid":
        x = np.exp(-np.logaddexp(0.0, -x))
    elif activation == "softmax":
        x = np.exp(x - x.max(axis=-1, keepdims=True))
        x /= x.sum(axis=-1, keepdims=True)
    return x.astype(np.float32)
