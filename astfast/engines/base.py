"""The engine protocol: batches of clips in; features, embeddings, logits, scores or the best labels out.

Engines trust what they get: inputs are checked by ``astfast.audio``. An engine may be called from many threads; calls
take turns, since one call uses all of the hardware that the engine was given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from astfast.engines import packed_weights
from astfast.engines.parts import scores_in_parts, scores_in_pieces
from astfast.errors import AstfastError, AudioError
from astfast.models.base import Model, ModelConfig
from astfast.models.vit_family import merged_share
from astfast.ops import Ops
from astfast.scores import activate, activation_of, top_k

FloatArray = NDArray[np.float32]
Waves = Sequence[NDArray[Any]]  # mono, float32 in [-1, 1] (or int16 where ``accepts_int16``), at the model's rate
Output = Literal["features", "embedding", "logits"]
BUFFERS: dict[Output, str] = {"features": "spectrogram", "embedding": "embedding", "logits": "logits"}  # of a workspace


@dataclass(frozen=True)
class DeviceBatch:
    """Clips of one length that a GPU engine takes as they are, see ``Engine.accepts_on_device``."""

    waves: Any  # [B, samples] float32 in [-1, 1] or int16; a tensor on the engine's device, or an array in host memory
    rate: int  # Hz

    def __len__(self) -> int:
        return len(self.waves)

    def __getitem__(self, rows: slice) -> DeviceBatch:
        return DeviceBatch(self.waves[rows], self.rate)


Batch = Waves | FloatArray | DeviceBatch  # an array holds spectrograms [B, max_length, num_mel_bins]


class Engine(Protocol):
    """One model on one device, the same model on several, or an ensemble of models."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Display names of the labels by index; empty without a classifier."""
        ...

    @property
    def config(self) -> ModelConfig:
        """Config of the model. An ensemble has none and raises AstfastError, as in all calls marked (single model)."""
        ...

    @property
    def sampling_rate(self) -> int:
        """Rate of the waveforms, Hz."""
        ...

    @property
    def input_samples(self) -> int:
        """Samples that fill the model's input; of an ensemble, its longest."""
        ...

    @property
    def backend(self) -> str:
        """Name of the backend and its precision, for instance "cpu bfloat16"."""
        ...

    @property
    def hardware(self) -> str:
        """Name of the compute device: instruction set and threads, or the GPU."""
        ...

    @property
    def about(self) -> str:
        """Backend, precision and why, hardware, and where the weights are: for people."""
        ...

    @property
    def batch_size(self) -> int:
        """Clips that go through the model together."""
        ...

    @property
    def preferred_batch_size(self) -> int:
        """Clips that a caller with many of them should pass in one call."""
        ...

    @property
    def accepts_int16(self) -> bool:
        """Whether waveforms may be int16."""
        ...

    def accepts_on_device(self, batch: DeviceBatch) -> bool:
        """Whether this engine takes a batch as it is; another has to come as waveforms at the model's rate."""
        ...

    def features(self, batch: Batch) -> FloatArray:
        """Waveforms -> normalised log-mel spectrograms [B, max_length, num_mel_bins] (single model)."""
        ...

    def embed(self, batch: Batch) -> FloatArray:
        """Waveforms or spectrograms -> embeddings [B, D] (single model)."""
        ...

    def logits(self, batch: Batch) -> FloatArray:
        """Waveforms or spectrograms -> logits [B, L] (single model)."""
        ...

    def scores(self, batch: Batch, activation: str = "auto") -> FloatArray:
        """Waveforms or spectrograms -> scores [B, L]; ``activation`` as in ``scores.activation_of``."""
        ...

    def window_scores(self, waves: Batch, activation: str = "auto", aggregate: str = "mean") -> FloatArray:
        """Waveforms of any length -> scores [B, L]; one that is longer than a model's input is scored in parts, and
        the ``aggregate`` is taken over them. In every other output the beginning counts."""
        ...

    def scores_and_embeddings(self, waves: Batch, activation: str = "auto") -> tuple[FloatArray, FloatArray]:
        """Waveforms -> ``window_scores`` [B, L], and embeddings [B, D]: the mean over the parts of a longer waveform
        (single model)."""
        ...

    def top_k(self, batch: Batch, k: int, activation: str = "auto") -> tuple[FloatArray, NDArray[np.int64]]:
        """The k best scores [B, k], best first, and the indices of their labels; ties by index."""
        ...

    def forward(self, spectrograms: Any) -> Any:
        """Spectrograms [B, max_length, num_mel_bins] float32 in the backend's memory -> logits [B, L] there.

        A CUDA tensor is not copied to the host, and nothing waits for the device (single model).
        """
        ...

    def warmup(self) -> None:
        """One pass over silence, so that the first call is as fast as later ones."""
        ...


class ModelEngine(ABC):
    """The part of an engine that is the same on every device: one model, packed for one backend.

    ``batch_size``: clips that go through all layers together; None is the backend's choice.
    """

    def __init__(self, ops: Ops, model: Model, batch_size: int | None = None) -> None:
        self.ops = ops
        self.model = model
        self._batch_size = batch_size or ops.micro_batch(model.config.num_tokens)
        self._weights, self._are_shared = packed_weights.pack(ops, model)
        self.why = ""  # this precision, where it was compared with float32
        self._one_length = model.config.front_end.frames_read(1) == model.config.max_length
        self._known_tokens: dict[int, int] = {}  # by frames

    @property
    def labels(self) -> tuple[str, ...]:
        return self.config.labels

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def weights(self) -> Any:
        """The model's weights as ``ops`` packed them."""
        return self._weights

    @property
    def sampling_rate(self) -> int:
        return self.config.front_end.sampling_rate

    @property
    def input_samples(self) -> int:
        return self.config.front_end.input_samples

    @property
    def backend(self) -> str:
        return f"{self.ops.name} {self.ops.precision}"

    @property
    def hardware(self) -> str:
        return self.ops.hardware

    @property
    def about(self) -> str:
        where = "in the cache of packed weights, shared" if self._are_shared else "packed by this process"
        why = f" ({self.why})" if self.why else ""
        share = merged_share(self._weights)
        merging = f", {share:.0%} of the tokens merged" if share else ""
        return f"{self.backend}{why}, {self.hardware}, weights {where}{merging}"

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def features(self, batch: Batch) -> FloatArray:
        return self._output(batch, "features")

    def embed(self, batch: Batch) -> FloatArray:
        return self._output(batch, "embedding")

    def logits(self, batch: Batch) -> FloatArray:
        return self._output(batch, "logits")

    def scores(self, batch: Batch, activation: str = "auto") -> FloatArray:
        return activate(self.logits(batch), self._activation(activation))

    def window_scores(self, waves: Batch, activation: str = "auto", aggregate: str = "mean") -> FloatArray:
        return self._in_parts(lambda parts: self.scores(parts, activation), waves, aggregate)

    def scores_and_embeddings(self, waves: Batch, activation: str = "auto") -> tuple[FloatArray, FloatArray]:
        def both(parts: Any) -> FloatArray:
            logits, embeddings = self._logits_and_embeddings(parts)
            return np.concatenate([activate(logits, self._activation(activation)), embeddings], axis=1)  # [P, L + D]

        found = self._in_parts(both, waves, "mean")
        return found[:, : self.config.num_labels], found[:, self.config.num_labels :]

    def _in_parts(self, score: Callable[[Any], FloatArray], waves: Any, aggregate: str) -> FloatArray:
        """``score`` of waveforms of any length, by the rule of the model's family for those that are too long."""
        if self.config.cuts_spectrogram:
            front_end: Any = self.config.front_end  # a CentredLogMel
            return scores_in_pieces(score, self.features, waves, front_end, aggregate)
        return scores_in_parts(score, waves, self.input_samples, self.sampling_rate, aggregate)

    def _logits_and_embeddings(self, waves: Waves) -> tuple[FloatArray, FloatArray]:
        """By one forward pass: the head is the last op of every model, and reads the embeddings."""
        embeddings = self.embed(waves)
        return self._checked(self._head(embeddings), "logits", waves), embeddings

    @abstractmethod
    def _head(self, embeddings: FloatArray) -> FloatArray:
        """Embeddings [B, D] in host memory -> logits [B, L] there."""

    def top_k(self, batch: Batch, k: int, activation: str = "auto") -> tuple[FloatArray, NDArray[np.int64]]:
        return top_k(self.scores(batch, activation), k)

    def _activation(self, asked: str) -> str:
        return activation_of(self.config.problem_type, self.config.num_labels, asked)

    def _output(self, batch: Batch, output: Output) -> FloatArray:
        result = self._of_any_length(batch, output)
        return result if output == "features" else self._checked(result, output, batch)

    def _of_any_length(self, batch: Batch, output: Output) -> FloatArray:
        if not len(batch):
            shape, _ = self.model.family.workspace(self.config)[BUFFERS[output]]
            return np.empty((0, *shape), np.float32)
        if self._one_length or isinstance(batch, np.ndarray | DeviceBatch):
            return self._run(batch, output)
        groups = self._groups(batch, output)
        if len(groups) == 1:
            return self._run(batch, output)
        parts = [(rows, self._run([batch[row] for row in rows], output)) for rows in groups]
        shapes = {part.shape[1:] for _, part in parts}
        if len(shapes) > 1:
            raise AudioError(
                f"<batch>: spectrograms of {min(shapes)[0]} to {max(shapes)[0]} frames make no array: this model reads "
                "clips as long as they are; ask for the features of clips of one length at a time"
            )
        result = np.empty((len(batch), *shapes.pop()), np.float32)
        for rows, part in parts:
            result[rows] = part
        return result

    def _frames(self, batch: Batch) -> int:
        """Frames of the spectrograms of a batch, each of which has as many patches: of the longest."""
        if isinstance(batch, np.ndarray):
            return int(batch.shape[1])
        if isinstance(batch, DeviceBatch):
            return self.config.front_end.frames_read(batch.waves.shape[1] * self.sampling_rate // batch.rate)
        return max(self.config.front_end.frames_read(len(wave)) for wave in batch)

    def _groups(self, waves: Waves, output: Output) -> list[list[int]]:
        """Indices of clips that run together: of as many tokens, or frames if these are asked for."""
        groups: dict[int, list[int]] = {}
        for index, wave in enumerate(waves):
            frames = self.config.front_end.frames_read(len(wave))
            groups.setdefault(frames if output == "features" else self._tokens(frames), []).append(index)
        return list(groups.values())

    def _tokens(self, frames: int) -> int:
        """Tokens of a spectrogram of so many frames."""
        if frames not in self._known_tokens:
            self._known_tokens[frames] = self.config.at_length(frames).num_tokens
        return self._known_tokens[frames]

    def _checked(self, result: FloatArray, what: str, batch: Batch) -> FloatArray:
        """One row a clip. Raises AstfastError for values that are not finite, but for those of a clip that isn't."""
        if np.isfinite(result).all():
            return result
        fine = np.isfinite(result).all(axis=1)
        if isinstance(batch, DeviceBatch) and not isinstance(batch.waves, np.ndarray):
            fine |= ~batch.waves.isfinite().all(1).cpu().numpy()
        if not fine.all():
            cure = "check the checkpoint" if self.ops.precision == "float32" else "load it with precision='float32'"
            raise AstfastError(
                f"{self.backend}: {what} not finite for clip {int(np.argmin(fine))} of a batch of {len(result)}: the "
                f"model's numbers overflow: {cure}"
            )
        return result

    @abstractmethod
    def _run(self, batch: Batch, output: Output) -> FloatArray:
        """One output of all clips of a batch, at least one, in order, in host memory."""


def compute(ops: Ops, model: Model, weights: Any, spectrogram: Any, ws: Mapping[str, Any], output: Output) -> Any:
    """One output of spectrograms in the backend's memory, in the workspace ``ws``, by ``weights`` of ``ops``."""
    if output == "features":
        return spectrogram
    forward = model.family.forward if output == "logits" else model.family.embed
    return forward(ops, weights, spectrogram, ws)
