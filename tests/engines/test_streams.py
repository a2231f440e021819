"""The GPU engine where the order of work matters: on a GPU (marked gpu), and the same tests on its stand-in."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from astfast import scores
from astfast.backends.cuda import resample
from astfast.backends.cuda.target import has_dependent_launches, target_of
from astfast.backends.reference import ReferenceOps
from astfast.engines.base import DeviceBatch
from astfast.engines.cuda_graphs import CudaGraphEngine
from astfast.engines.eager import EagerEngine
from astfast.models import recognise as checkpoint
from tests.fakes.places import DependentLaunches, Place, Slow, StandIn, Unordered

BATCH = 4
LATE = ("upload", "replay", "download")


def dependent_launches() -> Place:
    gpu = target_of(Place.device)
    if not has_dependent_launches(gpu.arch):
        pytest.skip(f"{gpu.name}: dependent launches need compute capability 9.0 and Triton 3.6")
    return DependentLaunches()


ON_A_GPU = [pytest.param(make, marks=pytest.mark.gpu) for make in (Place, dependent_launches)]


@pytest.fixture(params=[StandIn, *ON_A_GPU], ids=["stand-in", "gpu", "dependent-launches"])
def place(request: pytest.FixtureRequest) -> Place:
    chosen: Place = request.param()
    return chosen


@pytest.fixture
def loaded(tiny_model: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(tiny_model)


@pytest.fixture
def engine(place: Place, loaded: checkpoint.Checkpoint) -> CudaGraphEngine:
    return place.engine(loaded, BATCH)


def clips_of(place: Place) -> list[np.ndarray]:
    """Clips of which no two are alike, more than all buffers hold."""
    return distinct(256 if place.exact else 3 * BATCH + 1)


def distinct(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.02 * (1 + i % 7) * rng.standard_normal(12_000)).astype(np.float32) for i in range(count)]


def one_by_one(engine: CudaGraphEngine, clips: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([engine.logits([clip]) for clip in clips])


def assert_same(place: Place, got: np.ndarray, expected: np.ndarray) -> None:
    """The same bits on a GPU; on the stand-in to the last digits. Other clips' results are further away."""
    apart = np.abs(expected[1:] - expected[:-1]).max(1).min() if len(expected) > 1 else 1.0
    assert apart > 1e-3
    np.testing.assert_allclose(got, expected, rtol=0, atol=0 if place.exact else 2e-5)


def test_every_kernel_is_right_and_graphs_are_in_use(
    place: Place, engine: CudaGraphEngine, loaded: checkpoint.Checkpoint
) -> None:
    reference = EagerEngine(ReferenceOps(loaded.config.num_attention_heads), loaded)
    expected = reference.logits(distinct(5))
    error = np.abs(engine.logits(distinct(5)) - expected).max() / expected.std()
    assert error <= (0.1 if place.precision == "bfloat16" else 1e-4)
    assert engine.ops.runtime.graphs_failure is None
    assert not [key for key, result in engine.ops.op_results().items() if result.failure]


@pytest.mark.gpu
def test_dependent_launches_change_no_bit(loaded: checkpoint.Checkpoint) -> None:
    clips = distinct(256)
    dependent, plain = (place.engine(loaded, BATCH) for place in (dependent_launches(), Place()))
    np.testing.assert_array_equal(dependent.logits(clips), plain.logits(clips))


def test_distinct_clips_in_one_call_are_those_one_by_one(place: Place, engine: CudaGraphEngine) -> None:
    clips = clips_of(place)
    assert_same(place, engine.logits(clips), one_by_one(engine, clips))


@pytest.mark.parametrize("late", LATE)
def test_results_do_not_depend_on_which_stream_is_late(
    place: Place, engine: CudaGraphEngine, loaded: checkpoint.Checkpoint, late: Any
) -> None:
    clips = clips_of(place)[: 5 * BATCH]
    slow = place.engine(loaded, BATCH, Slow(place.runtime(), late, place.busy))  # type: ignore[arg-type]
    expected = one_by_one(engine, clips)
    for _ in range(2):
        assert_same(place, slow.logits(clips), expected)
        assert_same(place, slow.logits(clips[::-1]), expected[::-1])


def test_without_events_a_late_upload_is_noticed(
    place: Place, engine: CudaGraphEngine, loaded: checkpoint.Checkpoint
) -> None:
    """What the tests above are worth."""
    runtime = Unordered(place.runtime(), "upload", place.busy)
    unordered = place.engine(loaded, BATCH, runtime)  # type: ignore[arg-type]
    clips = distinct(2 * BATCH)
    expected = engine.logits(clips)
    assert_same(place, unordered.logits(clips), expected)
    runtime.waits = False
    assert np.abs(unordered.logits(clips[::-1]) - expected[::-1]).max() > 1e-3
    place.synchronize()


def test_inputs_are_read_and_results_written_on_the_callers_stream(place: Place, engine: CudaGraphEngine) -> None:
    config = engine.config
    first, second = (0.5 * torch.randn(2, BATCH, config.max_length, config.num_mel_bins)).to(place.device)
    expected = engine.forward(second).clone()
    x = first.clone()
    engine.forward(first)
    place.synchronize()
    with place.stream():
        place.busy()
        x.copy_(second)  # late on this stream, before the engine reads it
        got = engine.forward(x)
        copied = got.clone()
    other = engine.forward(first)  # on the default stream, while the other call's work has not begun
    place.synchronize()
    assert torch.equal(copied, expected)
    assert not torch.equal(other, expected)
    assert torch.equal(other, engine.forward(first))


def test_threads_take_turns(place: Place, engine: CudaGraphEngine) -> None:
    clips = clips_of(place)[: 4 * BATCH]
    expected = one_by_one(engine, clips)
    shares = [list(range(i, len(clips), 4)) for i in range(4)]
    start = threading.Barrier(4)

    def call(share: list[int]) -> np.ndarray:
        start.wait()
        with place.stream():
            for _ in range(3):
                result = engine.logits([clips[i] for i in share])
            return result

    with ThreadPoolExecutor(4) as threads:
        for share, got in zip(shares, threads.map(call, shares), strict=True):
            assert_same(place, got, expected[share])


def test_two_engines_share_a_device(place: Place, loaded: checkpoint.Checkpoint, other_tiny_model: Path) -> None:
    engines = [place.engine(loaded, BATCH), place.engine(checkpoint.load(other_tiny_model), 2)]
    clips = distinct(3 * BATCH)
    expected = [one_by_one(engine, clips) for engine in engines]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(3):
            for got, right in zip(threads.map(lambda engine: engine.logits(clips), engines), expected, strict=True):
                assert_same(place, got, right)


def test_int16_samples_are_those_divided(place: Place, engine: CudaGraphEngine) -> None:
    integers = [(32767 * clip.clip(-1, 1)).astype(np.int16) for clip in distinct(BATCH + 1)]
    expected = engine.logits([(clip / np.float32(32768)).astype(np.float32) for clip in integers])
    error = np.abs(engine.logits(integers) - expected).max() / expected.std()
    assert error <= (0.05 if place.precision == "bfloat16" else 1e-4)
    on_device = torch.from_numpy(np.stack(integers)).to(place.device)
    np.testing.assert_array_equal(engine.logits(DeviceBatch(on_device, 16000)), engine.logits(integers))


def test_resampling_is_that_of_the_cpu(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any taps: those of soxr need soxr."""
    taps = np.random.default_rng(1).standard_normal((441 + 2 * 353, 160)).astype(np.float32) / 40
    monkeypatch.setattr(resample, "taps", lambda *_: taps)
    clips = torch.randn(3, 30_000, generator=torch.Generator().manual_seed(0))
    expected = resample.Resampler(44100, 16000, torch.device("cpu"))(clips)
    got = resample.Resampler(44100, 16000, place.device)(clips.to(place.device)).cpu()
    exact = resample.Resampler(44100, 16000, torch.device("cpu"))
    exact._matrix = exact._matrix.double()
    bound = 4 * (expected.double() - exact(clips.double())).abs().max() + 1e-5
    assert got.shape == expected.shape
    assert (got.double() - exact(clips.double())).abs().max() <= bound


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_best_labels_are_those_of_the_logits(place: Place, engine: CudaGraphEngine, activation: str) -> None:
    clips = clips_of(place)[: 3 * BATCH]
    got_scores, got_labels = engine.top_k(clips, 3, activation)
    best_scores, best_labels = scores.top_k(scores.activate(engine.logits(clips), activation), 3)
    np.testing.assert_allclose(got_scores, best_scores, rtol=1e-6)
    np.testing.assert_array_equal(got_labels, best_labels)


def test_a_deterministic_engine_repeats_itself(place: Place, loaded: checkpoint.Checkpoint) -> None:
    clips = distinct(2 * BATCH + 1)
    first, again = (place.engine(loaded, BATCH).logits(clips) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_graphs_are_captured_anew_after_all_were_dropped(place: Place, engine: CudaGraphEngine) -> None:
    clips = distinct(BATCH + 1)
    expected = engine.logits(clips)
    for _ in range(2):
        engine._graphs.clear()
        engine._workspaces.clear()
        gc.collect()
        engine.ops.runtime.empty_cache()
        np.testing.assert_array_equal(engine.logits(clips), expected)
    assert engine.ops.runtime.graphs_failure is None


@pytest.mark.gpu
def test_a_batch_that_does_not_fit_goes_on_in_smaller_ones(loaded: checkpoint.Checkpoint) -> None:
    place = Place()
    expected = place.engine(loaded, BATCH).logits(distinct(2 * BATCH))
    gc.collect()
    torch.cuda.empty_cache()
    room = 600 << 20  # less than the buffers of the batches that are tried first
    total = torch.cuda.get_device_properties(place.device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room) / total)
    try:
        engine = place.engine(loaded, 4096)
        with pytest.warns(RuntimeWarning, match="not enough memory for 4096 clips"):
            got = engine.logits(distinct(2 * BATCH) * 512)
        assert engine.buckets[-1] < 4096
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_array_equal(got[: 2 * BATCH], expected)
    np.testing.assert_array_equal(got[-2 * BATCH :], expected)
    assert engine.ops.runtime.graphs_failure is None


@pytest.mark.gpu
def test_an_engine_of_another_gpu_than_the_current_one(loaded: checkpoint.Checkpoint) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has one GPU")
    place, other = Place(), Place()
    other.device = torch.device("cuda", 1)
    clips = distinct(BATCH + 1)
    with torch.cuda.device(0):
        np.testing.assert_array_equal(
            other.engine(loaded, BATCH).logits(clips), place.engine(loaded, BATCH).logits(clips)
        )
        assert torch.cuda.current_device() == 0
