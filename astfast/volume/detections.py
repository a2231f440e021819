"""Which scores of a window are tags, and which tags of windows in a row are one detection."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astfast.audio.windows import is_number
from astfast.errors import AstfastError
from astfast.scores import top_k
from astfast.volume.records import Row

ROUNDING = 1e-6  # seconds, a fraction of a sample
BEST_WINDOWS = 3  # whose mean is the score of a detection


class Merge(NamedTuple):
    """How tags of the same label in windows in a row become one detection; seconds."""

    gap: float = 0.0  # between the end of one window and the start of the next, at most
    shortest: float = 0.0  # detections that are shorter are left out

    @classmethod
    def of(cls, value: float | tuple[float, float]) -> Merge:
        """``(gap, shortest)``, or the gap alone; ValueError for anything else."""
        seconds = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        if not 1 <= len(seconds) <= 2 or not all(is_number(x) and x >= 0 for x in seconds):
            raise ValueError(f"merge is {value!r}: it must be a gap in seconds, or (gap, shortest), both at least 0")
        return cls(*map(float, seconds))


class Selection:
    """Which labels may be tags, and from which score on.

    - ``labels``: of the model; ``top_k``: tags of a window, None for all; ``threshold``: of all labels.
    - ``thresholds``: label -> its own; ``allowed``: the labels that count, None for all.

    Raises ValueError for a label that the model doesn't have.
    """

    def __init__(
        self,
        labels: Sequence[str],
        top_k: int | None = None,
        threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
        allowed: Iterable[str] | None = None,
    ) -> None:
        number = {label: index for index, label in enumerate(labels)}
        limits = np.full(len(labels), -np.inf if threshold is None else threshold, np.float32)
        for label, limit in (thresholds or {}).items():
            limits[_index(number, label, "thresholds")] = limit
        if allowed is not None:
            kept = [_index(number, label, "labels") for label in allowed]
            limits[np.setdiff1d(np.arange(len(labels)), kept)] = np.inf
        self._limits, self._top_k = limits, top_k
        self.by_top_k_alone = bool(np.all(limits == -np.inf))

    def tags(self, scores: NDArray[np.float32]) -> list[tuple[int, float]]:
        """Scores [L] -> (label, score), best first, ties by index."""
        best, indices = top_k(np.where(scores >= self._limits, scores, -np.inf), self._top_k)
        count = int(np.count_nonzero(best > -np.inf))
        return list(zip(indices[:count].tolist(), best[:count].tolist(), strict=True))


def _index(number: Mapping[str, int], label: object, option: str) -> int:
    if not isinstance(label, str) or label not in number:
        lower = {known.lower(): known for known in number}
        near = difflib.get_close_matches(str(label).strip().lower(), lower, 1)
        cure = f"write {lower[near[0]]!r}" if near else "see the labels of the model"
        raise ValueError(f"{option}: the model has no label {label!r}: {cure}")
    return number[label]


def merged(rows: Sequence[Row], merge: Merge) -> list[Row]:
    """Windows of one input, in order -> its detections by start: one tag of one channel each, whose score is the mean
    of the best three of its windows."""
    found: list[Row] = []
    by_label: dict[tuple[int, int | None], list[Row]] = {}
    for row in rows:
        for label, score in row.tags:
            by_label.setdefault((label, row.channel), []).append(row._replace(tags=[(label, score)]))
    for (label, _), of_label in by_label.items():
        run = of_label[:1]
        for row in of_label[1:]:
            if row.start - run[-1].end > merge.gap + ROUNDING:
                found.append(_detection(label, run))
                run = []
            run.append(row)
        found.append(_detection(label, run))
    return sorted(row for row in found if row.end - row.start >= merge.shortest - ROUNDING)


def _detection(label: int, run: Sequence[Row]) -> Row:
    best = sorted((row.tags[0][1] for row in run), reverse=True)[:BEST_WINDOWS]
    return Row(run[0].start, run[-1].end, [(label, float(np.float32(sum(best) / len(best))))], run[0].channel)


def read_thresholds(path: str | Path) -> dict[str, float]:
    """Label -> threshold, from 0 to 1: a JSON object, or CSV lines ``label,threshold``.

    Raises AstfastError for anything else, and for a label that is there twice.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
        if text.lstrip().startswith("{"):
            return json.loads(text, object_pairs_hook=_limits)  # type: ignore[no-any-return]
        return _limits(_csv_pairs(text))
    except (OSError, ValueError, TypeError) as error:
        raise AstfastError(
            f"{path}: not thresholds ({error}): write a JSON object or lines of label,threshold"
        ) from error


def _limits(pairs: Iterable[tuple[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for label, limit in pairs:
        if isinstance(limit, bool) or not 0.0 <= float(limit) <= 1.0:
            raise ValueError(f"{label}: {limit} is not a number from 0 to 1")
        if label in found:
            raise ValueError(f"{label} is there twice")
        found[label] = float(limit)
    return found


def _csv_pairs(text: str) -> Iterable[tuple[str, str]]:
    for number, row in enumerate(csv.reader(text.splitlines())):
        if not row or (number == 0 and row[-1].strip().lower() in ("threshold", "score")):
            continue
        if len(row) != 2:
            raise ValueError(f"line {number + 1} has {len(row)} fields, not 2")
        yield row[0], row[1]


def read_labels(path: str | Path) -> list[str]:
    """The labels that a file lists, one a line. Raises AstfastError for a file that can't be read."""
    try:
        found = [line for line in Path(path).read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise AstfastError(f"{path}: no list of labels ({error}): write one a line") from error
    if not found:
        raise AstfastError(f"{path}: no list of labels (it is empty): write one a line")
    return found
