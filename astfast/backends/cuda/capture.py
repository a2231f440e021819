"""Capture of CUDA graphs: memory pools, streams and cuBLAS workspaces, as PyTorch's caching allocator needs them.

Two rules of the allocator decide what is done here, in all versions of PyTorch from 2.8 on:

- A graph's private pool counts the graphs that use it. A count that has fallen to 0 while a block of the pool is still
  allocated can't rise again. So a pool is made anew once its last graph is gone, and graphs for timing have pools of
  their own.
- cuBLAS allocates a workspace for each stream that it meets and keeps it. One that is allocated during a capture lies
  in the graph's pool and keeps it alive. So workspaces are freed before and after each capture.

A capture that fails leaves the allocator in a state in which others may fail, and so does emptying its cache: no graph
is captured on that device from then on, and kernels are launched from the host.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch

_lock = threading.Lock()  # one capture at a time in a process, on whichever device: a capture empties caches
_streams: dict[tuple[int, str], torch.cuda.Stream] = {}
_failures: dict[int, str] = {}  # index of a device -> why no graph is captured on it any more


class GraphPool:
    """Memory shared by graphs that never run at the same time, and whose temporaries nothing reads after them."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    def handle_for(self, graph: torch.cuda.CUDAGraph) -> Any:
        """The pool's handle for one more graph; a new one if no earlier graph is left."""
        if not self._graphs:
            self._handle = torch.cuda.graph_pool_handle()
        self._graphs.add(graph)
        return self._handle


def stream_of(device: torch.device, use: str) -> torch.cuda.Stream:
    """The stream of a device for one use, such as "upload": the same for all engines of the process."""
    key = device.index, use
    if key not in _streams:
        with torch.cuda.device(device):
            _streams[key] = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    return _streams[key]


def failure(device: torch.device) -> str | None:
    """Why no graph is captured on this device any more; None if graphs are in use."""
    return _failures.get(device.index)


def capture(device: torch.device, work: Callable[[], Any], pool: GraphPool | None) -> torch.cuda.CUDAGraph:
    """Captures ``work``, which has run before, on a stream of its own; the caller's current stream stays current.

    - ``pool``: of the engine's graphs; None for a pool of this graph's own.

    Raises torch.OutOfMemoryError where memory runs out, and RuntimeError for work that can't be captured or a device
    whose graphs have failed before.
    """
    graph = torch.cuda.CUDAGraph()
    options: dict[str, Any] = {"capture_error_mode": "thread_local"}
    with _lock:
        if (reason := failure(device)) is not None:
            raise RuntimeError(reason)
        if pool is not None:
            options["pool"] = pool.handle_for(graph)
        torch.cuda.synchronize()
        _free_cublas_workspaces()
        torch.cuda.empty_cache()
        try:
            with torch.cuda.stream(stream_of(device, "capture" if pool is not None else "timing")):
                graph.capture_begin(**options)
                try:
                    work()
                finally:
                    graph.capture_end()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _failures[device.index] = str(error).strip().splitlines()[0]
            raise
        finally:
            _free_cublas_workspaces()
    return graph


def empty_cache(device: torch.device) -> None:
    """Returns cached memory that no tensor uses to the device; nothing once a capture has failed on it."""
    if failure(device) is None:
        torch.cuda.empty_cache()


def _free_cublas_workspaces() -> None:
    torch._C._cuda_clearCublasWorkspaces()
