"""Which backend a model is loaded on, where the GPU backend has no code for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import astfast
from astfast import backends
from astfast.backends import Choice
from astfast.errors import UnsupportedModel
from astfast.tagging.tagger import opened
from tests.cases import dass, timm_vit
from tests.fakes.recording_runtime import RecordingRuntime, torch_ops


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is chosen wherever one may be."""
    choose, opened = backends.choose, Choice.open

    def chosen(backend: str = "auto", device: Any = "auto", threads: int | None = None) -> Choice:
        return choose(backend, device, threads) if device == "cpu" else Choice("cuda", "cuda", threads)

    def open_ops(self: Choice, num_heads: int, *args: Any) -> Any:
        return torch_ops(num_heads, RecordingRuntime()) if self.backend == "cuda" else opened(self, num_heads, *args)

    monkeypatch.setattr(backends, "choose", chosen)
    monkeypatch.setattr(Choice, "open", open_ops)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return dass.write_hub(dass.random_state(dass.TINY), dass.TINY, tmp_path / "dass", 64, 48)


@pytest.mark.usefixtures("gpu")
def test_a_model_that_it_runs_stays_on_the_gpu(tiny_model: Path, model: Path, tmp_path: Path) -> None:
    torch.save(timm_vit.random_state(timm_vit.ced_shapes(64, 1, 527)), tmp_path / "ced.pt")
    for source in (tiny_model, tmp_path / "ced.pt", model):
        assert astfast.load(source, precision="float32").backend.startswith("cuda")


@pytest.mark.parametrize("family", ["ast", "ced"])  # CED's tokens are pooled by their sizes
def test_token_merging_is_an_approximation_that_engines_of_one_backend_share(
    family: str, tiny_model: Path, tmp_path: Path
) -> None:
    if family == "ced":
        tiny_model = tmp_path / "ced.pt"
        torch.save(timm_vit.random_state(timm_vit.ced_shapes(64, 3, 527)), tiny_model)
    waves = [np.random.default_rng(i).standard_normal(16000).astype(np.float32) * 0.1 for i in range(3)]

    def scores(**options: Any) -> np.ndarray:
        tagger = astfast.load(tiny_model, precision="float32", backend="cpu", **options)
        engine, _ = opened(tagger)
        return engine.scores(waves)

    merged = scores(token_merging=0.5)
    assert not np.array_equal(merged, scores())
    np.testing.assert_array_equal(merged, scores(token_merging=0.5, batch_size=1, threads=1))
    reference, _ = opened(astfast.load(tiny_model, backend="reference", token_merging=0.5))
    np.testing.assert_allclose(merged, reference.scores(waves), atol=1e-4)
    assert reference.about.endswith("50% of the tokens merged")


def test_token_merging_does_not_decide_about_a_precision(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that rounding merges with another one is no fault of the precision."""
    monkeypatch.setattr(backends.Choice, "fastest_precision", lambda self: "bfloat16")
    for merging in (0.0, 0.5):
        assert astfast.load(tiny_model, backend="cpu", token_merging=merging).backend == "cpu bfloat16"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("family", ["ast", "ced"])  # CED's tokens are pooled by their sizes
def test_a_gpu_merges_tokens_as_the_reference(family: str, tiny_model: Path, tmp_path: Path) -> None:
    waves = [np.random.default_rng(i).standard_normal(16000).astype(np.float32) * 0.1 for i in range(3)]
    if family == "ced":
        tiny_model = tmp_path / "ced.pt"
        torch.save(timm_vit.random_state(timm_vit.ced_shapes(64, 3, 527)), tiny_model)
    tagger = astfast.load(tiny_model, precision="float32", token_merging=0.5)
    assert tagger.backend == "cuda float32"
    engine, _ = opened(tagger)
    reference, _ = opened(astfast.load(tiny_model, device="cpu", backend="reference", token_merging=0.5))
    whole, _ = opened(astfast.load(tiny_model, precision="float32"))
    exact = reference.scores(waves)
    np.testing.assert_allclose(engine.scores(waves), exact, atol=1e-4)
    assert not np.array_equal(engine.scores(waves), whole.scores(waves))


def test_a_model_without_tokens_has_none_to_merge(model: Path) -> None:
    with pytest.raises(UnsupportedModel, match="DASS models have no tokens to merge"):
        astfast.load(model, backend="cpu", precision="float32", token_merging=0.5)
