"""What the GPU engine asks of a device beside its ops: streams, events, pinned memory, graphs, a clock.

The one seam between the engine and the CUDA runtime: ``CudaDevice`` is a GPU, ``HostDevice`` runs everything at once,
in order, on CPU tensors (the interpreter's and the emulator's), and tests stand fakes in its place.
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

RUNS_BEFORE_CAPTURE = 2  # the first compiles and chooses, the second makes the workspaces of what was chosen
TIMED, CALLS_A_GRAPH = 10, 10  # of a measurement

_capturing = threading.Lock()  # one capture at a time in a process, whatever its device: it empties caches


class Event(Protocol):
    """A place in a stream's order of work."""

    def synchronize(self) -> None:
        """Waits, on the host, until everything before it is done."""
        ...


class Device(Protocol):
    """One device and the streams of one engine."""

    capturing: bool  # whether a graph is being captured: nothing may be allocated, compiled or timed

    def guard(self) -> AbstractContextManager[Any]:
        """Makes the device current inside."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Host memory that can be copied while the host goes on."""
        ...

    def copying(self) -> AbstractContextManager[Any]:
        """Work inside goes to the stream of uploads; outside, to the caller's current stream."""
        ...

    def mark(self) -> Event:
        """An event after everything on the current stream."""
        ...

    def wait(self, event: Event) -> None:
        """What follows on the current stream comes after the event; the host goes on."""
        ...

    def capture(self, work: Callable[[], Any]) -> Callable[[], None]:
        """Runs ``work`` until it does nothing for the first time, records it, and returns what runs it again, on the
        current stream."""
        ...

    def seconds(self, work: Callable[[], Any]) -> float:
        """Time of one call on the device, launches as cheap as in a graph; may wait for the device."""
        ...

    def synchronize(self) -> None:
        """Waits, on the host, until all streams of the device are done."""
        ...

    def release(self) -> None:
        """Gives memory that nobody holds back to the device."""
        ...


class CudaDevice:
    """A GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.capturing = False
        with self.guard():
            self._uploads = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._captures = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()

    def guard(self) -> AbstractContextManager[Any]:
        return torch.cuda.device(self.device)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def copying(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._uploads)

    def mark(self) -> Event:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        marked: Event = event
        return marked

    def wait(self, event: Any) -> None:
        torch.cuda.current_stream().wait_event(event)

    def capture(self, work: Callable[[], Any]) -> Callable[[], None]:
        for _ in range(RUNS_BEFORE_CAPTURE):
            work()
        graph = torch.cuda.CUDAGraph()
        # What torch's own ops allocate inside lies in one pool for all graphs of the engine: they never run at once,
        # and nothing in it is read after its graph.
        how: dict[str, Any] = {"pool": self._pool, "stream": self._captures, "capture_error_mode": "thread_local"}
        with _capturing:
            self.capturing = True
            try:
                with torch.cuda.graph(graph, **how):
                    work()
            finally:
                self.capturing = False
        replay: Callable[[], None] = graph.replay
        return replay

    def seconds(self, work: Callable[[], Any]) -> float:
        def calls() -> None:
            for _ in range(CALLS_A_GRAPH):
                work()

        try:
            replay = self.capture(calls)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # what can't be captured is timed with its launches, which it has in use too
            replay = calls
        replay()
        return median(self._milliseconds(replay) for _ in range(TIMED)) * 1e-3 / CALLS_A_GRAPH

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

    def release(self) -> None:
        torch.cuda.empty_cache()


class HostDevice:
    """The CPU in a GPU's place: every piece of work is done before the next is asked for."""

    def __init__(self) -> None:
        self.capturing = False

    def guard(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    def copying(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def mark(self) -> Event:
        return Done()

    def wait(self, event: Event) -> None:
        """Everything asked for is done already."""

    def capture(self, work: Callable[[], Any]) -> Callable[[], None]:
        return work

    def seconds(self, work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def synchronize(self) -> None:
        """Everything asked for is done already."""

    def release(self) -> None:
        """Python has freed what nobody holds."""


class Done:
    """An event that lies behind."""

    def synchronize(self) -> None:
        """There is nothing to wait for."""


def device_of(device: torch.device) -> Device:
    """The seam for a device: streams and graphs where it has them."""
    return CudaDevice(device) if device.type == "cuda" else HostDevice()


@contextlib.contextmanager
def inference(device: Device) -> Iterator[None]:
    """No gradients, and the device current."""
    with torch.inference_mode(), device.guard():
        yield
