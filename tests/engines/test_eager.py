"""Micro-batches, one workspace, one call at a time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astfast.backends.cpu.ops import CpuOps
from astfast.backends.reference import ReferenceOps
from astfast.engines.eager import EagerEngine
from astfast.models import recognise as checkpoint


class WatchedOps(ReferenceOps):
    """The reference, noting what the engine asks it for."""

    def __init__(self, heads: int) -> None:
        super().__init__(heads)
        self.allocated: list[tuple[int, ...]] = []
        self.batches: list[int] = []
        self.inside = 0

    def empty(self, shape: tuple[int, ...], kind: str) -> Any:
        self.allocated.append(shape)
        return np.empty(shape, np.float32)

    def patch_embed(self, spectrogram: Any, w: Any, out: Any = None) -> Any:
        self.inside += 1
        assert self.inside == 1, "two calls are inside the backend at once"
        assert len(out) == len(spectrogram)
        self.batches.append(len(spectrogram))
        time.sleep(0.002)
        self.inside -= 1
        return super().patch_embed(spectrogram, w, out)


@pytest.fixture
def loaded(tiny_model: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(tiny_model)


def engine_of(loaded: checkpoint.Checkpoint, batch_size: int | None = None) -> tuple[EagerEngine, WatchedOps]:
    ops = WatchedOps(loaded.config.num_attention_heads)
    return EagerEngine(ops, loaded, batch_size), ops


def waves(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [0.1 * rng.standard_normal(8000 + 100 * i).astype(np.float32) for i in range(count)]


def test_scores_and_embeddings_are_of_one_forward_pass(loaded: checkpoint.Checkpoint) -> None:
    engine, ops = engine_of(loaded, 4)
    scores, embeddings = engine.scores_and_embeddings(waves(3))
    assert ops.batches == [3]
    np.testing.assert_array_equal(scores, engine.scores(waves(3)))
    np.testing.assert_array_equal(embeddings, engine.embed(waves(3)))


def test_embeddings_of_longer_waveforms_are_the_mean_of_all_their_parts(loaded: checkpoint.Checkpoint) -> None:
    engine, _ = engine_of(loaded, 4)
    length = engine.input_samples
    wave = 0.1 * np.random.default_rng(0).standard_normal(2 * length).astype(np.float32)
    scores, embeddings = engine.scores_and_embeddings([wave, wave[:length]])
    parts = engine.embed([wave[:length], wave[length:]])
    np.testing.assert_array_equal(scores, engine.window_scores([wave, wave[:length]]))
    np.testing.assert_allclose(embeddings, [parts.mean(axis=0), parts[0]], rtol=1e-5, atol=1e-5)


def test_batches_are_run_in_parts_of_the_batch_size(loaded: checkpoint.Checkpoint) -> None:
    whole, _ = engine_of(loaded, 5)
    parts, ops = engine_of(loaded, 2)
    np.testing.assert_allclose(parts.logits(waves(5)), whole.logits(waves(5)), rtol=1e-5, atol=1e-5)
    assert ops.batches == [2, 2, 1]


def test_the_workspace_is_allocated_once_for_the_largest_batch(loaded: checkpoint.Checkpoint) -> None:
    engine, ops = engine_of(loaded, 4)
    engine.logits(waves(2))
    first = len(ops.allocated)
    assert {shape[0] for shape in ops.allocated} == {2}
    engine.logits(waves(1))
    engine.embed(waves(2))
    assert len(ops.allocated) == first
    engine.logits(waves(9))
    assert len(ops.allocated) == 2 * first
    assert {shape[0] for shape in ops.allocated[first:]} == {4}


def test_waveforms_and_their_spectrograms_give_the_same(loaded: checkpoint.Checkpoint) -> None:
    engine, _ = engine_of(loaded)
    spectrograms = engine.features(waves(3))
    assert spectrograms.shape == (3, loaded.config.max_length, loaded.config.num_mel_bins)
    np.testing.assert_array_equal(engine.logits(spectrograms), engine.logits(waves(3)))
    np.testing.assert_array_equal(engine.embed(spectrograms), engine.embed(waves(3)))


def test_threads_take_turns(loaded: checkpoint.Checkpoint) -> None:
    engine, _ = engine_of(loaded)
    expected = engine.logits(waves(1))
    with ThreadPoolExecutor(4) as pool:
        for logits in pool.map(engine.logits, [waves(1)] * 12):
            np.testing.assert_array_equal(logits, expected)


def test_an_error_inside_the_backend_leaves_the_engine_usable(
    loaded: checkpoint.Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, ops = engine_of(loaded)
    expected = engine.logits(waves(1))
    with monkeypatch.context() as patch:
        patch.setattr(ops, "attention", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.logits(waves(1))
    done = threading.Event()
    threading.Thread(target=lambda: (engine.logits(waves(1)), done.set())).start()
    assert done.wait(30)
    np.testing.assert_array_equal(engine.logits(waves(1)), expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_buffers_that_are_never_in_use_at_once_lie_in_one_place(loaded: checkpoint.Checkpoint, precision: str) -> None:
    engine = EagerEngine(CpuOps(loaded.config.num_attention_heads, precision, 2), loaded)
    engine.logits(waves(2))
    buffers = engine._workspace
    for name in ("qkv", "last_kv"):
        assert np.shares_memory(buffers["hidden"], buffers[name])
    assert not np.shares_memory(buffers["qkv"], buffers["context"])
    for name in ("tokens", "last_q", "last_context", "last_hidden"):
        assert not any(np.shares_memory(buffers[name], buffers[other]) for other in ("qkv", "context", "last_kv"))
