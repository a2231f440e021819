"""Tags of windows -> scores by label and time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

COLUMNS = 1_600
LEAST = 0.05  # score that a label is shown for, but for the best one


class Timeline(NamedTuple):
    """Scores of the labels that are shown."""

    labels: list[str]  # the one with the highest score first
    best: list[float]  # its highest score in any window
    scores: NDArray[np.float64]  # [labels, columns]: the mean of the windows over a column; nan where there is none


def timeline(segments: Iterable[Mapping[str, Any]], duration: float, hop: float, rows: int) -> Timeline:
    """The ``rows`` labels with the highest scores over all windows, at least one and else those of LEAST and more.

    ``segments``: of ``Tagger.segments``; a label that is not among the tags of a window counts 0 there. ``duration``,
    ``hop``: seconds, of the recording and from a window to the next.
    """
    count = int(np.clip(np.ceil(duration / hop), 1, COLUMNS))
    edges = np.linspace(0.0, duration, count + 1)
    sums: dict[str, NDArray[np.float64]] = {}
    best: dict[str, float] = {}
    windows = np.zeros(count)
    for segment in segments:
        # columns whose middle is in the window, at least the one that its middle is in
        first, last = np.searchsorted((edges[:-1] + edges[1:]) / 2, [segment["start"], segment["end"]])
        middle = min(count - 1, int((segment["start"] + segment["end"]) / 2 / duration * count))
        covered = slice(min(first, middle), max(last, middle + 1))
        windows[covered] += 1
        for tag in segment["tags"]:
            label = tag["label"]
            sums.setdefault(label, np.zeros(count))[covered] += tag["score"]
            best[label] = max(best.get(label, 0.0), tag["score"])
    labels = sorted(best, key=lambda label: -best[label])[:rows]
    labels = labels[:1] + [label for label in labels[1:] if best[label] >= LEAST]
    scores = np.array([sums[label] for label in labels]).reshape(len(labels), count)
    shown = [best[label] for label in labels]
    return Timeline(labels, shown, np.where(windows > 0, scores / np.maximum(windows, 1), np.nan))
