"""Model family protocol: how checkpoints of a family are recognised and read, its forward pass and its export.

A family is written against ``astfast.ops`` only; which backend computes is not its business. ``FAMILIES`` in
``models/__init__.py`` lists all of them. docs/architecture.md tells how to add one.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from astfast.checkpoints.lazy_tensor import LazyTensor
from astfast.checkpoints.sources import CheckpointFiles
from astfast.file_identity import identity
from astfast.front_end import FrontEnd
from astfast.ops import Ops

if TYPE_CHECKING:
    from typing_extensions import Self

LabelNames = Iterable[str] | str | PathLike[str] | None  # names in order, a file of them (``labels.read``), or unknown


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ABC):
    """Model config as everything outside a family reads it: labels, front end, the sizes that engines need."""

    labels: tuple[str, ...] = ()  # display names by index; empty for a model without a classifier
    problem_type: str | None = None  # "single_label_classification", "multi_label_classification" or unknown
    front_end: FrontEnd
    cuts_spectrogram: bool = False  # of longer clips, and not their waveforms: see ``engines.parts``

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    @property
    def num_mel_bins(self) -> int:
        return self.front_end.num_mel_bins

    @property
    def max_length(self) -> int:
        """Frames of the spectrogram that the model reads."""
        return self.front_end.max_length

    def at_length(self, frames: int) -> Self:
        """The config of the same model on spectrograms of so many frames."""
        if frames == self.max_length:
            return self
        return replace(self, front_end=replace(self.front_end, max_length=frames))

    @property
    @abstractmethod
    def embedding_size(self) -> int:
        """Length of an embedding, D."""

    @property
    @abstractmethod
    def num_tokens(self) -> int:
        """Tokens of a clip, T, by which backends choose how many clips they compute together."""

    @property
    @abstractmethod
    def num_attention_heads(self) -> int:
        """Attention heads, H; 1 for a model without attention."""


@dataclass(frozen=True)
class Model:
    """A model that an engine can run: which family, its config, and its weights (see ``Family.pack``)."""

    family: Family
    config: ModelConfig
    weights: Any


@dataclass(frozen=True)
class Exported:
    """A model in a layout that transformers reads: contents of the files of a Hugging Face folder."""

    tensors: Mapping[str, LazyTensor]  # of model.safetensors, by name
    config: Mapping[str, Any]  # config.json
    preprocessor: Mapping[str, Any]  # preprocessor_config.json
    notes: tuple[str, ...] = ()  # what the layout can't express


class Family(Protocol):
    """One family of models. Stateless; shapes as in ``astfast.ops``."""

    @property
    def name(self) -> str:
        """The name that messages use, such as "AST"."""
        ...

    @property
    def layouts(self) -> tuple[str, ...]:
        """Names of the key layouts that its checkpoints are published in, for messages."""
        ...

    @property
    def fields(self) -> frozenset[str]:
        """Keywords of ``astfast.load`` that this family understands beside its labels, such as ``time_stride``."""
        ...

    def recognises(self, files: CheckpointFiles) -> bool:
        """Whether these files are a checkpoint of this family, whole or damaged."""
        ...

    def read(self, files: CheckpointFiles, overrides: Mapping[str, Any], labels: LabelNames) -> Checkpoint:
        """The checkpoint with its config resolved and its weights mapped, none of them read from the file yet.

        ``overrides``: values of ``fields`` that a caller gives; their types are checked here. Raises CheckpointError,
        naming the tensor or field.
        """
        ...

    def pack(self, ops: Ops, weights: Any) -> Any:
        """The weights with every leaf in the layout of a backend."""
        ...

    def workspace(self, config: Any) -> dict[str, tuple[tuple[int, ...], str]]:
        """Every buffer of the forward pass: name -> (shape after the batch dimension, kind).

        "spectrogram", "embedding" and "logits" are always among them. Kinds: "stream" (the residual stream),
        "image" (one that not only LayerNorms read, so that its rows' means count), "activation" (the backend's compute
        type), "operand" (an activation that only linear_residual reads), "output" (float32).
        """
        ...

    def shared(self, config: Any) -> tuple[tuple[str, ...], ...]:
        """Buffers [T, N] of the workspace that may lie in one another's place where all their kinds are of one type:
        groups of those that are in use together, no two groups at once."""
        ...

    def forward(self, ops: Ops, w: Any, spectrogram: Any, ws: Mapping[str, Any]) -> Any:
        """Normalised log-mel spectrogram [B, frames, mels] -> logits [B, L], float32."""
        ...

    def embed(self, ops: Ops, w: Any, spectrogram: Any, ws: Mapping[str, Any]) -> Any:
        """Normalised log-mel spectrogram [B, frames, mels] -> embedding [B, D], float32."""
        ...

    def export(self, config: Any, weights: Any) -> Exported:
        """The model for a Hugging Face folder. Raises CheckpointError for a family without such a layout."""
        ...


@dataclass(frozen=True)
class Checkpoint(Model):
    """A model as published; its weights stay in their files until a backend packs them.

    Every leaf of ``weights`` has a ``shape`` and gives a fresh float32 array each time ``np.asarray`` asks for it.
    """

    source: str  # path, hub id or "the built-in model"
    layout: str  # name of the key layout that was recognised
    paths: tuple[Path, ...] = ()  # of the files that hold the weights
    notes: tuple[str, ...] = ()  # warnings: what was assumed or left out
    approximate: str | None = None  # why results are an approximation of the published model's, if they are

    @property
    def warnings(self) -> tuple[str, ...]:
        """All that a user should be warned of."""
        return self.notes if self.approximate is None else (self.approximate, *self.notes)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the config and of the files' identities: another model has another."""
        identities = [identity(path) for path in self.paths]
        return hashlib.sha256(repr((self.family.name, self.layout, self.config, identities)).encode()).hexdigest()
