"""The check behind precision="auto": few tokens, and weights that are packed when they are used."""

from pathlib import Path

import numpy as np
import pytest
import torch

from astfast.backends.cpu.ops import PRECISIONS, CpuOps
from astfast.engines import auto_precision
from astfast.engines.eager import EagerEngine
from astfast.models import recognise
from tests.cases import checkpoints, dass, timm_vit


@pytest.fixture(scope="module")
def many_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = checkpoints.random_model(seed=3, num_hidden_layers=2, max_length=900)
    return checkpoints.write_v4(model, tmp_path_factory.mktemp("many"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_packed_when_used_give_the_same_bits(many_tokens: Path, precision: str) -> None:
    model = recognise.load(many_tokens)
    assert model.config.num_tokens > auto_precision.CHECKED_TOKENS
    engine = EagerEngine(CpuOps(model.config.num_attention_heads, precision, 2), model)
    packed = auto_precision.check_scores(model, engine.ops, engine.weights)
    ops = auto_precision.PackedWhenUsed(CpuOps(model.config.num_attention_heads, precision, 2))
    np.testing.assert_array_equal(
        auto_precision.check_scores(model, ops, model.family.pack(ops, model.weights)), packed
    )
    assert packed.shape == (3, model.config.num_labels)


def test_few_tokens_are_a_part_of_the_clip(many_tokens: Path) -> None:
    """Other scores than those of whole clips, which they resemble as far as precisions go."""
    model = recognise.load(many_tokens)
    scores = {}
    for precision in ("float32", "bfloat16"):
        engine = EagerEngine(CpuOps(model.config.num_attention_heads, precision, 2), model)
        scores[precision] = auto_precision.check_scores(model, engine.ops, engine.weights)
        whole = engine.scores(auto_precision.check_clips(model.config))
        assert (scores[precision] != whole).any()
    assert 0 < np.abs(scores["bfloat16"] - scores["float32"]).max() < 0.05


def test_models_of_few_tokens_are_checked_on_whole_clips(tiny_model: Path) -> None:
    model = recognise.load(tiny_model)
    assert model.config.num_tokens <= auto_precision.CHECKED_TOKENS
    engine = EagerEngine(CpuOps(model.config.num_attention_heads, "float32", 2), model)
    np.testing.assert_array_equal(
        auto_precision.check_scores(model, engine.ops, engine.weights),
        engine.scores(auto_precision.check_clips(model.config)),
    )


@pytest.mark.parametrize("family", ["CED", "DASS"])
def test_other_families_are_checked_alike(family: str, tmp_path: Path) -> None:
    """One without prefix tokens, whose front end is another, and one that embeds no patches."""
    if family == "CED":
        path = tmp_path / "audiotransformer.pt"
        torch.save({"model": timm_vit.random_state(timm_vit.ced_shapes(128, 2, 527))}, path)
    else:
        path = dass.write_hub(dass.random_state(dass.TINY), dass.TINY, tmp_path / "hub", 96, 64)
    model = recognise.load(path)
    assert model.family.name == family
    ops = [CpuOps(model.config.num_attention_heads, "float32", 2) for _ in range(2)]
    lazy = auto_precision.PackedWhenUsed(ops[1])
    scores = auto_precision.check_scores(model, ops[0], model.family.pack(ops[0], model.weights))
    np.testing.assert_array_equal(
        auto_precision.check_scores(model, lazy, model.family.pack(lazy, model.weights)), scores
    )
    assert np.isfinite(scores).all()
