"""Tags of windows on a time axis."""

from typing import Any

import numpy as np

from astfast.plotting import timeline as module
from astfast.plotting.timeline import timeline


def segment(start: float, end: float, **scores: float) -> dict[str, Any]:
    return {"start": start, "end": end, "tags": [{"label": label, "score": score} for label, score in scores.items()]}


def test_windows_side_by_side_are_columns() -> None:
    found = timeline([segment(0, 1, dog=0.5, cat=0.2), segment(1, 2, cat=0.9), segment(2, 2.5, dog=0.1)], 2.5, 1.0, 8)
    assert found.labels == ["cat", "dog"]
    assert found.best == [0.9, 0.5]
    np.testing.assert_allclose(found.scores, [[0.2, 0.9, 0.0], [0.5, 0.0, 0.1]])


def test_overlapping_windows_are_averaged() -> None:
    found = timeline([segment(0, 2, dog=0.4), segment(1, 3, dog=0.8)], 3.0, 1.0, 8)
    np.testing.assert_allclose(found.scores, [[0.4, 0.6, 0.8]])


def test_only_rows_that_say_something_are_shown() -> None:
    segments = [segment(0, 1, a=0.9, b=0.06, c=0.04, d=0.5, e=0.3)]
    assert timeline(segments, 1.0, 1.0, 8).labels == ["a", "d", "e", "b"]
    assert timeline(segments, 1.0, 1.0, 2).labels == ["a", "d"]
    assert timeline([segment(0, 1, c=0.01, d=0.02)], 1.0, 1.0, 8).labels == ["d"]


def test_a_window_that_is_longer_than_the_clip_is_all_of_it() -> None:
    found = timeline([segment(0, 0.3, dog=0.7)], 0.3, 5.0, 8)
    np.testing.assert_allclose(found.scores, [[0.7]])


def test_many_windows_share_columns(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "COLUMNS", 10)
    found = timeline([segment(i, i + 1, dog=1.0 if i < 500 else 0.0) for i in range(1_000)], 1_000.0, 1.0, 8)
    np.testing.assert_allclose(found.scores, [[1.0] * 5 + [0.0] * 5], atol=0.02)


def test_what_no_window_covers_is_empty() -> None:
    found = timeline([segment(0, 1, dog=0.5), segment(2, 3, dog=0.5)], 3.0, 1.0, 8)
    assert np.isnan(found.scores[0, 1])
    assert timeline([], 1.0, 1.0, 8).labels == []
