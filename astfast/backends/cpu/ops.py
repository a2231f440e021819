"""Ops of the native CPU backend: numpy arrays in, C++ kernels below (csrc, astfast._native). Imports no torch.

Every precision runs on every tier (tiers.py): where a tier has no instruction for bfloat16 or int8, operands are
rounded to it and multiplied in float32.

int8 quantises the operands of linear layers: weights by output channel, activations by token, at run time; on avx2 and
the tiers that have VNNI (avx_vnni, avx512_vnni, avx512_bf16) also those of attention, which runs in bfloat16 elsewhere.
avx2 multiplies 16-bit numbers, quantised to as many levels as their 32-bit sums have room for. LayerNorms, embeddings,
softmax and the residual stream are in float32. int8 is never chosen automatically. Activations in bfloat16 are numpy
uint16 arrays: the upper halves of float32 values.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astfast import environment
from astfast.backends.cpu.log_mel import LogMel, log_mel_of
from astfast.backends.cpu.quantisation import output_magnitudes, spread_input_outliers, spread_outliers
from astfast.backends.cpu.tiers import choose_tier, native
from astfast.errors import BackendError
from astfast.front_end import FrontEnd
from astfast.ops import Array, ConvNorm, Depthwise, Embed, Head, LayerNorm, Linear, NormLinear, Ops, Scan, map_arrays

if TYPE_CHECKING:
    from astfast import _native

PRECISIONS = ("float32", "bfloat16", "int8")
CACHE_LINE = 64  # bytes
MICRO_BATCH_TOKENS = 2500  # tokens that go through all layers together: more only evict one another from the caches


class NormLinearPack(NamedTuple):
    """A linear layer behind a LayerNorm, packed."""

    norm: _native.PackedNorm
    linear: _native.PackedLinear


class HeadPack(NamedTuple):
    """A classifier, packed."""

    norm: _native.PackedNorm | None
    linear: _native.PackedLinear


class CpuOps:
    """The Ops protocol on numpy arrays.

    ``threads`` defaults to ASTFAST_NUM_THREADS, then to the physical cores that the process may use; ``tier`` to
    ASTFAST_CPU_TIER, then to the fastest tier. Raises BackendError for a tier that is unknown or can't run here, and
    for more threads than the system starts.
    """

    name = "cpu"
    engine = "eager"

    def __init__(
        self, heads: int, precision: str = "float32", threads: int | None = None, tier: str | None = None
    ) -> None:
        if precision not in PRECISIONS:
            raise BackendError(f"the cpu backend has no precision {precision!r}: use one of {', '.join(PRECISIONS)}")
        self.heads = heads
        self.precision = precision
        self.threads = threads or environment.num_threads() or int(native().available_threads())
        self.tier = choose_tier(tier)
        self.context = self._compute_context()
        self._activation = np.float32 if precision == "float32" else np.uint16
        self._output_magnitudes: tuple[NormLinear | None, NDArray[np.float32]] = None, np.empty(0, np.float32)
        self._log_mels: dict[FrontEnd, LogMel] = {}

    def _compute_context(self) -> _native.ComputeContext:
        try:
            context: _native.ComputeContext = native().ComputeContext(self.tier, self.precision, self.threads)
        except RuntimeError as error:
            raise BackendError(f"{error}: pass a smaller threads=, or set ASTFAST_NUM_THREADS to one") from error
        return context

    @property
    def hardware(self) -> str:
        return f"{self.context.tier}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def pack_embed(self, w: Embed) -> _native.PackedEmbed:
        p = w.patch_size
        projection = _float32(w.projection.weight).reshape(-1, p, p)  # [D, mel, time]
        kernel = np.ascontiguousarray(projection.transpose(0, 2, 1)).reshape(-1, p * p)  # as frames lie
        bias, position = _float32(w.projection.bias), _float32(w.position)
        return self.context.pack_embed(kernel, bias, _float32(w.prefix), position, *w.geometry)

    def pack_norm_linear(self, w: NormLinear, value_columns: int = 0) -> NormLinearPack:
        if self.precision == "int8":
            read = map_arrays(_float32, w)  # once, for both
            self._output_magnitudes = w, output_magnitudes(read)
            w = spread_outliers(read)
        return NormLinearPack(self.pack_norm(w.norm), self.pack_linear(w.linear))

    def pack_linear(
        self, w: Linear, input_layer: NormLinear | None = None, into: str = "stream"
    ) -> _native.PackedLinear:
        factors = None
        if self.precision == "int8" and input_layer is not None:
            packed_before, magnitudes = self._output_magnitudes
            if packed_before is not input_layer:
                magnitudes = output_magnitudes(input_layer)
            w, factors = spread_input_outliers(w, magnitudes[-w.weight.shape[1] :])
        return self.context.pack_linear(_float32(w.weight), _float32(w.bias), factors=factors)

    def pack_norm(self, w: LayerNorm) -> _native.PackedNorm:
        packed: _native.PackedNorm = native().PackedNorm(_float32(w.weight), _float32(w.bias), w.eps)
        return packed

    def pack_head(self, w: Head | Linear) -> HeadPack:
        linear, norm = (w.linear, self.pack_norm(w.norm)) if isinstance(w, Head) else (w, None)
        return HeadPack(norm, self.context.pack_linear(_float32(linear.weight), _float32(linear.bias), exact=True))

    def pack_norm_linear_residual(self, w: NormLinear) -> NormLinearPack:
        return self.pack_norm_linear(w)

    def pack_conv_norm(self, w: ConvNorm) -> NormLinearPack:
        linear = self.context.pack_convolution(_float32(w.conv.weight), _float32(w.conv.bias))
        return NormLinearPack(self.pack_norm(w.norm), linear)

    def pack_depthwise(self, w: Depthwise) -> NDArray[np.float32]:
        return np.ascontiguousarray(_float32(w.weight).T)  # [9, C]

    def pack_scan(self, w: Scan) -> _native.PackedScan:
        weight = np.ascontiguousarray(_float32(w.weight).transpose(0, 2, 1))  # [4, R, C]
        decay = -np.exp(np.asarray(w.log_decay, np.float64)).astype(np.float32)
        packed: _native.PackedScan = native().PackedScan(weight, _float32(w.bias), decay, _float32(w.skip).sum(0))
        return packed

    def empty(self, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
        """Rows of buffers that ops exchange are an odd number of cache lines apart: a product writes a column of them
        at a time, which would fall into two sets of the first-level cache else."""
        dtype = np.dtype(self._activation if kind in ("activation", "operand") else np.float32)
        if kind == "output":
            return np.empty(shape, dtype)
        row = (-(-shape[-1] * dtype.itemsize // CACHE_LINE) | 1) * CACHE_LINE // dtype.itemsize
        memory: NDArray[Any] = native().empty(math.prod(shape[:-1]) * row * dtype.itemsize)
        return memory.view(dtype).reshape(*shape[:-1], row)[..., : shape[-1]]

    def micro_batch(self, num_tokens: int) -> int:
        return max(1, MICRO_BATCH_TOKENS // num_tokens)

    def inference(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def release_freed_memory(self) -> None:
        """Gives memory of weights and buffers that are gone back to the system."""
        native().release_freed_memory()

    def record(self, forward: Callable[[Ops, Array], Array], buffer: Array) -> Callable[[Array], Array]:
        """One native call runs all ops, and gets the GIL back once: another thread that is busy gives it away every
        5 ms."""
        recording = native().Recording()
        recorder = copy.copy(self)
        recorder.context = self.context.recorder(recording)
        result = forward(recorder, buffer)

        def replay(x: Array) -> Array:
            recording.replay(_float32(x), buffer)
            return result

        return replay

    def to_host(self, x: Array) -> NDArray[np.float32]:
        return np.array(x, np.float32)

    def log_mel(self, waves: Sequence[Array], front_end: FrontEnd, out: Array) -> Array:
        if front_end not in self._log_mels:
            self._log_mels[front_end] = log_mel_of(front_end, self.tier)
        self._log_mels[front_end]([_float32(wave) for wave in waves], out, self.threads)
        return out

    def patch_embed(self, spectrogram: Array, w: _native.PackedEmbed, out: Array) -> Array:
        self.context.patch_embed(_float32(spectrogram), w, out)
        return out

    def norm_linear(self, x: Array, w: NormLinearPack, out: Array, activation: Literal["gelu"] | None = None) -> Array:
        self.context.norm_linear(x, w.norm, w.linear, out, activation == "gelu")
        return out

    def attention(self, q: Array, kv: Array, out: Array, sizes: Array | None = None) -> Array:
        self.context.attention(q, kv, self.heads, out, sizes)
        return out

    def merge_tokens(self, x: Array, keys: Array, sizes: Array | None, count: int, prefix: int) -> tuple[Array, Array]:
        unmerged = sizes is None
        sizes = np.empty(x.shape[:2], np.float32) if sizes is None else sizes
        self.context.merge_tokens(x, keys, sizes, self.heads, count, prefix, unmerged)
        left = x.shape[1] - count
        return x[:, :left], sizes[:, :left]

    def linear_residual(self, x: Array, w: _native.PackedLinear, residual: Array) -> Array:
        self.context.linear_residual(x, w, residual)
        return residual

    def pool(self, x: Array, w: _native.PackedNorm, out: Array, sizes: Array | None = None) -> Array:
        self.context.pool(x, w, out, sizes)
        return out

    def head(self, x: Array, w: HeadPack, out: Array) -> Array:
        self.context.head(x, w.norm, w.linear, out)
        return out

    def norm_linear_residual(self, x: Array, w: NormLinearPack, residual: Array) -> Array:
        self.context.norm_linear_residual(x, w.norm, w.linear, residual)
        return residual

    def linear(self, x: Array, w: _native.PackedLinear, out: Array) -> Array:
        self.context.linear(x, w, out)
        return out

    def conv_norm(
        self,
        x: Array,
        w: NormLinearPack,
        grid: tuple[int, int],
        out: Array,
        activation: Literal["gelu"] | None = None,
    ) -> Array:
        x = _float32(x) if x.shape[2] == 1 else x  # a spectrogram comes from a caller
        self.context.conv_norm(x, w.linear, w.norm, grid, out, activation == "gelu")
        return out

    def depthwise_silu(self, x: Array, w: NDArray[np.float32], grid: tuple[int, int], out: Array) -> Array:
        self.context.depthwise_silu(x, w, grid, out)
        return out

    def selective_scan(
        self, x: Array, projected: Array, w: _native.PackedScan, grid: tuple[int, int], out: Array
    ) -> Array:
        self.context.selective_scan(x, projected, w, grid, out)
        return out


def _float32(x: Array) -> NDArray[np.float32]:
    """A leaf of the weights (read here if it is still in its file) or an input, contiguous and aligned as kernels read
    it: the array itself where it is so already."""
    return np.require(x, np.float32, ("C", "ALIGNED"))
