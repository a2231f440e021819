"""Runs a model on a backend: packs the weights once, keeps one workspace, feeds batches through in micro-batches.

One engine may be called from many threads (calls take turns: the backend itself uses every core) and survives fork.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from astfast.models.ast.family import AST
from astfast.models.base import Family, ModelConfig
from astfast.ops import Ops
from astfast.scores import activate

Waves = Sequence[NDArray[Any]]  # mono, float32 in [-1, 1] (or int16 where an engine says so), at the model's rate
Batch = Waves | NDArray[np.float32]  # waveforms, or spectrograms [B, max_length, num_mel_bins] as ``features`` gives
Output = Literal["features", "embedding", "logits"]

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine:
    """A model, packed for one backend.

    ``batch_size`` is how many clips go through all layers together; None leaves it to the backend.
    """

    def __init__(
        self, ops: Ops, config: ModelConfig, weights: Any, batch_size: int | None = None, family: Family = AST
    ) -> None:
        self.ops = ops
        self.config = config
        self.batch_size = batch_size or ops.micro_batch(config.num_tokens)
        self.family = family
        self._weights = family.pack(ops, weights)
        self._workspace: dict[str, Any] = {}  # buffers for the largest micro-batch met so far
        self._workspace_clips = 0
        self._lock = threading.Lock()
        _engines.add(self)

    def features(self, waves: Waves) -> NDArray[np.float32]:
        """Mono float32 waveforms at the model's rate -> normalised log-mel [B, max_length, num_mel_bins]."""
        return self._run(waves, "features")

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Waveforms, or spectrograms [B, max_length, num_mel_bins] as ``features`` gives them -> [B, L]."""
        return self._run(batch, "logits")

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """Waveforms or spectrograms -> mean of cls and dist after the final LayerNorm [B, D]."""
        return self._run(batch, "embedding")

    def top_k(self, batch: Batch, k: int, activation: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k best scores of each clip, [B, k], best first, and the indices of their labels, ties by index.

        ``activation`` is one that ``scores.activation_of`` gives.
        """
        scores = activate(self.logits(batch), activation)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, 1), best

    @property
    def accepts_int16(self) -> bool:
        """Whether waveforms may be int16."""
        return False

    def accepts_on_device(self, batch: Any) -> bool:  # noqa: ARG002
        """Whether a batch is a 2-D tensor of clips on the engine's own GPU, or such an array, that a
        CudaGraphEngine takes as a DeviceBatch."""
        return False

    def warmup(self) -> None:
        """Runs the model once on silence, at its full batch size."""
        silence = np.zeros(1, np.float32)
        self.embed([silence] * self.batch_size)

    @property
    def preferred_batch_size(self) -> int:
        """How many clips a caller who has any number of them should hand over at a time."""
        return self.batch_size

    @property
    def hardware(self) -> str:
        """What computes."""
        return self.ops.hardware

    def forward(self, spectrograms: Any) -> Any:
        """Spectrograms [B, max_length, num_mel_bins], float32, where the backend computes -> logits [B, L] there.

        A CUDA tensor never visits the host, and nothing waits for it.
        """
        logits = self.ops.empty((len(spectrograms), self.config.num_labels), "output")
        with self._lock, self.ops.inference():
            start = 0
            for clips, ws in self._micro_batches(spectrograms):
                logits[start : start + len(clips)] = self.family.forward(self.ops, self._weights, clips, ws)
                start += len(clips)
        return logits

    def _run(self, batch: Batch, output: Output) -> NDArray[np.float32]:
        results = []
        with self._lock, self.ops.inference():
            for clips, ws in self._micro_batches(batch):
                if isinstance(clips, np.ndarray):
                    spectrogram = clips
                else:
                    spectrogram = self.ops.log_mel(clips, self.config.front_end, ws["spectrogram"])
                results.append(self.ops.to_host(self._model(spectrogram, ws, output)))
        return np.concatenate(results)

    def _model(self, spectrogram: Any, ws: Mapping[str, Any], output: Output) -> Any:
        if output == "features":
            return spectrogram
        forward = self.family.forward if output == "logits" else self.family.embed
        return forward(self.ops, self._weights, spectrogram, ws)

    def _micro_batches(self, batch: Waves | NDArray[np.float32]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
        """Parts of the batch of equal size but for the last, each with a workspace of that size."""
        for start in range(0, len(batch), self.batch_size):
            clips = batch[start : start + self.batch_size]
            yield clips, self._workspace_of(len(clips))

    def _workspace_of(self, batch: int) -> Mapping[str, Any]:
        """The buffers of the forward pass, cut to this many clips; None where the backend makes its own."""
        if self._workspace_clips < batch:
            spec = self.family.workspace(self.config)
            self._workspace = {name: self.ops.empty((batch, *shape), kind) for name, (shape, kind) in spec.items()}
            self._workspace_clips = batch
        return {name: None if part is None else part[:batch] for name, part in self._workspace.items()}


def _unlock_after_fork() -> None:
    """A fork copies locks as they are: a child gets fresh ones, and workspaces that no other thread was writing."""
    for engine in _engines:
        engine._lock = threading.Lock()
        engine._workspace_clips = 0


os.register_at_fork(after_in_child=_unlock_after_fork)
