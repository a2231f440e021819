"""Captures follow the rules of PyTorch's allocator, and leave the caller's state as it was, whatever fails."""

import gc

import pytest
import torch

from astfast.backends.cuda import capture
from astfast.backends.cuda.runtime import CALLS_PER_GRAPH, TIMED_TURNS, CudaRuntime
from tests.fakes import cuda_allocator

DEVICE = torch.device("cuda", 0)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> cuda_allocator.Cuda:
    monkeypatch.setattr(capture, "_streams", {})
    monkeypatch.setattr(capture, "_failures", {})
    monkeypatch.setattr("astfast.backends.cuda.runtime.SPIN_SECONDS", 0.0)
    return cuda_allocator.install(monkeypatch)


def test_graphs_are_captured_after_timing_graphs_with_products_of_cublas(cuda: cuda_allocator.Cuda) -> None:
    """A workspace that is first allocated in a timing graph must not keep the pool of the engine's graphs alive."""
    runtime = CudaRuntime(DEVICE)
    replays = []
    for _ in range(3):
        assert runtime.compare(cuda.gemm, cuda.gemm) == [1e-3 / CALLS_PER_GRAPH] * 2
        replays.append(runtime.capture(cuda.gemm))
    for replay in replays:
        replay()
    assert runtime.graphs_failure is None
    assert cuda.current is cuda.default_stream


def test_the_pool_is_made_anew_when_its_last_graph_is_gone(cuda: cuda_allocator.Cuda) -> None:
    runtime = CudaRuntime(DEVICE)
    first = runtime.capture(cuda.gemm)
    second = runtime.capture(cuda.gemm)
    assert len(cuda.pools) == 1  # which both share
    del first, second
    gc.collect()
    assert not cuda.pools
    runtime.capture(cuda.gemm)()
    assert runtime.graphs_failure is None


def test_no_memory_stays_behind_timing_graphs(cuda: cuda_allocator.Cuda) -> None:
    CudaRuntime(DEVICE).compare(cuda.gemm)
    gc.collect()
    assert not cuda.pools
    assert not cuda.workspaces


@pytest.mark.parametrize("where", ["begin", "end"])
def test_a_failed_capture_is_the_last_one_of_its_device(cuda: cuda_allocator.Cuda, where: str) -> None:
    runtime, calls = CudaRuntime(DEVICE), []

    def work() -> None:
        calls.append(cuda.current)
        if cuda.capturing and where == "end":  # something that may not be captured: the driver invalidates it
            cuda.refusal = "operation failed due to a previous error during capture"

    if where == "begin":
        cuda.refusal = "operation not permitted when stream is capturing"
    with pytest.raises(RuntimeError, match="operation"):
        runtime.capture(work)
    assert cuda.current is cuda.default_stream
    assert runtime.graphs_failure == cuda.refusal
    cuda.refusal = None
    runtime.empty_cache()  # asserts in PyTorch, which believes that a capture is under way
    other, captured = CudaRuntime(DEVICE), len(cuda.underway)
    with pytest.raises(RuntimeError, match="operation"):
        other.capture(work)
    calls.clear()
    assert len(other.compare(work, work)) == 2  # timed with launches from the host
    assert len(calls) > 2 * CALLS_PER_GRAPH * TIMED_TURNS
    assert len(cuda.underway) == captured  # nothing was tried again


def test_too_little_memory_is_no_failure_of_graphs(cuda: cuda_allocator.Cuda) -> None:
    runtime = CudaRuntime(DEVICE)

    def work() -> None:
        if cuda.capturing:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    with pytest.raises(torch.OutOfMemoryError):
        runtime.capture(work)
    assert runtime.graphs_failure is None
    assert cuda.current is cuda.default_stream
    gc.collect()
    runtime.empty_cache()
    runtime.capture(cuda.gemm)()


def test_engines_of_a_device_share_its_streams(cuda: cuda_allocator.Cuda) -> None:
    made = next(cuda_allocator.Stream.count)
    for _ in range(5):
        CudaRuntime(DEVICE).capture(cuda.gemm)
    assert next(cuda_allocator.Stream.count) - made == 1 + 2  # for uploads, and for captures


def test_competitors_are_timed_in_turns(cuda: cuda_allocator.Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    capture._failures[DEVICE.index] = "graphs have failed"
    order: list[str] = []
    CudaRuntime(DEVICE).compare(lambda: order.append("kernel"), lambda: order.append("torch"))
    timed = order[-2 * CALLS_PER_GRAPH * TIMED_TURNS :]
    turn = ["kernel"] * CALLS_PER_GRAPH + ["torch"] * CALLS_PER_GRAPH
    assert timed == turn * TIMED_TURNS
