"""Engines under test: transformers and OpenVINO agree with astfast on a tiny model."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import astfast
from astfast.benchmarking import compare, peers


def assert_agree(engines: Iterable[peers.EngineUnderTest], tiny_model: Path, batch: int) -> None:
    """Both precisions, closely: their logits against those of astfast in float32."""
    tagger = astfast.load(tiny_model, device="cpu", precision="float32", threads=1)
    front_end = tagger.config.front_end
    features = np.random.default_rng(0).standard_normal(
        (batch, front_end.max_length, front_end.num_mel_bins), np.float32
    )
    checked = compare.check(list(engines), features, tagger.forward(features))
    assert [entry.engine.precision for entry in checked] == ["float32", "bfloat16"]
    for entry, limit in zip(checked, (1e-5, 0.03), strict=True):
        assert entry.error.relative <= limit
        assert entry.engine.isa
        assert entry.engine.version


def test_transformers(tiny_model: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    engines = peers.transformers_engines(tiny_model, ("bfloat16", "float32", "int8"), threads=1)
    assert_agree(engines, tiny_model, batch=2)


@pytest.mark.parametrize("batch", [1, 3])
def test_openvino(tiny_model: Path, batch: int) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    front_end = astfast.load(tiny_model, device="cpu").config.front_end
    exported = peers.openvino_model(peers.transformers_model(tiny_model), front_end.max_length, front_end.num_mel_bins)
    engines = peers.openvino_engines(exported, ("bfloat16", "float32", "int8"), threads=2, batch=batch)
    assert_agree(engines, tiny_model, batch)


def test_openvino_settings() -> None:
    assert peers.openvino_settings("float32", 2, 1) == {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 2,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    assert peers.openvino_settings("int8", 1, 8) == {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
    }


def test_missing_packages() -> None:
    assert peers.missing_packages("json", "no_such_package", "numpy") == ["no_such_package"]
