"""Models that run clips as long as they are, on the GPU engine: a graph a length, few of them, the CPU's results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from astfast.backends.reference import ReferenceOps
from astfast.engines import cuda_graphs
from astfast.engines.eager import EagerEngine
from astfast.models.recognise import load
from tests.cases import timm_vit
from tests.fakes.recording_runtime import RecordingRuntime, gpu_engine


@pytest.fixture(params=["ced", "passt", "maest"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    grids = {"passt": (12, 20), "maest": (9, 31)}
    if request.param == "ced":
        state = timm_vit.random_state(timm_vit.ced_shapes(64, 2, 9))
    else:
        state = timm_vit.random_state(timm_vit.passt_shapes(64, 2, 9, grids[request.param]))
    torch.save(state, tmp_path / f"{request.param}.{'ckpt' if request.param == 'maest' else 'pt'}")
    return next(tmp_path.iterdir())


def clip(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


def test_clips_of_many_lengths_are_those_of_the_reference(path: Path) -> None:
    loaded = load(path)
    engine = gpu_engine(loaded, RecordingRuntime(), 4)
    reference = EagerEngine(ReferenceOps(loaded.config.num_attention_heads), loaded)
    lengths = (1, 5000, 16_000, 16_100, 16_001, 30_000, 200_000)
    waves = [clip(n) for n in lengths]
    expected = reference.logits(waves)
    size = np.abs(expected).max()
    np.testing.assert_allclose(engine.logits(waves), expected, atol=2e-4 * size)
    np.testing.assert_allclose(engine.embed(waves), reference.embed(waves), atol=2e-4)
    scores, labels = engine.top_k(waves, 3)
    np.testing.assert_array_equal(labels[:, 0], expected.argmax(1))
    assert scores.shape == (len(waves), 3)
    for wave in waves[:4]:  # alone, and its spectrogram
        features = engine.features([wave])
        exact = reference.features([wave])
        assert features.shape == exact.shape
        np.testing.assert_allclose(features, exact, atol=2e-3)
        np.testing.assert_allclose(engine.logits(features), reference.logits([wave]), atol=2e-4 * size)
    pcm = [(wave * 32768).astype(np.int16) for wave in waves]
    np.testing.assert_allclose(
        engine.logits(pcm), reference.logits([x.astype(np.float32) / 32768 for x in pcm]), atol=2e-4 * size
    )


def test_lengths_with_as_many_tokens_share_a_graph_and_few_are_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_LENGTHS", 2)
    loaded = load(path)
    runtime = RecordingRuntime()
    engine = gpu_engine(loaded, runtime, 1)
    front_end = loaded.config.front_end
    stride = loaded.config.time_stride
    first, second, third = (front_end.fewest_samples + 3 * n * stride * front_end.hop_length for n in range(3))
    engine.logits([clip(first)])
    assert runtime.captures == 1
    engine.logits([clip(first + (stride - 1) * front_end.hop_length)])
    assert runtime.captures == 1  # fewer frames than another patch needs
    engine.logits([clip(second)])
    engine.logits([clip(third)])
    assert runtime.captures == 3
    engine.logits([clip(second)])
    assert runtime.captures == 3  # of the two that were used last
    engine.logits([clip(first)])
    assert runtime.captures == 4
    assert len({frames for _, frames in engine._workspaces}) == 2
