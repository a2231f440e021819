"""Options of a call and what they make of scores, at their bounds."""

import numpy as np
import pytest

from astfast.tagging.tags import TagOptions

ABC = ("a", "b", "c")


def test_tags_are_sorted_and_ties_keep_their_order() -> None:
    scores = np.array([0.25, 0.5, 0.25], np.float32)
    assert [tag["label"] for tag in TagOptions(top_k=None).tags(scores, ABC)] == ["b", "a", "c"]
    assert TagOptions(top_k=1).tags(scores, ABC) == [{"score": 0.5, "label": "b"}]


def test_threshold_is_inclusive() -> None:
    scores = np.array([0.25, 0.5, 0.125], np.float32)
    assert [tag["label"] for tag in TagOptions(threshold=0.25).tags(scores, ABC)] == ["b", "a"]
    above = TagOptions(threshold=float(np.nextafter(np.float32(0.25), 1)))
    assert [tag["label"] for tag in above.tags(scores, ABC)] == ["b"]


@pytest.mark.parametrize(
    "bad",
    [
        {"top_k": 0},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_k": True},
        {"threshold": float("nan")},
        {"activation": "tanh"},
        {"aggregate": "median"},
        {"on_error": "ignore"},
    ],
)
def test_bad_arguments_are_named(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        TagOptions(**bad)
