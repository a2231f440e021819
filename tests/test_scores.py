"""Activations, thresholds and top-k, at their bounds."""

import numpy as np
import pytest

from astfast.models.ast.config import AstConfig
from astfast.scores import activate, activation_of, aggregated, top_k


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


def test_top_k_is_best_first_and_ties_keep_their_order() -> None:
    scores = np.array([[0.25, 0.5, 0.25], [1.0, 0.0, 2.0]], np.float32)
    for k, expected in (
        (1, [[1], [2]]),
        (2, [[1, 0], [2, 0]]),
        (3, [[1, 0, 2], [2, 0, 1]]),
        (None, [[1, 0, 2], [2, 0, 1]]),
    ):
        best, indices = top_k(scores, k)
        np.testing.assert_array_equal(indices, expected)
        np.testing.assert_array_equal(best, np.take_along_axis(scores, indices, 1))


def test_aggregation() -> None:
    windows = np.float32([[0.1, 0.9, 0.3], [0.5, 0.1, 0.3]])
    np.testing.assert_array_equal(aggregated(windows, "max"), np.float32([0.5, 0.9, 0.3]))
    np.testing.assert_allclose(aggregated(windows, "mean"), [0.3, 0.5, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(aggregated(windows[:1], "mean"), windows[0])
