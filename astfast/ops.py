"""The Ops protocol: every op's contract, shapes and formula. Backends implement it; models are written against it.

Shapes: B clips, T tokens, H heads, D hidden, K in, N out. LN(x) = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias
over the last dimension, biased variance. Tokens of an image lie row by row: those of a grid (R, C) are [B, R * C, K].
An op returns its result. ``out`` names a workspace buffer of the right shape that native backends write into and
return; the reference ignores it, since autograd needs fresh tensors.

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


def halved(grid: tuple[int, int]) -> tuple[int, int]:
    """Grid of an image after a 3 x 3 convolution of stride 2 and padding 1: each size halved, upwards."""
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2


def position_rows(prefix: int, tokens: int, grid: tuple[int, int]) -> NDArray[np.intp] | None:
    """Rows of a position table [tokens, D] for a patch grid (F, T') of at most as many patches along time as the table
    has: those of the prefix tokens, and of each of its F rows the first T'. None where these are all rows."""
    frequency, time = grid
    columns = (tokens - prefix) // frequency
    if time == columns:
        return None
    assert time < columns, (tokens, prefix, grid)
    patches = prefix + np.arange(frequency)[:, None] * columns + np.arange(time)
    return np.concatenate([np.arange(prefix), patches.ravel()])


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


@dataclass(frozen=True)
class ConvNorm:
    """A 3 x 3 convolution of stride 2 and padding 1, and a LayerNorm of the channels of its output."""

    conv: Linear  # weight [N, 9 * K]: column (3 * i + j) * K + k multiplies channel k at row i, column j of the kernel
    norm: LayerNorm  # over N


@dataclass(frozen=True)
class Depthwise:
    """A 3 x 3 convolution of each channel by itself, stride 1, padding 1, without a bias."""

    weight: Array  # [C, 9]: column 3 * i + j multiplies row i, column j of the kernel


@dataclass(frozen=True)
class Scan:
    """A selective scan of state size 1 over an image in four directions: row by row, column by column, both reversed.

    Each direction has parameters of its own: the step of a channel is softplus(dt weight^T + bias), dt of rank R.
    """

    weight: Array  # [4, C, R]
    bias: Array  # [4, C]
    log_decay: Array  # [4, C]: A = -exp(log_decay)
    skip: Array  # [4, C]: D


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

    def pack_linear(self, w: Linear, input_layer: NormLinear | None = None, into: str = "stream") -> Any:
        """``input_layer``: the layer whose last outputs, averaged by attention or through the GELU, are the input.
        ``into``: kind of the buffer that gets the outputs, see ``empty``: "output" for ``linear``, else "stream" or
        "image" for ``linear_residual``."""
        ...

    def pack_norm(self, w: LayerNorm) -> Any: ...
    def pack_head(self, w: Head | Linear) -> Any:
        """A classifier with a LayerNorm of its own, or without."""
        ...

    def pack_norm_linear_residual(self, w: NormLinear) -> Any: ...
    def pack_conv_norm(self, w: ConvNorm) -> Any: ...
    def pack_depthwise(self, w: Depthwise) -> Any: ...
    def pack_scan(self, w: Scan) -> Any: ...

    def empty(self, shape: tuple[int, ...], kind: str) -> Any:
        """A workspace buffer of a kind of ``models.base.Family.workspace``, such as "stream" or "output"."""
        ...

    def micro_batch(self, num_tokens: int) -> int:
        """How many clips of so many tokens should go through all layers together; more are run in turn."""
        ...

    def inference(self) -> AbstractContextManager[Any]:
        """Context manager for inference: no autograd, the right device current."""
        ...

    def record(self, forward: Callable[[Ops, Array], Array], buffer: Array) -> Callable[[Array], Array]:
        """``forward`` of these ops and of an input of the shape of ``buffer``, to be called often.

        Calls ``forward`` once, on ``buffer``, and repeats the ops that it asked for, or calls it every time: it must
        ask for the same ones whatever the input's values. Inputs are copied to ``buffer`` where they are not that
        array itself. The result is valid until the next call.
        """
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
        """[B, frames, mels] -> [B, T, D]: [prefix, projection of each patch of ``patch_grid``] + position.

        Of fewer patches along time than ``position`` was made for, each row of the grid has the first positions.
        """
        ...

    def norm_linear(self, x: Array, w: Any, out: Array, activation: Literal["gelu"] | None = None) -> Array:
        """[B, T, K] -> [B, T, N]: act(LN(x) W^T + b); gelu(x) = x (1 + erf(x / sqrt 2)) / 2."""
        ...

    def attention(self, q: Array, kv: Array, out: Array, sizes: Array | None = None) -> Array:
        """q [B, R, D], kv [B, T, 2D] = [k, v] -> [B, R, D]: softmax(q k^T / sqrt(D / H) + log sizes) v per head.

        ``sizes`` [B, T] float32: how many tokens each of T was merged from; None: one each.
        """
        ...

    def merge_tokens(self, x: Array, keys: Array, sizes: Array | None, count: int, prefix: int) -> tuple[Array, Array]:
        """x [B, T, D] float32, keys [B, T, D], sizes [B, T] or None (one each) -> [B, T - count, D], [B, T - count].

        Of the tokens after the first ``prefix``, those at even places may be merged, each into the one at an odd place
        whose key, averaged over heads, has the largest cosine with its own (ties: the first). The ``count`` of them
        with the largest cosine are (ties: the first), count <= (T - prefix) / 2: a token becomes the mean of all that
        it was merged from, weighted by their sizes, and its size their sum. The order stays. Native backends write over
        ``x`` and ``sizes``.
        """
        ...

    def linear_residual(self, x: Array, w: Any, residual: Array) -> Array:
        """x [B, T, K], residual [B, T, N] -> residual + x W^T + b, written over residual by native backends."""
        ...

    def pool(self, x: Array, w: Any, out: Array, sizes: Array | None = None) -> Array:
        """[B, R, D] -> [B, D] float32: mean of LN(x) over the R rows, weighted by ``sizes`` [B, R] where given."""
        ...

    def head(self, x: Array, w: Any, out: Array) -> Array:
        """[B, D] -> [B, L] float32: LN(x) W^T + b, the classifier's own LN; x W^T + b where it has none."""
        ...

    def norm_linear_residual(self, x: Array, w: Any, residual: Array) -> Array:
        """x [B, T, K] float32, residual [B, T, N] -> residual + LN(x) W^T + b, written as ``linear_residual``."""
        ...

    def linear(self, x: Array, w: Any, out: Array) -> Array:
        """[B, T, K] -> [B, T, N] float32: x W^T + b; ``w`` from ``pack_linear``."""
        ...

    def conv_norm(
        self, x: Array, w: Any, grid: tuple[int, int], out: Array, activation: Literal["gelu"] | None = None
    ) -> Array:
        """Image [B, R * C, K] float32 of a grid (R, C) -> [B, R' * C', N], (R', C') = ``halved(grid)``:
        act(LN(3 x 3 convolution of stride 2 and padding 1))."""
        ...

    def depthwise_silu(self, x: Array, w: Any, grid: tuple[int, int], out: Array) -> Array:
        """Image [B, R * C, C'] of a grid (R, C) -> the same shape: silu(3 x 3 depthwise convolution, padding 1)."""
        ...

    def selective_scan(self, x: Array, projected: Array, w: Any, grid: tuple[int, int], out: Array) -> Array:
        """x [B, T, C], projected [B, T, 4 * (R + 2)] float32 -> [B, T, C] float32, T the tokens of a grid.

        Columns of ``projected`` are [dt, b, c] of each direction in turn, R + 1 + 1. In a direction's order of tokens
        h_t = exp(A step_t) h_(t-1) + step_t b_t x_t, y_t = c_t h_t + D x_t; the result is the sum over the directions.
        Source: VMamba's SS2D (Liu et al. 2024, https://arxiv.org/abs/2401.10166).
        """
        ...
