"""Runs a model on a GPU: a graph for each batch size of a few, batches through them while the next is uploaded.

Calls take turns (a graph's buffers are its own), work goes on the caller's current stream, and a batch for which the
device's memory is too small goes through in smaller ones.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from astfast.audio.files import VALUES_PER_BLOCK
from astfast.audio.inputs import LOUD
from astfast.backends.cuda.ops import CudaOps
from astfast.backends.cuda.resample import Resampler
from astfast.backends.cuda.runtime import Event
from astfast.engines.captured_graph import SLOTS, Finish, Kind, Program, Running, kind_of
from astfast.engines.eager import Batch, Engine, Output
from astfast.errors import AudioError, BackendError
from astfast.models.ast.family import AST
from astfast.models.base import Family, ModelConfig

LARGEST_BUCKET = 64
BATCHES_A_CALL = 4  # so that uploads have something to overlap with
PADDED = 3 / 4  # a bucket is taken by so many of its clips rather than by two smaller buckets
BUFFERS: dict[Output, str] = {"features": "spectrogram", "embedding": "embedding", "logits": "logits"}
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": partial(torch.softmax, dim=-1),
    "none": lambda logits: logits,
}
T = TypeVar("T")
Rows = TypeVar("Rows", torch.Tensor, torch.Tensor | NDArray[Any])  # of a batch


class DeviceEngine(Engine):
    """The engine of the GPU backend. Waveforms may also be int16. Raises BackendError in a forked child.

    ``batch_size``: the largest bucket; None takes what fills a GPU, or 64.
    """

    ops: CudaOps

    def __init__(
        self, ops: CudaOps, config: ModelConfig, weights: Any, batch_size: int | None = None, family: Family = AST
    ) -> None:
        with ops.inference():
            fitting = min(LARGEST_BUCKET, ops.micro_batch(config.num_tokens))
            super().__init__(ops, config, weights, batch_size or fitting, family)
        self.buckets = buckets_up_to(self.batch_size)
        self._runtime = ops.runtime
        self._programs: dict[tuple[int, Kind, Output], Program] = {}
        self._workspaces: dict[int, Mapping[str, Any]] = {}
        self._resamplers: dict[int, Resampler] = {}
        self._last: Event | None = None  # the end of the last call's work, on whatever stream that was
        self._process = os.getpid()
        self._warned = False

    @property
    def takes_int16(self) -> bool:
        return True

    @property
    def clips_a_call(self) -> int:
        return BATCHES_A_CALL * self.buckets[-1]

    def warmup(self) -> None:
        """Checks, compiles and captures everything that ``logits`` of float32 waveforms needs, at every batch size."""
        silence = np.zeros(1, np.float32)
        for bucket in self.buckets:
            if bucket in self.buckets:  # memory may have run out on the way
                self._run([silence] * bucket, "logits" if self.config.num_labels else "embedding")

    def forward(self, spectrograms: torch.Tensor) -> torch.Tensor:
        """Spectrograms [B, max_length, num_mel_bins], float32, on this device -> logits [B, L] there.

        On the caller's current stream; the host waits for nothing.
        """

        def enter(program: Program, rows: torch.Tensor) -> None:
            program.inputs[0][: len(rows)].copy_(rows)

        return self._on_device(spectrograms, "spectrogram", enter)

    def hear(self, waves: torch.Tensor | NDArray[Any], rate: int) -> torch.Tensor:
        """Waveforms [B, samples], float32 in [-1, 1] or int16, at ``rate`` Hz -> logits [B, L] on this device.

        A tensor is on this device already; an array goes up as it is, a bucket of clips at a time. On the caller's
        current stream; the host waits for nothing. Raises AudioError for a rate that can't be resampled on a device,
        and for an array with samples that are not finite or far from [-1, 1].
        """
        samples, target = self.config.front_end.input_samples, self.config.front_end.sampling_rate
        needed, resampler = samples, None
        if rate != target:
            if rate not in self._resamplers:
                self._resamplers[rate] = Resampler(rate, target, self.ops.device)
            resampler = self._resamplers[rate]
            needed = resampler.needed(samples)

        def enter(program: Program, rows: torch.Tensor | NDArray[Any]) -> None:
            rows = self._uploaded(rows, needed) if isinstance(rows, np.ndarray) else rows[:, :needed]
            rows = (rows if resampler is None else resampler(rows))[:, :samples]
            program.inputs[0][: len(rows), : rows.shape[1]].copy_(rows)
            program.inputs[1][: len(rows)].fill_(rows.shape[1])

        int16 = np.int16 if isinstance(waves, np.ndarray) else torch.int16
        as_it_is = waves.dtype == int16 and resampler is None
        return self._on_device(waves, "int16" if as_it_is else "float32", enter)

    def hears(self, batch: Any) -> bool:
        if isinstance(batch, torch.Tensor):
            there = batch.device == self.ops.device and batch.dtype in (torch.float32, torch.int16)
        else:
            there = type(batch) is np.ndarray and batch.dtype in (np.float32, np.int16)
        return there and batch.ndim == 2 and 0 not in batch.shape

    def _uploaded(self, rows: NDArray[Any], needed: int) -> torch.Tensor:
        """The first ``needed`` samples of clips in host memory, by way of pinned memory, on the caller's stream.

        What is checked reaches as far as the CPU path reads, or farther. Raises AudioError where that path would raise
        or warn.
        """
        read = rows[:, : needed + 2 * VALUES_PER_BLOCK]
        if read.dtype == np.float32 and not (read.min() >= -LOUD and read.max() <= LOUD):  # NaN is neither
            raise AudioError(f"an array of clips holds samples that are not finite, or far from [-1, 1] (+-{LOUD:g})")
        rows = rows[:, :needed]
        pinned = self._runtime.pinned_zeros(rows.shape, torch.int16 if rows.dtype == np.int16 else torch.float32)
        pinned.numpy()[:] = rows
        return pinned.to(self.ops.device, non_blocking=True)

    def _on_device(self, batch: Rows, kind: Kind, enter: Callable[[Program, Rows], None]) -> torch.Tensor:
        """Logits [B, L] of what ``enter`` puts into the inputs of programs, some rows of the batch at a time."""
        logits = torch.empty((len(batch), self.config.num_labels), device=self.ops.device)

        def run(program: Program, start: int, clips: int) -> bool:
            enter(program, batch[start : start + clips])
            program.replay()
            logits[start : start + clips] = program.output[:clips]
            return True

        with self._turn():
            start = 0
            while start < len(batch):
                bucket = next_bucket(len(batch) - start, self.buckets)
                clips = min(bucket, len(batch) - start)
                if self._within_memory(partial(run, start=start, clips=clips), bucket, kind, "logits"):
                    start += clips
        return logits

    def top_k(self, batch: Batch, k: int, activation: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scores, labels = self._through(batch, "logits", best(k, activation))
        return scores, labels

    def _run(self, batch: Batch, output: Output) -> NDArray[np.float32]:
        return self._through(batch, output, whole)[0]

    def _through(self, batch: Batch, output: Output, finish: Finish) -> list[NDArray[Any]]:
        """``finish`` of the output of all clips, in order, on the host."""
        parts: list[list[NDArray[Any]]] = []
        under_way: deque[Running] = deque()
        kind = kind_of(batch)
        with self._turn():
            try:
                start = 0
                while start < len(batch):
                    bucket = next_bucket(len(batch) - start, self.buckets)
                    clips = batch[start : start + bucket]
                    submit = partial(Program.submit, clips=clips, finish=finish)
                    running = self._within_memory(submit, bucket, kind, output)
                    if running is None:
                        continue
                    under_way.append(running)
                    start += len(clips)
                    if len(under_way) == SLOTS:
                        parts.append(under_way.popleft().collect())
            finally:  # whatever went wrong: nobody may write to buffers that are being copied
                parts += [running.collect() for running in under_way]
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One call at a time, after the work of the last one, whatever streams they use."""
        if os.getpid() != self._process:
            raise BackendError(
                "this model was loaded on a GPU before the process forked, and CUDA does not survive a fork: load it "
                "in the child, or start workers with the 'spawn' method"
            )
        with self._lock, self.ops.inference():
            if self._last is not None:
                self._runtime.wait_event(self._last)
            try:
                yield
            finally:
                self._last = self._runtime.record_event()

    def _within_memory(self, work: Callable[[Program], T], bucket: int, kind: Kind, output: Output) -> T | None:
        """``work`` with the program of a bucket; None if there is too little memory, and smaller buckets now."""
        try:
            return work(self._program(bucket, kind, output))
        except torch.OutOfMemoryError as error:
            message = str(error).splitlines()[0]
        self._runtime.synchronize()
        self._programs = {key: program for key, program in self._programs.items() if key[0] < bucket}
        self._workspaces = {key: buffers for key, buffers in self._workspaces.items() if key < bucket}
        self._runtime.empty_cache()
        if bucket == self.buckets[0]:
            raise BackendError(f"{self.hardware}: not enough memory even for {bucket} clip at a time: {message}")
        self.buckets = tuple(b for b in self.buckets if b < bucket)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.hardware}: not enough memory for {bucket} clips at a time, going on with {self.buckets[-1]}: "
                "free some, or pass batch_size=",
                RuntimeWarning,
                stacklevel=2,
            )
        return None

    def _program(self, bucket: int, kind: Kind, output: Output) -> Program:
        key = (bucket, kind, output)
        if key not in self._programs:
            self._programs[key] = self._captured(bucket, kind, output)
        return self._programs[key]

    def _captured(self, bucket: int, kind: Kind, output: Output) -> Program:
        if bucket not in self._workspaces:
            spec = self.family.workspace(self.config)
            self._workspaces[bucket] = {
                name: self.ops.empty((bucket, *shape), buffer) for name, (shape, buffer) in spec.items()
            }
        ws = self._workspaces[bucket]
        inputs = self._noise(bucket, kind)

        def compute() -> None:
            spectrogram = inputs[0]
            if kind != "spectrogram":
                waves, lengths = inputs
                spectrogram = self.ops.log_mel_on_device(waves, lengths, self.config.front_end, ws["spectrogram"])
            self._model(spectrogram, ws, output)

        try:
            replay = self._runtime.capture(compute)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            warnings.warn(
                f"{self.hardware}: no graph of the model can be captured, so that every kernel is launched from the "
                f"host: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            replay = compute
        return Program(self._runtime, inputs, ws[BUFFERS[output]], replay)

    def _noise(self, bucket: int, kind: Kind) -> tuple[torch.Tensor, ...]:
        """Inputs of a program, filled with what kernels can be checked on; the caller's random numbers stay his."""
        front_end = self.config.front_end
        device = self.ops.device
        shape: tuple[int, ...] = (bucket, front_end.input_samples)
        if kind == "spectrogram":
            shape = (bucket, front_end.max_length, front_end.num_mel_bins)
        noise = torch.randn(shape, generator=torch.Generator(device).manual_seed(0), device=device)
        if kind == "spectrogram":
            return (0.5 * noise,)
        lengths = torch.full((bucket,), front_end.input_samples, dtype=torch.int32, device=device)
        return (3000 * noise).to(torch.int16) if kind == "int16" else 0.1 * noise, lengths

    def __del__(self) -> None:
        """Buffers are freed only when the device has done with them."""
        last: Event | None = getattr(self, "_last", None)
        if last is not None and os.getpid() == self._process:
            last.synchronize()


def buckets_up_to(largest: int) -> tuple[int, ...]:
    """1, 2, 4, .. below ``largest``, and ``largest`` itself."""
    return (*itertools.takewhile(lambda bucket: bucket < largest, (1 << i for i in itertools.count())), largest)


def next_bucket(clips: int, buckets: tuple[int, ...]) -> int:
    """The bucket for the first of so many clips: the largest that they fill, or a larger one that they nearly fill."""
    filled = max(bucket for bucket in buckets if bucket <= clips)
    above = [bucket for bucket in buckets if bucket > clips >= PADDED * bucket]
    return min(above, default=filled)


def whole(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The Finish of who asks for all of an output."""
    return (x,)


def best(k: int, activation: str) -> Finish:
    """The Finish of who asks for the k best scores [B, k] and their labels: logits stay on the device."""

    def finish(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = ACTIVATIONS[activation](logits.double()).float()
        ordered = torch.sort(scores, dim=1, descending=True, stable=True)  # ties by index, which topk leaves open
        return ordered.values[:, :k], ordered.indices[:, :k]

    return finish
