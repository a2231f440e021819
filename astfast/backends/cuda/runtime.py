"""CUDA runtime interface: streams, events, pinned memory, CUDA graphs and timing, as the GPU engine needs them.

``CudaRuntime`` is a GPU. ``HostRuntime`` runs everything synchronously on CPU tensors, for the interpreter and the
emulator; tests put a recording one in its place.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from statistics import median
from typing import Any, Protocol

import torch

from astfast.backends.cuda import capture as graphs

WARMUP_RUNS = 2  # before a capture: the first compiles and autotunes, the second allocates what was chosen
SPIN_SECONDS = 0.05  # of work before anything is timed: an idle GPU runs at a sixth of its clock
TIMED_TURNS, CALLS_PER_GRAPH = 11, 10  # of a comparison


class Event(Protocol):
    """A point in a stream's order of work."""

    def synchronize(self) -> None:
        """Blocks the host until all work before the event is done."""
        ...


class Runtime(Protocol):
    """One device and the streams of one engine."""

    @property
    def capturing(self) -> bool:
        """Whether a graph is being captured on the current stream, by whomever: nothing may be compiled or timed."""
        ...

    @property
    def graphs_failure(self) -> str | None:
        """Why work is launched from the host instead of from CUDA graphs; None if graphs are in use."""
        ...

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

    def compare(self, *works: Callable[[], Any]) -> list[float]:
        """Median time of a call of each on the device in seconds, measured in turns after the device has been busy for
        a while; all launched from graphs, or none. May block the host."""
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
        self._upload_stream = graphs.stream_of(device, "upload")
        self._pool = graphs.GraphPool()

    @property
    def capturing(self) -> bool:
        return torch.cuda.is_current_stream_capturing()

    @property
    def graphs_failure(self) -> str | None:
        return graphs.failure(self.device)

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
        replay: Callable[[], None] = self._captured(work, self._pool).replay
        return replay

    def _captured(self, work: Callable[[], Any], pool: graphs.GraphPool | None) -> torch.cuda.CUDAGraph:
        for _ in range(WARMUP_RUNS):
            work()
        return graphs.capture(self.device, work, pool)

    def compare(self, *works: Callable[[], Any]) -> list[float]:
        repeated = [functools.partial(_repeat, work, CALLS_PER_GRAPH) for work in works]
        captured: list[torch.cuda.CUDAGraph] = []
        try:
            for calls in repeated:
                captured.append(self._captured(calls, None))
            runs: list[Callable[[], Any]] = [graph.replay for graph in captured]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # graphs_failure says why: both are timed with their launches, which they need in use too
            runs = list(repeated)
        busy_until = time.perf_counter() + SPIN_SECONDS
        while time.perf_counter() < busy_until:
            for run in runs:
                run()
            self.synchronize()
        turns = [[self._milliseconds(run) for run in runs] for _ in range(TIMED_TURNS)]
        return [median(times) * 1e-3 / CALLS_PER_GRAPH for times in zip(*turns, strict=True)]

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
        graphs.empty_cache(self.device)


class HostRuntime:
    """Synchronous runtime on the CPU: each piece of work is done before the next is submitted."""

    graphs_failure: str | None = None
    capturing: bool = False

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

    def compare(self, *works: Callable[[], Any]) -> list[float]:
        times = []
        for work in works:
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return times

    def synchronize(self) -> None:
        """Does nothing: all work is done already."""

    def empty_cache(self) -> None:
        """Does nothing: there is no cache."""


class CompletedEvent:
    """An event that has completed already."""

    def synchronize(self) -> None:
        """Does nothing."""


def _repeat(work: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        work()


def runtime_for(device: torch.device) -> Runtime:
    """A new runtime of a device: a GPU's, or the synchronous one for CPU and meta tensors."""
    return CudaRuntime(device) if device.type == "cuda" else HostRuntime()


@contextlib.contextmanager
def inference(runtime: Runtime) -> Iterator[None]:
    """Context of inference: no autograd, and the device is the current one."""
    with torch.inference_mode(), runtime.device_guard():
        yield
