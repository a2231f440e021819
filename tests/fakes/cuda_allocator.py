"""A stand-in for what PyTorch 2.8 to 2.11 asks of those who capture CUDA graphs.

It has the rules of the caching allocator and of cuBLAS that decide whether a capture works: use counts of private
pools, a workspace for each stream that cuBLAS has met, and the state that a failed capture leaves. It computes nothing.
``install`` puts it in the place of the functions of ``torch.cuda``.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
import torch


class Pool:
    """A private pool: graphs that use it, and blocks in it that are allocated."""

    def __init__(self) -> None:
        self.use_count = 1
        self.live_blocks = 0


class Stream:
    count = itertools.count()

    def __init__(self, device: Any = None) -> None:
        del device
        self.number = next(self.count)

    def wait_event(self, event: Event) -> None:
        """Everything runs at once."""


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        del enable_timing

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: Event) -> float:
        del other
        return 1.0


class Cuda:
    """One device with its allocator."""

    def __init__(self) -> None:
        self.default_stream = self.current = Stream()
        self.pools: dict[Any, Pool] = {}
        self.underway: list[Any] = []  # pools that captures allocate from, as the allocator believes
        self.capturing: Graph | None = None
        self.workspaces: dict[Stream, Pool | None] = {}  # of cuBLAS; None is ordinary memory
        self.handles = itertools.count(1)
        self.refusal: str | None = None  # why the driver invalidates the next capture

    def gemm(self) -> None:
        """A product by cuBLAS on the current stream, which needs a workspace there."""
        if self.current not in self.workspaces:
            pool = self.pools[self.underway[-1]] if self.capturing else None
            self.workspaces[self.current] = pool
            if pool is not None:
                pool.live_blocks += 1

    def free_workspaces(self) -> None:
        for pool in self.workspaces.values():
            if pool is not None:
                pool.live_blocks -= 1
        self.workspaces.clear()
        self._sweep()

    def begin(self, pool: Any) -> None:
        if pool in self.pools:
            if self.pools[pool].use_count <= 0:
                raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED")
            self.pools[pool].use_count += 1
        else:
            self.pools[pool] = Pool()
        self.underway.append(pool)

    def release(self, pool: Any) -> None:
        self.pools[pool].use_count -= 1
        self._sweep()

    def _sweep(self) -> None:
        """Pools that nobody uses are freed once no block of them is left."""
        self.pools = {key: pool for key, pool in self.pools.items() if pool.use_count > 0 or pool.live_blocks > 0}

    def empty_cache(self) -> None:
        if self.underway:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    def stream(self, stream: Stream) -> StreamContext:
        return StreamContext(self, stream)


class StreamContext:
    """A torch.cuda.stream: a stream that was entered stays current until the context is left."""

    def __init__(self, cuda: Cuda, stream: Stream) -> None:
        self.cuda, self.stream = cuda, stream

    def __enter__(self) -> None:
        self.before, self.cuda.current = self.cuda.current, self.stream

    def __exit__(self, *_: object) -> None:
        self.cuda.current = self.before


class Graph:
    """A torch.cuda.CUDAGraph."""

    cuda: Cuda

    def __init__(self) -> None:
        self.pool: Any = None

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global", **_: Any) -> None:
        assert capture_error_mode == "thread_local"
        pool = pool or ("own", next(self.cuda.handles))
        self.cuda.begin(pool)  # before the driver is asked, as PyTorch does
        if self.cuda.refusal is not None:
            raise RuntimeError(self.cuda.refusal)
        self.pool = pool
        self.cuda.capturing = self

    def capture_end(self) -> None:
        self.cuda.capturing = None
        if self.cuda.refusal is not None:  # the allocator isn't told
            raise RuntimeError(self.cuda.refusal)
        self.cuda.underway.remove(self.pool)

    def replay(self) -> None:
        assert self.pool is not None, "never captured"

    def reset(self) -> None:
        if self.pool is not None:
            self.cuda.release(self.pool)
            self.pool = None

    def __del__(self) -> None:
        self.reset()


def install(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """A device in the place of PyTorch's."""
    cuda = Cuda()
    graph = type("CUDAGraph", (Graph,), {"cuda": cuda})
    replaced = {
        "CUDAGraph": graph,
        "Stream": Stream,
        "Event": Event,
        "stream": cuda.stream,
        "current_stream": lambda *_: cuda.current,
        "graph_pool_handle": lambda: ("shared", next(cuda.handles)),
        "device": lambda *_: contextlib.nullcontext(),
        "synchronize": lambda *_: None,
        "empty_cache": cuda.empty_cache,
        "is_current_stream_capturing": lambda: cuda.capturing is not None,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", cuda.free_workspaces)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    return cuda
