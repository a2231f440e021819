"""A runtime that records calls instead of a GPU's streams and graphs, and a GPU backend of PyTorch's ops on it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from astfast.backends.cuda.autotune import NO_COMPILER, Autotuner
from astfast.backends.cuda.ops import CudaOps, Target
from astfast.backends.cuda.runtime import HostRuntime
from astfast.engines.cuda_graphs import CudaGraphEngine
from astfast.kernels import launch
from astfast.models.base import Model

GPU = Target(90, 132, "a GPU that is not here")


class RecordedEvent:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def synchronize(self) -> None:
        self.log.append("host waits")


class Allocations(TorchDispatchMode):
    """Names of the operators that allocated memory."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not (func.is_view or func._schema.is_mutable):
            self.made.append(str(func))
        return result


class RecordingRuntime(HostRuntime):
    """Runs everything at once, as HostRuntime, and logs what it was asked for; captures as a GPU does."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.uploading = False
        self.captures = 0
        self.made_in_captures: list[str] = []
        self.inside = 0

    @contextlib.contextmanager
    def upload_stream(self) -> Iterator[None]:
        self.log.append("upload")
        self.uploading = True
        yield
        self.uploading = False

    def record_event(self) -> RecordedEvent:
        return RecordedEvent(self.log)

    def wait_event(self, event: RecordedEvent) -> None:
        self.log.append("uploads wait" if self.uploading else "stream waits")

    def synchronize(self) -> None:
        self.log.append("host waits")

    def capture(self, work: Callable[[], Any]) -> Callable[[], None]:
        work()
        self.capturing = True
        with Allocations() as allocations:
            work()
        self.capturing = False
        self.captures += 1
        self.made_in_captures += allocations.made

        def replay() -> None:
            self.log.append("replay")
            self.inside += 1
            assert self.inside == 1, "two calls use a graph's buffers at once"
            work()
            self.inside -= 1

        return replay


def no_compiler(_: launch.Launch) -> None:
    raise RuntimeError(f"{NO_COMPILER}. Please specify via CC environment variable")


def torch_ops(num_heads: int, runtime: RecordingRuntime, deterministic: bool = False) -> CudaOps:
    """The GPU backend in float32 with PyTorch's own ops in the place of all kernels."""
    autotuner = Autotuner(runtime, no_compiler, "test", deterministic)
    autotuner.compiler_missing = True
    return CudaOps(num_heads, "float32", "cpu", target=GPU, runtime=runtime, autotuner=autotuner)


def gpu_engine(model: Model, runtime: RecordingRuntime, batch_size: int = 4) -> CudaGraphEngine:
    """The GPU engine in float32 on CPU tensors."""
    return CudaGraphEngine(torch_ops(model.config.num_attention_heads, runtime), model, batch_size)


def waves(count: int) -> list[np.ndarray]:
    """From half of the model's input to twice as much, and one shorter than a frame."""
    rng = np.random.default_rng(0)
    lengths = [300, *(6000 + 1700 * i % 19000 for i in range(1, count))]
    return [0.1 * rng.standard_normal(length).astype(np.float32) for length in lengths[:count]]


def pcm(batch: list[np.ndarray]) -> list[np.ndarray]:
    return [(32768 * wave).astype(np.int16) for wave in batch]


def at_rate(rate: int, count: int = 5, seconds: float = 0.7) -> torch.Tensor:
    """[count, samples] tones and noise, louder from clip to clip."""
    t = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(2)
    clips = [np.sin(6000 * (i + 1) ** 0.5 * t) + 0.3 * rng.standard_normal(len(t)) for i in range(count)]
    return torch.from_numpy(np.stack([0.02 * (i + 1) * clip for i, clip in enumerate(clips)]).astype(np.float32))
