"""Which scores are tags, and which windows in a row are one detection."""

from pathlib import Path

import numpy as np
import pytest

from astfast.errors import AstfastError
from astfast.scores import top_k
from astfast.volume.detections import Merge, Selection, merged, read_labels, read_thresholds
from astfast.volume.records import Row

LABELS = ("dog", "cat", "rain", "wind")
SCORES = np.array([0.5, 0.9, 0.2, 0.9], np.float32)


def test_without_limits_tags_are_the_best_scores() -> None:
    selection = Selection(LABELS, 3)
    assert selection.by_top_k_alone
    best, indices = top_k(SCORES, 3)
    assert selection.tags(SCORES) == list(zip(indices.tolist(), best.tolist(), strict=True))
    assert [label for label, _ in Selection(LABELS).tags(SCORES)] == [1, 3, 0, 2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"threshold": 0.5}, [1, 3, 0]),
        ({"threshold": 0.50001}, [1, 3]),
        ({"threshold": 0.1, "top_k": 1}, [1]),
        ({"thresholds": {"cat": 0.95}}, [3, 0, 2]),
        ({"thresholds": {"cat": 0.95}, "top_k": 2}, [3, 0]),  # a label below its threshold takes no place
        ({"thresholds": {"rain": 0.0}, "threshold": 0.95}, [2]),
        ({"allowed": ["rain", "dog"]}, [0, 2]),
        ({"allowed": []}, []),
    ],
)
def test_limits_are_those_of_each_label(options: dict[str, object], expected: list[int]) -> None:
    assert [label for label, _ in Selection(LABELS, **options).tags(SCORES)] == expected  # type: ignore[arg-type]


def test_labels_that_the_model_does_not_have_are_named() -> None:
    with pytest.raises(ValueError, match="labels: the model has no label 'Dog': write 'dog'"):
        Selection(LABELS, allowed=["Dog"])
    with pytest.raises(ValueError, match="thresholds: the model has no label 'horse': see the labels"):
        Selection(LABELS, thresholds={"horse": 0.5})
    with pytest.raises(ValueError, match="labels: the model has no label 'dgo': write 'dog'"):
        Selection(LABELS, allowed=["dgo"])
    with pytest.raises(ValueError, match="labels: the model has no label 5: see the labels"):
        Selection(LABELS, allowed=[5])  # type: ignore[list-item]


def rows(*scores: float | None, length: float = 2.0, hop: float = 1.0) -> list[Row]:
    """A window a score of label 0; None for a window without it."""
    return [Row(hop * i, hop * i + length, [] if score is None else [(0, score)]) for i, score in enumerate(scores)]


def test_windows_in_a_row_are_one_detection_with_the_mean_of_its_best_three() -> None:
    windows = rows(0.25, 0.5, 0.75, 1.0, None, None, None, None, 0.5)
    assert merged(windows, Merge()) == [Row(0.0, 5.0, [(0, 0.75)]), Row(8.0, 10.0, [(0, 0.5)])]
    assert merged(windows, Merge(gap=3.0)) == [Row(0.0, 10.0, [(0, 0.75)])]
    assert len(merged(windows, Merge(gap=2.99))) == 2
    assert merged(windows, Merge(shortest=2.01)) == [Row(0.0, 5.0, [(0, 0.75)])]
    assert len(merged(windows, Merge(shortest=2.0))) == 2
    assert merged([], Merge()) == []


def test_labels_are_merged_apart_and_come_by_start() -> None:
    windows = [Row(0.0, 1.0, [(1, 0.5)]), Row(1.0, 2.0, [(0, 0.5), (1, 0.25)]), Row(2.0, 3.0, [(0, 0.25)])]
    assert merged(windows, Merge()) == [Row(0.0, 2.0, [(1, 0.375)]), Row(1.0, 3.0, [(0, 0.375)])]


def test_thresholds_and_labels_are_read_from_files(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    for text in (
        '{"dog": 0.5, "a, b": 0.25}',
        'dog,0.5\n"a, b",0.25\n',
        '\ufefflabel,threshold\ndog,0.5\n\n"a, b",0.25',
    ):
        path.write_text(text)
        assert read_thresholds(path) == {"dog": 0.5, "a, b": 0.25}
    for text in (
        "dog;0.5",
        "dog,half",
        '{"dog": null}',
        "{",
        "dog,nan",
        '{"dog": true}',
        "dog,2",
        "dog,0.1\ndog,0.2",
        '{"a": 1, "a": 0}',
    ):
        path.write_text(text)
        with pytest.raises(AstfastError, match="not thresholds"):
            read_thresholds(path)
    path.write_text("dog\n\na, b\n")
    assert read_labels(path) == ["dog", "a, b"]
    path.write_text("\n")
    with pytest.raises(AstfastError, match="it is empty"):
        read_labels(path)
    with pytest.raises(AstfastError, match="no list of labels"):
        read_labels(tmp_path / "missing")
