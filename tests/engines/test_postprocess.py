"""Activation and top-k on tensors, float for float those of ``astfast.scores``: both compute in float64."""

import numpy as np
import pytest
import torch

from astfast import scores
from astfast.engines import postprocess

RNG = np.random.default_rng(0)
LARGEST = float(np.finfo(np.float32).max)
LOGITS = {
    "random": RNG.normal(0, 4, (300, 527)),
    "small": RNG.normal(0, 1e-3, (20, 35)),
    "one label": RNG.normal(0, 4, (6, 1)),
    "ties": RNG.integers(-2, 3, (40, 50)),
    "all the same": np.full((2, 9), 0.25),
    "signs of zero": [[0.0, -0.0, 0.0, -0.0]],
    "extreme": [[LARGEST, -LARGEST, 0.0, 1.0], [1e4, -1e4, 100.0, -100.0], [88.8, -88.8, -103.9, -104.0]],
    "saturated": [[20.0, 40.0, 37.0, 90.0, -40.0, -90.0, -745.0, -746.0]],
    "denormal scores": -np.linspace(80.0, 110.0, 64)[None],
    "no label": np.zeros((3, 0)),
    "no clip": np.zeros((0, 5)),
}
ACTIVATIONS = [name for name in scores.ACTIVATIONS if name != "auto"]


@pytest.mark.parametrize(
    ("case", "activation"),
    [  # a softmax over no labels has no maximum
        (case, activation)
        for case, logits in LOGITS.items()
        for activation in ACTIVATIONS
        if np.shape(logits)[1] or activation != "softmax"
    ],
)
@pytest.mark.parametrize("k", [1, 3, 5, 1000])
def test_the_best_scores_are_those_of_the_host(case: str, activation: str, k: int) -> None:
    logits = np.asarray(LOGITS[case], np.float32)
    expected = scores.activate(logits, activation)
    best, labels = scores.top_k(expected, k)
    on_device = torch.from_numpy(logits)
    got = postprocess.activate(on_device, activation)
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.numpy(), expected)
    got_best, got_labels = postprocess.top_k_postprocess(k, activation)(on_device)
    assert (got_best.dtype, got_labels.dtype) == (torch.float32, torch.int64)
    np.testing.assert_array_equal(got_labels.numpy(), labels)
    np.testing.assert_array_equal(got_best.numpy(), best)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_clip_that_is_not_finite_is_ordered_as_on_the_host_and_spoils_no_other() -> None:
    logits = np.float32([[1, np.nan, 3, np.inf], [4, 3, 2, 1]])
    for activation in ("sigmoid", "none"):
        best, labels = scores.top_k(scores.activate(logits, activation), 4)
        got_best, got_labels = postprocess.top_k_postprocess(4, activation)(torch.from_numpy(logits))
        np.testing.assert_array_equal(got_labels.numpy(), labels)
        np.testing.assert_array_equal(got_best.numpy(), best)


def test_identity_downloads_everything() -> None:
    x = torch.randn(3, 4)
    (same,) = postprocess.identity(x)
    assert same is x
