"""Scores to tags: top-k, threshold, aggregation over windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray


class Tag(TypedDict):
    """One label of a clip and its score, as the audio-classification pipeline of transformers returns them."""

    score: float
    label: str


@dataclass(frozen=True)
class Tagging:
    """How scores become tags. Raises ValueError for a top_k below 1 or an unknown way to aggregate."""

    labels: tuple[str, ...]
    top_k: int | None = 5  # None for all labels
    threshold: float | None = None
    aggregate: str = "mean"  # or "max", over the windows of a clip

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}: it must be at least 1, or None for all labels")
        if self.aggregate not in ("mean", "max"):
            raise ValueError(f"aggregate {self.aggregate!r} is unknown: use 'mean' or 'max'")

    @property
    def most(self) -> int:
        """How many tags a clip can have."""
        return len(self.labels) if self.top_k is None else self.top_k

    def aggregated(self, windows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Scores of a clip's windows, each [L] -> of the clip [L]; one window's are kept bit for bit."""
        stacked = np.stack(windows)  # [windows, L]
        scores = stacked.max(axis=0) if self.aggregate == "max" else stacked.mean(axis=0, dtype=np.float64)
        return np.asarray(scores, np.float32)

    def tags(self, scores: NDArray[np.float32]) -> list[Tag]:
        """Scores [L] -> the best labels that reach the threshold, best first, ties by index."""
        best = np.argsort(-scores, kind="stable")[: self.top_k]
        return self.best(scores[best], best)

    def best(self, scores: NDArray[np.float32], labels: NDArray[np.int64]) -> list[Tag]:
        """The ``most`` best scores, best first, and their labels' indices -> those that reach the threshold."""
        return [
            {"score": float(score), "label": self.labels[i]}
            for score, i in zip(scores, labels, strict=True)
            if self.threshold is None or score >= self.threshold
        ]
