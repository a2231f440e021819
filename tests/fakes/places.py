"""Where tests of the GPU engine run: a GPU, on which a stream's work can be made late, or its stand-in on the CPU.

The stand-in computes with PyTorch's ops at once, but for uploads: they happen when something waits for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from astfast.backends.cuda.autotune import Autotuner
from astfast.backends.cuda.ops import CudaOps
from astfast.backends.cuda.runtime import CudaRuntime, Runtime
from astfast.engines.cuda_graphs import CudaGraphEngine
from astfast.kernels import launch
from astfast.models.base import Model
from tests.fakes.recording_runtime import RecordingRuntime, torch_ops

LATE_CYCLES = 20_000_000  # of a GPU's clock, 10 ms: longer than anything that these tests compute
Late = Literal["upload", "replay", "download"]


class Place:
    """A GPU."""

    device = torch.device("cuda", 0)
    precision = "bfloat16"
    exact = True  # the same bits whatever the batch
    launcher = staticmethod(launch.run)

    def runtime(self) -> Runtime:
        return CudaRuntime(self.device)

    def ops(self, heads: int, runtime: Runtime) -> CudaOps:
        autotuner = Autotuner(runtime, self.launcher, "tests", deterministic=True)
        how: dict[str, Any] = {"runtime": runtime, "autotuner": autotuner, "deterministic": True}
        return CudaOps(heads, self.precision, str(self.device), **how)

    def engine(self, model: Model, batch_size: int, runtime: Runtime | None = None) -> CudaGraphEngine:
        runtime = runtime or self.runtime()
        return CudaGraphEngine(self.ops(model.config.num_attention_heads, runtime), model, batch_size)

    def busy(self) -> None:
        """Keeps the current stream busy for longer than anything that a test computes."""
        torch.cuda._sleep(LATE_CYCLES)

    def stream(self) -> Any:
        """Context of another stream."""
        return torch.cuda.stream(torch.cuda.Stream(self.device))

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)


class DependentLaunches(Place):
    """A GPU whose kernels start while the one before ends."""

    launcher = staticmethod(launch.run_dependent)


class StandIn(Place):
    """The CPU in its place."""

    device = torch.device("cpu")
    precision = "float32"
    exact = False  # PyTorch's products on a CPU are others for other batches

    def runtime(self) -> Runtime:
        return LateUploads()

    def ops(self, heads: int, runtime: Runtime) -> CudaOps:
        return torch_ops(heads, runtime, deterministic=True)  # type: ignore[arg-type]

    def busy(self) -> None:
        """Nothing runs beside anything else."""

    def stream(self) -> Any:
        return contextlib.nullcontext()

    def synchronize(self) -> None:
        """All is done."""


class Slow:
    """A runtime on which uploads, replays of graphs, or downloads come late."""

    def __init__(self, runtime: Runtime, late: Late, busy: Callable[[], None]) -> None:
        self._runtime, self._late, self._busy = runtime, late, busy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    @contextlib.contextmanager
    def upload_stream(self) -> Iterator[None]:
        with self._runtime.upload_stream():
            if self._late == "upload":
                self._busy()
            yield

    def capture(self, work: Callable[[], Any]) -> Callable[[], None]:
        captured = self._runtime.capture(work)

        def replay() -> None:
            if self._late == "replay":
                self._busy()
            captured()
            if self._late == "download":
                self._busy()

        return replay


class Unordered(Slow):
    """A runtime whose streams don't wait for each other once ``waits`` is False: the engine without its events."""

    waits = True

    def wait_event(self, event: Any) -> None:
        if self.waits:
            self._runtime.wait_event(event)


class Deferred(TorchDispatchMode):
    """Copies are not made, but put on a list."""

    def __init__(self, copies: list[Callable[[], Any]]) -> None:
        super().__init__()
        self._copies = copies

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is torch.ops.aten.copy_.default, f"{func} on the stream of uploads"
        self._copies.append(lambda: func(*args, **(kwargs or {})))
        return args[0]


class LateUploads(RecordingRuntime):
    """A runtime on the CPU whose uploads happen when something waits for an event after them."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: list[Callable[[], Any]] = []

    @contextlib.contextmanager
    def upload_stream(self) -> Iterator[None]:
        with super().upload_stream(), Deferred(self._copies):
            yield

    def wait_event(self, event: Any) -> None:
        super().wait_event(event)
        if not self.uploading:
            self.synchronize()

    def synchronize(self) -> None:
        for copy in self._copies:
            copy()
        self._copies.clear()
