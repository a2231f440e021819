"""The Ops protocol: every op's contract, shapes and formula. Backends implement it; models are written against it.

Shapes: B clips, T tokens, H heads, D hidden, K in, N out. LN(x) = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias
over the last dimension, biased variance. An op returns its result. ``out`` names a workspace buffer of the right shape
that native backends write into and return; the reference ignores it, since autograd needs fresh tensors.

A backend is made for one model: ``heads`` and the precision are fixed when it is made. ``pack_*`` turn weights as read
from a checkpoint (float32 numpy arrays, or anything with ``__array__``) into the backend's own layout, once, at load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from astfast.front_end import FrontEnd

W = TypeVar("W")
Array = Any  # numpy array, torch tensor, or a backend's own handle


def patch_grid(frames: int, mels: int, patch_size: int, frequency_stride: int, time_stride: int) -> tuple[int, int]:
    """(patches along mel F, patches along time T') of a spectrogram [frames, mels]; patch index is ``f * T' + t``."""
    return (mels - patch_size) // frequency_stride + 1, (frames - patch_size) // time_stride + 1


def map_arrays(function: Callable[[Array], Array], w: W) -> W:
    """The same dataclass of weights with ``function`` of every array in it; numbers stay, dataclasses are entered."""
    changed: dict[str, Any] = {}
    for f in fields(w):  # type: ignore[arg-type]
        value = getattr(w, f.name)
        if is_dataclass(value):
            changed[f.name] = map_arrays(function, value)
        elif not isinstance(value, int | float):
            changed[f.name] = function(value)
    return replace(w, **changed)  # type: ignore[type-var]


@dataclass(frozen=True)
class LayerNorm:
    """LN(x) over the last dimension."""

    weight: Array  # [D]
    bias: Array  # [D]
    eps: float


@dataclass(frozen=True)
class Linear:
    """y = x W^T + b."""

    weight: Array  # [N, K]
    bias: Array  # [N]


@dataclass(frozen=True)
class NormLinear:
    """A linear layer behind a LayerNorm of its input."""

    norm: LayerNorm  # over K
    linear: Linear  # K -> N


@dataclass(frozen=True)
class Embed:
    """Patch projection and what is added to it. Patch (f, t) covers mel bins f * frequency_stride + i and frames
    t * time_stride + j; ``projection.weight[d, i * patch_size + j]`` multiplies that value."""

    projection: Linear  # [D, patch_size * patch_size]
    prefix: Array  # [P, D]: learned tokens before the patches, such as cls and dist; P may be 0
    position: Array  # [T, D], T = P + patches; rows: prefix, patches
    patch_size: int
    frequency_stride: int
    time_stride: int

    @property
    def geometry(self) -> tuple[int, int, int]:
        """Patch size, stride along frequency, stride along time."""
        return self.patch_size, self.frequency_stride, self.time_stride


@dataclass(frozen=True)
class Head:
    """The classifier: a LayerNorm of its own, then a linear layer."""

    norm: LayerNorm
    linear: Linear  # D -> L


class Ops(Protocol):
    """What a model may ask of a backend."""

    @property
    def name(self) -> str:
        """ "reference", "cpu" or "cuda"."""
        ...

    @property
    def engine(self) -> str:
        """Name of the engine that runs a model on these ops: "eager" or "cuda_graphs"."""
        ...

    @property
    def precision(self) -> str:
        """Name of the precision, one of the backend's ``precisions()``."""
        ...

    @property
    def hardware(self) -> str:
        """Name of the compute device: instruction set and threads, or the GPU."""
        ...

    def pack_embed(self, w: Embed) -> Any: ...
    def pack_norm_linear(self, w: NormLinear, value_columns: int = 0) -> Any:
        """``value_columns``: how many of the last outputs are attention's values, for backends that scale them."""
        ...

    def pack_linear(self, w: Linear, input_layer: NormLinear | None = None) -> Any:
        """``input_layer``: the layer whose last outputs, averaged by attention or through the GELU, are the input."""
        ...

    def pack_norm(self, w: LayerNorm) -> Any: ...
    def pack_head(self, w: Head) -> Any: ...

    def empty(self, shape: tuple[int, ...], kind: str) -> Any:
        """A workspace buffer of a kind of ``models.base.Family.workspace``: stream, activation, operand or output."""
        ...

    def micro_batch(self, num_tokens: int) -> int:
        """How many clips of so many tokens should go through all layers together; more are run in turn."""
        ...

    def inference(self) -> AbstractContextManager[Any]:
        """Context manager for inference: no autograd, the right device current."""
        ...

    def to_host(self, x: Array) -> NDArray[np.float32]:
        """An output of this backend as a numpy array of its own memory."""
        ...

    def log_mel(self, waves: Sequence[Array], front_end: FrontEnd, out: Array) -> Array:
        """Mono float32 waveforms (1-D, in [-1, 1], each of its own length) -> [B, max_length, num_mel_bins].

        log(max(mel . |FFT(window * preemphasis(frame - mean(frame)))|^2, floor)), padded with zero frames or truncated
        to max_length, then (x - shift) * scale. See front_end.py.
        """
        ...

    def patch_embed(self, spectrogram: Array, w: Any, out: Array) -> Array:
        """[B, frames, mels] -> [B, T, D]: [prefix, projection of each patch of ``patch_grid``] + position."""
        ...

    def norm_linear(self, x: Array, w: Any, out: Array, activation: Literal["gelu"] | None = None) -> Array:
        """[B, T, K] -> [B, T, N]: act(LN(x) W^T + b); gelu(x) = x (1 + erf(x / sqrt 2)) / 2."""
        ...

    def attention(self, q: Array, kv: Array, out: Array) -> Array:
        """q [B, R, D], kv [B, T, 2D] = [k, v] -> [B, R, D]: softmax(q k^T / sqrt(D / H)) v per head."""
        ...

    def linear_residual(self, x: Array, w: Any, residual: Array) -> Array:
        """x [B, T, K], residual [B, T, N] -> residual + x W^T + b, written over residual by native backends."""
        ...

    def pool(self, x: Array, w: Any, out: Array) -> Array:
        """[B, R, D] -> [B, D] float32: mean of LN(x) over the R rows."""
        ...

    def head(self, x: Array, w: Any, out: Array) -> Array:
        """[B, D] -> [B, L] float32: LN(x) W^T + b, the classifier's own LN."""
        ...
