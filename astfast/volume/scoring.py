"""A batch of windows -> what outputs need of each: its tags, and scores and embeddings where they are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astfast.engines.base import Batch, Engine
from astfast.volume.detections import Selection


class Values(NamedTuple):
    """What the model says of one window."""

    tags: list[tuple[int, float]]  # (index of the label, score), best first
    scores: NDArray[np.float16] | None = None  # [L]
    embedding: NDArray[np.float32] | None = None  # [D]


class Scoring:
    """The engine's call of a run.

    - ``selection``: which scores are tags; ``top_k``: its number of tags.
    - ``whole``: whether windows may be longer than the model's input, so that they are scored in parts.
    - ``scores``, ``embeddings``: whether these are wanted.
    """

    def __init__(
        self,
        engine: Engine,
        selection: Selection,
        top_k: int | None,
        activation: str = "auto",
        whole: bool = False,
        scores: bool = False,
        embeddings: bool = False,
    ) -> None:
        self._engine, self._selection, self._activation = engine, selection, activation
        self._top_k = len(engine.labels) if top_k is None else top_k
        self._whole, self._scores, self._embeddings = whole, scores, embeddings

    def __call__(self, batch: Batch) -> Iterable[Values]:
        """One value for each window of the batch."""
        if not (self._whole or self._scores or self._embeddings) and self._selection.by_top_k_alone:
            best, indices = self._engine.top_k(batch, self._top_k, self._activation)  # found where the model runs
            rows = zip(indices.tolist(), best.tolist(), strict=True)
            return [Values(list(zip(labels, scores, strict=True))) for labels, scores in rows]
        embeddings: Any = itertools.repeat(None, len(batch))
        if self._embeddings:
            scores, embeddings = self._engine.scores_and_embeddings(batch, self._activation)  # [B, L], [B, D]
        else:
            score = self._engine.window_scores if self._whole else self._engine.scores
            scores = score(batch, self._activation)
        return [
            Values(self._selection.tags(row), row.astype(np.float16) if self._scores else None, embedding)
            for row, embedding in zip(scores, embeddings, strict=True)
        ]
