"""CUDA runtime interface: streams, events, pinned memory, CUDA graphs and timing, as the GPU engine needs them.

``CudaRuntime`` is a GPU. ``HostRuntime`` runs everything synchronously on CPU tensors, for the interpreter and the
emulator; tests put a recording one in its place.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from statistics import median
from typing import Any, Protocol

import torch

WARMUP_RUNS = (
    2  # before a capture: the first compiles and autotunes, the second allocates workspaces of what was chosen
)
TIMED_REPLAYS, CALLS_PER_GRAPH = 10, 10  # of a benchmark

_capture_lock = threading.Lock()  # one capture at a time in a process, on whichever device: a capture empties caches


class Event(Protocol):
    """A point in a stream's order of work."""

    def synchronize(self) -> None:
        """Blocks the host until all work before the event is done."""
        ...


class Runtime(Protocol):
    """One device and the streams of one engine."""

    capturing: bool  # whether a graph is being captured: nothing may be allocated, compiled or timed

    def device_guard(self) -> AbstractContextManager[Any]:
        """Context in which the device is PyTorch's current one."""
        ...

    def pinned_zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Page-locked host memory, which is copied to and from the device asynchronously."""
        ...

    def upload_stream(self) -> AbstractContextManager[Any]:
        """Context in which work goes to the stream for uploads; outside, it goes to the caller's current stream."""
        ...

    def record_event(self) -> Event:
        """An event after all work that is on the current stream by now."""
        ...

    def wait_event(self, event: Event) -> None:
        """Later work on the current stream starts after the event. Does not block the host."""
        ...

    def capture(self, work: Callable[[], Any]) -> Callable[[], None]:
        """Warms ``work`` up, captures it in a CUDA graph and returns a function that replays the graph on the current
        stream. Raises RuntimeError for work that can't be captured."""
        ...

    def benchmark(self, work: Callable[[], Any]) -> float:
        """Median time of a call on the device in seconds, launched from a graph if possible. May block the host."""
        ...

    def synchronize(self) -> None:
        """Blocks the host until all streams of the device are done."""
        ...

    def empty_cache(self) -> None:
        """Returns cached memory that no tensor uses to the device."""
        ...


class CudaRuntime:
    """The runtime of one GPU (CUDA or ROCm)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.capturing = False
        with self.device_guard():
            self._upload_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._capture_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()

    def device_guard(self) -> AbstractContextManager[Any]:
        return torch.cuda.device(self.device)

    def pinned_zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def upload_stream(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._upload_stream)

    def record_event(self) -> Event:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        recorded: Event = event
        return recorded

    def wait_event(self, event: Any) -> None:
        torch.cuda.current_stream().wait_event(event)

    def capture(self, work: Callable[[], Any]) -> Callable[[], None]:
        for _ in range(WARMUP_RUNS):
            work()
        graph = torch.cuda.CUDAGraph()
        # Memory that PyTorch's ops allocate inside lies in one pool for all graphs of the engine: the graphs never run
        # at the same time, and nothing in it is read after its graph.
        options: dict[str, Any] = {
            "pool": self._pool,
            "stream": self._capture_stream,
            "capture_error_mode": "thread_local",
        }
        with _capture_lock:
            self.capturing = True
            try:
                with torch.cuda.graph(graph, **options):
                    work()
            finally:
                self.capturing = False
        replay: Callable[[], None] = graph.replay
        return replay

    def benchmark(self, work: Callable[[], Any]) -> float:
        def calls() -> None:
            for _ in range(CALLS_PER_GRAPH):
                work()

        try:
            replay = self.capture(calls)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # can't be captured: timed with its launches, which it needs in use too
            replay = calls
        replay()
        return median(self._milliseconds(replay) for _ in range(TIMED_REPLAYS)) * 1e-3 / CALLS_PER_GRAPH

    @staticmethod
    def _milliseconds(work: Callable[[], Any]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        end.synchronize()
        elapsed: float = start.elapsed_time(end)
        return elapsed

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()


class HostRuntime:
    """Synchronous runtime on the CPU: each piece of work is done before the next is submitted."""

    def __init__(self) -> None:
        self.capturing = False

    def device_guard(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def pinned_zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    def upload_stream(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def record_event(self) -> Event:
        return CompletedEvent()

    def wait_event(self, event: Event) -> None:
        """Does nothing: all work is done already."""

    def capture(self, work: Callable[[], Any]) -> Callable[[], None]:
        return work

    def benchmark(self, work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def synchronize(self) -> None:
        """Does nothing: all work is done already."""

    def empty_cache(self) -> None:
        """Does nothing: there is no cache."""


class CompletedEvent:
    """An event that has completed already."""

    def synchronize(self) -> None:
        """Does nothing."""


def runtime_for(device: torch.device) -> Runtime:
    """A new runtime of a device: a GPU's, or the synchronous one for CPU and meta tensors."""
    return CudaRuntime(device) if device.type == "cuda" else HostRuntime()


@contextlib.contextmanager
def inference(runtime: Runtime) -> Iterator[None]:
    """Context of inference: no autograd, and the device is the current one."""
    with torch.inference_mode(), runtime.device_guard():
        yield
