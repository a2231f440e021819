"""The check behind precision="auto": few tokens, and weights that are packed when they are used."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import astfast
from astfast import backends, cache
from astfast.backends.cpu.ops import PRECISIONS, CpuOps
from astfast.commands import doctor
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
    packed = auto_precision.check_logits(model, engine.ops, engine.weights)
    ops = auto_precision.PackedWhenUsed(CpuOps(model.config.num_attention_heads, precision, 2))
    np.testing.assert_array_equal(
        auto_precision.check_logits(model, ops, model.family.pack(ops, model.weights)), packed
    )
    assert packed.shape == (3, model.config.num_labels)


def test_few_tokens_are_a_part_of_the_clip(many_tokens: Path) -> None:
    """Other logits than those of whole clips, which they resemble as far as precisions go."""
    model = recognise.load(many_tokens)
    logits = {}
    for precision in ("float32", "bfloat16"):
        engine = EagerEngine(CpuOps(model.config.num_attention_heads, precision, 2), model)
        logits[precision] = auto_precision.check_logits(model, engine.ops, engine.weights)
        whole = engine.logits(auto_precision.check_clips(model.config))
        assert (logits[precision] != whole).any()
    assert 0 < np.abs(logits["bfloat16"] - logits["float32"]).max() < 0.05


@pytest.mark.parametrize("num_tokens", [auto_precision.CHECKED_TOKENS + 1, 80, 146, 1214])
def test_tokens_are_of_all_parts_of_a_clip_and_others_of_each(num_tokens: int) -> None:
    tokens = auto_precision.checked_tokens(3, num_tokens)
    assert all(len(set(of_clip)) == auto_precision.CHECKED_TOKENS for of_clip in tokens.tolist())
    prefixes, patches = np.split(tokens, [auto_precision.LONGEST_PREFIX], axis=1)
    assert (prefixes == np.arange(auto_precision.LONGEST_PREFIX)).all()
    assert (patches.min(), patches.max()) == (auto_precision.LONGEST_PREFIX, num_tokens - 1)
    if num_tokens - auto_precision.LONGEST_PREFIX >= patches.size:
        assert len(np.unique(patches)) == patches.size


def test_models_of_few_tokens_are_checked_on_whole_clips(tiny_model: Path) -> None:
    model = recognise.load(tiny_model)
    assert model.config.num_tokens <= auto_precision.CHECKED_TOKENS
    engine = EagerEngine(CpuOps(model.config.num_attention_heads, "float32", 2), model)
    np.testing.assert_array_equal(
        auto_precision.check_logits(model, engine.ops, engine.weights),
        engine.logits(auto_precision.check_clips(model.config)),
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
    logits = auto_precision.check_logits(model, ops[0], model.family.pack(ops[0], model.weights))
    np.testing.assert_array_equal(
        auto_precision.check_logits(model, lazy, model.family.pack(lazy, model.weights)), logits
    )
    assert np.isfinite(logits).all()


def test_int8_that_drifts_warns(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        astfast.load(tiny_model, device="cpu", precision="int8")
    cache.update(auto_precision.FILE, lambda seen: seen.clear())
    monkeypatch.setattr(auto_precision, "difference", lambda *_: 0.2)
    with pytest.warns(UserWarning, match=r"int8's scores are not within 0\.05 .*: 0\.2; pass precision='auto'"):
        tagger = astfast.load(tiny_model, device="cpu", precision="int8")
    assert tagger.backend == "cpu int8"


def test_it_says_why_a_precision_was_taken(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.Choice, "fastest_precision", lambda self: "bfloat16")
    assert "(bfloat16's scores are within 0.01" in repr(astfast.load(tiny_model, device="cpu"))
    exact = repr(astfast.load(tiny_model, device="cpu", precision="float32"))
    assert "cpu float32, " in exact
    assert any("bfloat16's scores are within" in line and str(tiny_model) in line for line in auto_precision.known())
    assert str(tiny_model) in doctor.report()[0]
    monkeypatch.setattr(auto_precision, "difference", lambda *_: 0.2)
    again = astfast.load(tiny_model, device="cpu", threads=1)  # remembered, whatever the number of threads
    assert "cpu bfloat16 (bfloat16's scores are within" in repr(again)
    (line,) = auto_precision.known()
    assert f": cpu {again.hardware.split(',')[0]} bfloat16's scores" in line
    cache.update(auto_precision.FILE, lambda seen: seen.clear())
    monkeypatch.setattr(auto_precision, "difference", lambda *_: 0.2)
    told = repr(astfast.load(tiny_model, device="cpu"))
    assert "cpu float32 (bfloat16's scores are not within 0.01 of float32's on check inputs: 0.2)" in told


def test_scores_that_are_no_numbers_are_infinitely_far(tiny_model: Path) -> None:
    nan = np.full((1, 2), np.nan, np.float32)
    for logits in (nan, np.full((1, 2), np.inf, np.float32)):
        for activation in ("softmax", "sigmoid"):
            assert auto_precision.difference(logits, np.zeros((1, 2), np.float32), activation) == float("inf")
    assert auto_precision.remembered("key") is None
    auto_precision.remember("key", str(tiny_model), float("inf"))
    assert auto_precision.remembered("key") == float("inf")


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_errors_of_logits_count_where_scores_are_saturated(activation: str) -> None:
    """The same error, of a model that is sure and of one that is not: a score of a half changes by a quarter of it."""
    unsure = np.zeros((1, 2), np.float32)
    sure = np.array([[30.0, 0.0]], np.float32)
    error = np.array([[0.2, 0.0]], np.float32)
    expected = pytest.approx(0.05, rel=0.01)
    assert auto_precision.difference(unsure + error, unsure, activation) == expected
    assert auto_precision.difference(sure + error, sure, activation) == expected
    assert auto_precision.difference(sure, sure, activation) == 0


def test_scores_below_a_half_are_compared_as_they_are() -> None:
    logits = np.array([[-4.0, -5.0, -6.0]], np.float32)
    changed = logits + np.array([[0.2, 0.0, 0.0]], np.float32)
    score, other = (1 / (1 + np.exp(-x)) for x in (-4.0, -3.8))
    assert auto_precision.difference(changed, logits, "sigmoid") == pytest.approx(other - score, rel=1e-4)
    spread = np.array([[0.0, 0.1, 0.2, 0.3]], np.float32)
    changed = spread + np.array([[0.2, 0.0, 0.0, 0.0]], np.float32)
    scores = [np.exp(x) / np.exp(x).sum() for x in (spread, changed)]
    assert auto_precision.difference(changed, spread, "softmax") == pytest.approx(abs(scores[0] - scores[1]).max())
    assert auto_precision.difference(changed, spread, "none") == pytest.approx(0.2)


def test_a_precision_that_is_not_taken_is_packed_once(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.Choice, "fastest_precision", lambda self: "bfloat16")
    monkeypatch.setattr(auto_precision, "difference", lambda *_: 0.2)
    packed = []
    pack = CpuOps.pack_linear
    monkeypatch.setattr(CpuOps, "pack_linear", lambda ops, *a, **k: packed.append(ops.precision) or pack(ops, *a, **k))
    for expected in ({"bfloat16", "float32"}, {"float32"}):
        packed.clear()
        assert astfast.load(tiny_model, device="cpu").backend == "cpu float32"
        assert set(packed) == expected
