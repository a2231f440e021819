"""GPU engine with CUDA graphs: one for each of a few batch sizes and lengths, uploads overlapped with computing.

Calls take turns, since a graph's buffers are its own. Work goes on the caller's current stream. A batch that does not
fit into the device's memory is run in smaller ones.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from astfast import notes
from astfast.backends.cuda.ops import CudaOps
from astfast.backends.cuda.resample import Resampler, can_resample
from astfast.backends.cuda.runtime import Event
from astfast.engines.base import BUFFERS, Batch, DeviceBatch, FloatArray, ModelEngine, Output, compute
from astfast.engines.captured_graph import SLOTS, CapturedGraph, HostClips, InputKind, PendingBatch, input_kind
from astfast.engines.postprocess import Postprocess, identity, top_k_postprocess
from astfast.errors import BackendError
from astfast.models.base import Model, ModelConfig
from astfast.notes import Note

MAX_BUCKET = 64
MAX_LENGTHS = 16  # of spectrograms that graphs are kept of
BATCHES_PER_CALL = 4  # so that uploads overlap with computing
MIN_BUCKET_FILL = 3 / 4  # clips of a bucket from which on it is padded, rather than split into two smaller buckets
T = TypeVar("T")
Clips = Callable[[slice], HostClips | torch.Tensor]  # rows of a batch, as CapturedGraph.submit takes them


class CudaGraphEngine(ModelEngine):
    """One model on one GPU; implements ``engines.base.Engine``. Raises BackendError in a forked child.

    - ``ops``: the GPU backend.
    - ``model``: the model, its weights as read from the checkpoint.
    - ``batch_size``: clips of the largest graph; None for what fills the GPU, at most 64.
    """

    ops: CudaOps

    def __init__(self, ops: CudaOps, model: Model, batch_size: int | None = None) -> None:
        with ops.inference():
            filling = min(MAX_BUCKET, ops.micro_batch(model.config.num_tokens))
            super().__init__(ops, model, batch_size or filling)
        self.buckets = buckets_up_to(self.batch_size)
        self._runtime = ops.runtime
        self._lock = threading.Lock()
        self._graphs: dict[tuple[int, int, InputKind, Output], CapturedGraph] = {}  # by bucket and frames first
        self._workspaces: dict[tuple[int, int], Mapping[str, Any]] = {}  # by bucket and frames
        self._lengths: dict[int, None] = {}  # frames that there are graphs of, the one used last at the end
        self._longest: dict[int, int] = {}  # frames -> the most frames that make as many tokens
        self._resamplers: dict[int, Resampler] = {}
        self._last_call: Event | None = None  # end of its work, on whichever stream that was
        self._process = os.getpid()
        self._warned = False

    @property
    def preferred_batch_size(self) -> int:
        return BATCHES_PER_CALL * self.buckets[-1]

    @property
    def accepts_int16(self) -> bool:
        return True

    @property
    def hardware(self) -> str:
        failure = self._runtime.graphs_failure
        return self.ops.hardware if failure is None else f"{self.ops.hardware}, without CUDA graphs ({failure})"

    def accepts_on_device(self, batch: DeviceBatch) -> bool:
        """Whether the waves are a 2-D tensor on this GPU, or a NumPy array, of float32 or int16 samples, one or more,
        at a rate that this engine resamples."""
        waves = batch.waves
        if isinstance(waves, torch.Tensor):
            eligible = waves.device == self.ops.device and waves.dtype in (torch.float32, torch.int16)
        else:
            eligible = type(waves) is np.ndarray and waves.dtype in (np.float32, np.int16)
        return eligible and waves.ndim == 2 and 0 not in waves.shape and can_resample(batch.rate, self.sampling_rate)

    def top_k(self, batch: Batch, k: int, activation: str = "auto") -> tuple[FloatArray, NDArray[np.int64]]:
        """The k best scores [B, k], best first, and the indices of their labels; ties by index. Only these are
        downloaded."""
        if not self._one_length and not isinstance(batch, np.ndarray | DeviceBatch):
            return super().top_k(batch, k, activation)  # of clips of many lengths, in groups
        scores, labels = self._run_batch(batch, "logits", top_k_postprocess(k, self._activation(activation)))
        return self._checked(scores, "scores", batch), labels

    def forward(self, spectrograms: torch.Tensor) -> torch.Tensor:
        """Spectrograms [B, max_length, num_mel_bins] float32 on this GPU -> logits [B, L] float32 there.

        Runs on the caller's current stream and never blocks the host.
        """
        logits = torch.empty((len(spectrograms), self.config.num_labels), device=self.ops.device)

        def run(graph: CapturedGraph, rows: slice) -> slice:
            graph.load(spectrograms[rows])
            graph.replay()
            logits[rows] = graph.output[: rows.stop - rows.start]
            return rows

        with self._turn():
            frames = spectrograms.shape[1]
            deque(self._in_buckets(len(spectrograms), frames, "spectrogram", "logits", run), maxlen=0)
        return logits

    def warmup(self) -> None:
        """Autotunes, compiles and captures all that ``logits`` of float32 and int16 waveforms needs, at every batch
        size."""
        output: Output = "logits" if self.config.num_labels else "embedding"
        for bucket, samples in itertools.product(self.buckets, (np.float32, np.int16)):
            if bucket in self.buckets:  # memory may have run out meanwhile
                self._run([np.zeros(1, samples)] * bucket, output)

    def _head(self, embeddings: FloatArray) -> FloatArray:
        with self._turn():
            out = self.ops.empty((len(embeddings), self.config.num_labels), "output")
            return self.ops.to_host(self.ops.head(self._uploaded(embeddings), self._weights.head, out))

    def _run(self, batch: Batch, output: Output) -> FloatArray:
        if output == "features" and isinstance(batch, np.ndarray):
            return np.array(batch, np.float32)  # spectrograms already
        return self._run_batch(batch, output, identity)[0]

    def _run_batch(self, batch: Batch, output: Output, postprocess: Postprocess) -> list[NDArray[Any]]:
        """``postprocess`` of an output of all clips, in order, in host memory."""
        frames = self._frames_of_graph(batch, output) if len(batch) else self.config.max_length
        shape, _ = self.model.family.workspace(self.config.at_length(frames))[BUFFERS[output]]
        parts = [[x.numpy() for x in postprocess(torch.empty((0, *shape)))]]  # all there is of an empty batch
        pending: deque[PendingBatch] = deque()
        with self._turn():
            kind, clips = self._clips(batch)
            try:
                submit = lambda graph, rows: graph.submit(clips(rows), postprocess)  # noqa: E731
                for submitted in self._in_buckets(len(batch), frames, kind, output, submit):
                    pending.append(submitted)
                    if len(pending) == SLOTS:
                        parts.append(pending.popleft().collect())
            finally:  # also after an error: nothing may write to buffers that are being copied
                parts += [submitted.collect() for submitted in pending]
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    def _frames_of_graph(self, batch: Batch, output: Output) -> int:
        """Frames of the spectrograms in the graph for a batch: for waveforms the most that make as many tokens, so that
        there are few graphs."""
        frames = self._frames(batch)
        if output == "features" or isinstance(batch, np.ndarray):
            return frames
        if frames not in self._longest:
            longest = frames
            while longest < self.config.max_length and self._tokens(longest + 1) == self._tokens(frames):
                longest += 1
            self._longest[frames] = longest
        return self._longest[frames]

    def _clips(self, batch: Batch) -> tuple[InputKind, Clips]:
        """Kind of input of a batch, and its rows as a graph takes them: at the model's rate, no longer than it reads.

        Raises AudioError for a rate that can't be resampled on the GPU.
        """
        if not isinstance(batch, DeviceBatch):
            return input_kind(batch), lambda rows: batch[rows]
        waves, on_host = batch.waves, isinstance(batch.waves, np.ndarray)
        if batch.rate == self.sampling_rate:
            if on_host:
                clips = list(waves)
                return input_kind(clips), lambda rows: clips[rows]
            kind: InputKind = "int16" if waves.dtype == torch.int16 else "float32"
            return kind, lambda rows: waves[rows, : self.input_samples]
        if batch.rate not in self._resamplers:
            self._resamplers[batch.rate] = Resampler(batch.rate, self.sampling_rate, self.ops.device)
        resampler = self._resamplers[batch.rate]
        needed = resampler.needed(self.input_samples)

        def resampled(rows: slice) -> torch.Tensor:
            part = self._uploaded(waves[rows, :needed]) if on_host else waves[rows, :needed]
            return resampler(part)[:, : self.input_samples]

        return "float32", resampled

    def _uploaded(self, rows: NDArray[Any]) -> torch.Tensor:
        """Waveforms [B, samples] on the GPU, by way of pinned memory, on the caller's stream."""
        pinned = self._runtime.pinned_zeros(rows.shape, torch.int16 if rows.dtype == np.int16 else torch.float32)
        pinned.numpy()[:] = rows
        return pinned.to(self.ops.device, non_blocking=True)

    def _in_buckets(
        self, clips: int, frames: int, kind: InputKind, output: Output, run: Callable[[CapturedGraph, slice], T]
    ) -> Iterator[T]:
        """``run(graph, rows)`` for all rows of a batch, a bucket at a time; in smaller ones if memory runs out."""
        start = 0
        while start < clips:
            bucket = next_bucket(clips - start, self.buckets)
            rows = slice(start, min(start + bucket, clips))
            result = self._within_memory(run, rows, (bucket, frames), kind, output)
            if result is not None:
                start = rows.stop
                yield result

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One call at a time, on the device after the work of the last one, whichever streams they use."""
        if os.getpid() != self._process:
            raise BackendError(
                "this model was loaded on a GPU before the process forked, and CUDA does not survive a fork: load it "
                "in the child, or start workers with the 'spawn' method"
            )
        with self._lock, self.ops.inference():
            if self._last_call is not None:
                self._runtime.wait_event(self._last_call)
            try:
                yield
            finally:
                self._last_call = self._runtime.record_event()

    def _within_memory(
        self,
        run: Callable[[CapturedGraph, slice], T],
        rows: slice,
        size: tuple[int, int],
        kind: InputKind,
        output: Output,
    ) -> T | None:
        """``run`` with the graph of a size (bucket, frames), or None, and smaller buckets from now on, if memory runs
        out."""
        bucket = size[0]
        try:
            return run(self._graph(size, kind, output), rows)
        except torch.OutOfMemoryError as error:
            message = str(error).splitlines()[0]
        self._runtime.synchronize()
        self._graphs = {key: graph for key, graph in self._graphs.items() if key[0] < bucket}
        self._workspaces = {key: buffers for key, buffers in self._workspaces.items() if key[0] < bucket}
        self._runtime.empty_cache()
        if bucket == self.buckets[0]:
            raise BackendError(f"{self.hardware}: not enough memory even for {bucket} clip at a time: {message}")
        self.buckets = tuple(b for b in self.buckets if b < bucket)
        if not self._warned:
            self._warned = True
            message = (
                f"{self.hardware}: not enough memory for {bucket} clips at a time, going on with {self.buckets[-1]}: "
                "free some, or pass batch_size="
            )
            notes.show(Note(message), RuntimeWarning)
        return None

    def _graph(self, size: tuple[int, int], kind: InputKind, output: Output) -> CapturedGraph:
        key = (*size, kind, output)
        self._keep_length(size[1])
        if key not in self._graphs:
            self._graphs[key] = self._capture(size, kind, output)
        return self._graphs[key]

    def _keep_length(self, frames: int) -> None:
        """Makes a length the one that was used last; frees what there is of the one that was not for longest."""
        self._lengths.pop(frames, None)
        self._lengths[frames] = None
        if len(self._lengths) <= MAX_LENGTHS:
            return
        oldest = next(iter(self._lengths))
        del self._lengths[oldest]
        self._runtime.synchronize()  # a graph may be running
        self._graphs = {key: graph for key, graph in self._graphs.items() if key[1] != oldest}
        self._workspaces = {key: buffers for key, buffers in self._workspaces.items() if key[1] != oldest}

    def _capture(self, size: tuple[int, int], kind: InputKind, output: Output) -> CapturedGraph:
        bucket, frames = size
        config = self.config.at_length(frames)
        if size not in self._workspaces:
            spec = self.model.family.workspace(config)
            self._workspaces[size] = {
                name: self.ops.empty((bucket, *shape), buffer) for name, (shape, buffer) in spec.items()
            }
        ws = self._workspaces[size]
        inputs = self._noise(bucket, config, kind)

        def forward() -> None:
            spectrogram = inputs[0]
            if kind != "spectrogram":
                waves, lengths = inputs
                spectrogram = self.ops.log_mel_on_device(waves, lengths, config.front_end, ws["spectrogram"])
            compute(self.ops, self.model, self._weights, spectrogram, ws, output)

        try:
            replay = self._runtime.capture(forward)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            message = (
                f"{self.hardware}: the model can't be captured in a CUDA graph, so that every kernel is launched from "
                f"the host: {error}"
            )
            notes.show(Note(message), RuntimeWarning)
            replay = forward
        return CapturedGraph(self._runtime, inputs, ws[BUFFERS[output]], replay)

    def _noise(self, bucket: int, config: ModelConfig, kind: InputKind) -> tuple[torch.Tensor, ...]:
        """Inputs of a graph, filled with noise to check kernels on. Does not touch the global RNG state."""
        device = self.ops.device
        samples = config.front_end.input_samples
        shape: tuple[int, ...] = (bucket, samples)
        if kind == "spectrogram":
            shape = (bucket, config.max_length, config.num_mel_bins)
        noise = torch.randn(shape, generator=torch.Generator(device).manual_seed(0), device=device)
        if kind == "spectrogram":
            return (0.5 * noise,)
        lengths = torch.full((bucket,), samples, dtype=torch.int32, device=device)
        return (3000 * noise).to(torch.int16) if kind == "int16" else 0.1 * noise, lengths

    def __del__(self) -> None:
        """Waits for the device, since buffers are freed here."""
        last: Event | None = getattr(self, "_last_call", None)
        if last is not None and os.getpid() == self._process:
            last.synchronize()


def buckets_up_to(largest: int) -> tuple[int, ...]:
    """Batch sizes of graphs: 1, 2, 4, .. below ``largest``, and ``largest`` itself."""
    return (*itertools.takewhile(lambda bucket: bucket < largest, (1 << i for i in itertools.count())), largest)


def next_bucket(clips: int, buckets: tuple[int, ...]) -> int:
    """Bucket for the first of ``clips`` clips: the largest that they fill, or a larger one that they nearly fill."""
    filled = max(bucket for bucket in buckets if bucket <= clips)
    above = [bucket for bucket in buckets if bucket > clips >= MIN_BUCKET_FILL * bucket]
    return min(above, default=filled)
