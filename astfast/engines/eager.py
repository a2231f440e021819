"""Runs a model on a backend without graphs: one workspace, batches in micro-batches, recorded forward passes.

One engine may be called from many threads (calls take turns: buffers are its own) and survives fork.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from astfast.engines import locks
from astfast.engines.base import Batch, DeviceBatch, FloatArray, ModelEngine, Output, compute
from astfast.models.base import Model
from astfast.ops import Ops

RECORDED = 32  # forward passes that are kept: of each number of clips, their frames, and output


class Recorded(NamedTuple):
    """A forward pass of so many clips of so many frames."""

    spectrograms: Any  # buffer [B, frames, mels] that the front end may write to; None where the backend makes its own
    run: Callable[[Any], Any]  # spectrograms of that shape -> an output of them, valid until the next forward pass


class EagerEngine(ModelEngine):
    """The engine of backends whose ops compute when they are called."""

    def __init__(self, ops: Ops, model: Model, batch_size: int | None = None) -> None:
        super().__init__(ops, model, batch_size)
        self._workspace: dict[str, Any] = {}  # buffers for the largest micro-batch met so far
        self._workspace_clips = 0
        self._recorded: dict[tuple[int, int, Output], Recorded] = {}  # by clips, frames, output; the last used is last
        self.lock = threading.Lock()
        locks.watch(self)

    def unlock(self) -> None:
        self.lock = threading.Lock()
        self._workspace_clips = 0  # another thread may be writing to the workspace

    def replica(self, ops: Ops) -> EagerEngine:
        """An engine of the same weights on other ops that are packed alike."""
        made = copy.copy(self)
        made.ops, made._workspace, made._recorded, made._known_tokens = ops, {}, {}, {}
        made.unlock()
        locks.watch(made)
        return made

    @property
    def preferred_batch_size(self) -> int:
        return self.batch_size

    @property
    def accepts_int16(self) -> bool:
        return False

    def accepts_on_device(self, batch: DeviceBatch) -> bool:  # noqa: ARG002
        return False

    def warmup(self) -> None:
        self.embed([np.zeros(1, np.float32)] * self.batch_size)

    def forward(self, spectrograms: Any) -> Any:
        logits = self.ops.empty((len(spectrograms), self.config.num_labels), "output")
        with locks.turn(self), self.ops.inference():
            start = 0
            for clips, recorded in self._micro_batches(spectrograms, spectrograms.shape[1], "logits"):
                logits[start : start + len(clips)] = recorded.run(clips)
                start += len(clips)
        return logits

    def _head(self, embeddings: FloatArray) -> FloatArray:
        with locks.turn(self), self.ops.inference():
            out = self.ops.empty((len(embeddings), self.config.num_labels), "output")
            return self.ops.to_host(self.ops.head(embeddings, self.weights.head, out))

    def _run(self, batch: Batch, output: Output) -> FloatArray:
        results = []
        with locks.turn(self), self.ops.inference():
            for clips, recorded in self._micro_batches(batch, self._frames(batch), output):
                if isinstance(clips, np.ndarray):
                    spectrograms = clips
                else:
                    spectrograms = self.ops.log_mel(clips, self.config.front_end, recorded.spectrograms)
                results.append(self.ops.to_host(recorded.run(spectrograms)))
        return np.concatenate(results)

    def _micro_batches(self, batch: Any, frames: int, output: Output) -> Iterator[tuple[Any, Recorded]]:
        """Parts of the batch of equal size but for the last, each with a forward pass of that size and so many
        frames."""
        for start in range(0, len(batch), self.batch_size):
            clips = batch[start : start + self.batch_size]
            yield clips, self._recorded_of(len(clips), frames, output)

    def _recorded_of(self, batch: int, frames: int, output: Output) -> Recorded:
        """The forward pass of so many clips of so many frames."""
        if self._workspace_clips < batch:
            self._workspace, self._workspace_clips = self._allocated(batch), batch
            self._recorded = {}  # they use the buffers that were there before
        key = batch, frames, output
        recorded = self._recorded.pop(key, None)
        if recorded is None:
            ws = self._workspace_of(batch, frames)
            model, weights = self.model, self.weights  # not the engine, which would keep itself alive
            run = self.ops.record(lambda ops, x: compute(ops, model, weights, x, ws, output), ws["spectrogram"])
            recorded = Recorded(ws["spectrogram"], run)
        self._recorded[key] = recorded
        if len(self._recorded) > RECORDED:
            del self._recorded[next(iter(self._recorded))]
        return recorded

    def _workspace_of(self, batch: int, frames: int) -> Mapping[str, Any]:
        """The buffers of the forward pass, cut to this many clips of so many frames; None where the backend makes its
        own."""
        if frames == self.config.max_length:
            return {name: None if part is None else part[:batch] for name, part in self._workspace.items()}
        spec = self.model.family.workspace(self.config.at_length(frames))
        return {name: _part(self._workspace[name], (batch, *shape), kind) for name, (shape, kind) in spec.items()}

    def _allocated(self, batch: int) -> dict[str, Any]:
        """Buffers for so many clips; those that are never in use at once have one place, if they are of one type."""
        family = self.model.family
        spec = dict(family.workspace(self.config))
        groups = family.shared(self.config)
        types = {kind: getattr(self.ops.empty((batch, 1), kind), "dtype", None) for _, kind in spec.values()}
        members = [spec[name] for group in groups for name in group]
        workspace: dict[str, Any] = {}
        if members and len({types[kind] for _, kind in members}) == 1:
            (tokens, *_), kind = members[0]
            width = max(sum(spec[name][0][-1] for name in group) for group in groups)
            buffer = self.ops.empty((batch, tokens, width), kind)
            for group in groups:
                column = 0
                for name in group:
                    (_, columns), _ = spec.pop(name)
                    workspace[name] = None if buffer is None else buffer[..., column : column + columns]
                    column += columns
        return workspace | {name: self.ops.empty((batch, *shape), kind) for name, (shape, kind) in spec.items()}


def _part(buffer: Any, shape: tuple[int, ...], kind: str) -> Any:
    """The beginning of a buffer as one of this shape; outputs are without gaps."""
    if buffer is None:
        return None
    if kind == "output":
        return buffer.reshape(-1)[: math.prod(shape)].reshape(shape)
    return buffer[tuple(map(slice, shape))]
