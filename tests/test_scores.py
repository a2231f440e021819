"""Activations, thresholds and top-k, at their bounds."""

import numpy as np
import pytest

from astfast.models.ast.config import AstConfig
from astfast.scores import activate, activation_of
from astfast.tagging.tags import Tagging

ABC = ("a", "b", "c")


def labelled(count: int, problem_type: str | None = None) -> AstConfig:
    return AstConfig(labels=tuple(map(str, range(count))), problem_type=problem_type)


@pytest.mark.parametrize(
    ("config", "asked", "expected"),
    [
        (labelled(527), "auto", "sigmoid"),
        (labelled(526), "auto", "softmax"),
        (labelled(528), "auto", "softmax"),
        (labelled(527, "single_label_classification"), "auto", "softmax"),
        (labelled(50, "multi_label_classification"), "auto", "sigmoid"),
        (labelled(1, "regression"), "auto", "none"),
        (labelled(527, "single_label_classification"), "sigmoid", "sigmoid"),
        (labelled(527), "none", "none"),
    ],
)
def test_activation_of(config: AstConfig, asked: str, expected: str) -> None:
    assert activation_of(config.problem_type, config.num_labels, asked) == expected


def test_unknown_activation_is_named() -> None:
    with pytest.raises(ValueError, match=r"'relu'.*sigmoid"):
        activation_of(None, 3, "relu")


def test_activations_of_extreme_logits() -> None:
    logits = np.array([[-1e4, 0.0, 1e4]], np.float32)
    np.testing.assert_array_equal(activate(logits, "sigmoid"), [[0.0, 0.5, 1.0]])
    np.testing.assert_array_equal(activate(logits, "softmax"), [[0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(activate(logits, "none"), logits)


def test_activations_are_correctly_rounded() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (5, 50)).astype(np.float32)
    exact = logits.astype(np.float64)
    sigmoid = 1 / (1 + np.exp(-exact))
    softmax = np.exp(exact) / np.exp(exact).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(activate(logits, "sigmoid"), sigmoid, rtol=1.2e-7)
    np.testing.assert_allclose(activate(logits, "softmax"), softmax, rtol=1.2e-7)


def test_tags_are_sorted_and_ties_keep_their_order() -> None:
    scores = np.array([0.25, 0.5, 0.25], np.float32)
    assert [tag["label"] for tag in Tagging(ABC, top_k=None).tags(scores)] == ["b", "a", "c"]
    assert Tagging(ABC, top_k=1).tags(scores) == [{"score": 0.5, "label": "b"}]


def test_threshold_is_inclusive() -> None:
    scores = np.array([0.25, 0.5, 0.125], np.float32)
    assert [tag["label"] for tag in Tagging(ABC, threshold=0.25).tags(scores)] == ["b", "a"]
    assert [tag["label"] for tag in Tagging(ABC, threshold=float(np.nextafter(np.float32(0.25), 1))).tags(scores)] == [
        "b"
    ]


@pytest.mark.parametrize("bad", [{"top_k": 0}, {"top_k": -1}, {"aggregate": "median"}])
def test_bad_arguments_are_named(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        Tagging(ABC, **bad)


def test_aggregation() -> None:
    windows = [np.array([0.1, 0.9, 0.3], np.float32), np.array([0.5, 0.1, 0.3], np.float32)]
    np.testing.assert_array_equal(Tagging(ABC, aggregate="max").aggregated(windows), np.float32([0.5, 0.9, 0.3]))
    np.testing.assert_allclose(Tagging(ABC).aggregated(windows), [0.3, 0.5, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(Tagging(ABC).aggregated(windows[:1]), windows[0])
