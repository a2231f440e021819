"""The op cases: shapes, inputs and tolerances, written once. Tests judge every backend by them, benchmarks time them.

An op passes when its error against the reference in float64 is at most twice what the type itself costs, on any machine
(``RoundedOps``, ``QuantisedOps``), plus a floor for what any order of summation may cost: sqrt(K) float32 roundings of
the sum of magnitudes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from astfast.backends.reference import ReferenceOps
from astfast.ops import ConvNorm, Depthwise, Embed, Head, LayerNorm, Linear, NormLinear, patch_grid
from tests.cases.rounded_ops import RoundedOps

FLOAT32_ROUNDING = 2.0**-24
SMALLEST_LARGEST = 2.0**-100  # what a row's largest magnitude counts as where it is less: levels get no finer
MOST_QUANTISED_KEYS = 2048  # more attend in bfloat16
AST_PREFIX = 2  # tokens before the patches, and rows that are pooled, of the Audio Spectrogram Transformer


@dataclass(frozen=True)
class Geometry:
    """Sizes of a model as the ops see them."""

    clips: int
    hidden: int
    heads: int
    mlp: int
    patch_size: int
    strides: tuple[int, int]  # along mel, along time
    mels: int
    frames: int
    labels: int = 7

    @property
    def patches(self) -> int:
        return math.prod(patch_grid(self.frames, self.mels, self.patch_size, *self.strides))

    @property
    def tokens(self) -> int:
        return AST_PREFIX + self.patches


ODD = Geometry(2, hidden=96, heads=3, mlp=200, patch_size=16, strides=(11, 13), mels=64, frames=301)
TINY = Geometry(3, hidden=32, heads=2, mlp=37, patch_size=2, strides=(2, 2), mels=7, frames=11)
UNEVEN = Geometry(2, hidden=45, heads=3, mlp=19, patch_size=5, strides=(3, 4), mels=23, frames=40)
WIDE_HEADS = Geometry(1, hidden=256, heads=2, mlp=130, patch_size=8, strides=(8, 8), mels=32, frames=200)
FOUR_VECTORS = Geometry(1, hidden=240, heads=3, mlp=51, patch_size=4, strides=(4, 4), mels=16, frames=34)
SPEECH_COMMANDS = Geometry(
    1, hidden=768, heads=12, mlp=3072, patch_size=16, strides=(10, 10), mels=128, frames=128, labels=35
)
BASE = Geometry(1, hidden=768, heads=12, mlp=3072, patch_size=16, strides=(10, 10), mels=128, frames=1024, labels=527)

QUICK = {
    "odd": ODD,
    "tiny": TINY,
    "uneven": UNEVEN,
    "wide_heads": WIDE_HEADS,
    "four_vectors": FOUR_VECTORS,
    "speech_commands": SPEECH_COMMANDS,
}


@dataclass(frozen=True)
class OpCase:
    """An op on fixed inputs. ``call(ops, put)`` runs it: put(x, kind) makes a backend's array of a numpy one."""

    name: str
    call: Callable[[Any, Callable[[np.ndarray, str], Any]], Any]
    floor: np.ndarray | float  # absolute, by element of the result
    flops: float


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest bfloat16, as its upper 16 bits."""
    return torch.from_numpy(np.ascontiguousarray(x)).bfloat16().view(torch.uint16).numpy()


def from_bfloat16_bits(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32)


def on_torch(dtype: torch.dtype) -> Callable[[np.ndarray, str], torch.Tensor]:
    return lambda x, kind: torch.from_numpy(np.ascontiguousarray(x)).to(dtype)


def result_of(case: OpCase, geometry: Geometry, dtype: torch.dtype) -> np.ndarray:
    """The case by torch's ops in this dtype, as float64."""
    with torch.inference_mode():
        return case.call(ReferenceOps(geometry.heads, dtype), on_torch(dtype)).double().numpy()


def serving_tier(ops: Any) -> str:
    """The tier whose kernels compute for these CpuOps: the one asked for, or one below it."""
    tier: str = ops.hardware.split(",")[0]
    return tier


class QuantisedOps(ReferenceOps):
    """What int8 means on a tier of the CPU engine, in float64: weights by output channel and activations by token as so
    many levels up to their largest magnitude (on AMX and VNNI tiers activations as twice as many between their least
    and their greatest), products exact; LayerNorms, softmax and the residual stream as they are, embeddings and what
    ops exchange in bfloat16. Of a head, where the tier quantises attention, queries and keys by token and values by
    channel up to their largest magnitude, keys and values about their mean, probabilities as levels up to a row's
    largest."""

    def __init__(self, heads: int, tier: str) -> None:
        super().__init__(heads, torch.float64)
        self._by_pairs_of_16_bits = tier == "avx2"
        self._shifts_rows = tier in ("avx_vnni", "avx512_vnni", "avx512_bf16", "amx")
        self._quantises_attention = tier in ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16")

    @property
    def kind(self) -> tuple[bool, bool]:
        """Equal for tiers that quantise alike."""
        return self._shifts_rows, self._quantises_attention

    def patch_embed(self, spectrogram: Any, w: Embed, out: Any = None) -> torch.Tensor:
        projection = replace(w.projection, weight=_as_bfloat16(w.projection.weight))
        return super().patch_embed(_as_bfloat16(torch.as_tensor(spectrogram)), replace(w, projection=projection), out)

    def norm_linear(self, x: Any, w: NormLinear, out: Any = None, activation: Any = None) -> torch.Tensor:
        y = self._linear(self._norm(x, w.norm), w.linear)
        return _as_bfloat16(torch.nn.functional.gelu(y) if activation == "gelu" else y)

    def attention(self, q: Any, kv: Any, out: Any = None, sizes: Any = None) -> torch.Tensor:
        if not self._quantises_attention or kv.shape[1] > MOST_QUANTISED_KEYS:
            return _as_bfloat16(super().attention(q, kv, sizes=sizes))
        b, rows, d = q.shape
        keys, head_dim = kv.shape[1], d // self.heads
        parts = [x.reshape(b, -1, self.heads, head_dim).transpose(1, 2) for x in (q, kv[..., :d], kv[..., d:])]
        key_mean, value_mean = (x.mean(-2, keepdim=True) for x in parts[1:])
        q, k = (_quantised(x, -1, self._levels(head_dim)) for x in (parts[0], parts[1] - key_mean))
        v = _quantised(parts[2] - value_mean, -2, self._levels(keys))
        scores = q @ k.mT / head_dim**0.5
        if sizes is not None:
            scores = scores + sizes.log()[:, None, None]
        p = self.probability_levels(keys) * torch.exp(scores - scores.amax(-1, keepdim=True))
        y = value_mean + p.round() @ v / p.sum(-1, keepdim=True)
        return _as_bfloat16(y.transpose(1, 2).reshape(b, rows, d))

    def probability_levels(self, keys: int) -> float:
        """What a row's largest probability becomes; infinity where they are not quantised."""
        if not self._quantises_attention:
            return math.inf
        return self._levels(keys) if self._by_pairs_of_16_bits else 255

    def linear_residual(self, x: Any, w: Linear, residual: Any) -> torch.Tensor:
        return residual + self._linear(x, w)

    def norm_linear_residual(self, x: Any, w: NormLinear, residual: Any) -> torch.Tensor:
        return residual + self._linear(self._norm(x, w.norm), w.linear)

    def linear(self, x: Any, w: Linear, out: Any = None) -> torch.Tensor:
        return self._linear(x, w)

    def conv_norm(self, x: Any, w: ConvNorm, grid: Any, out: Any = None, activation: Any = None) -> torch.Tensor:
        b, _, k = x.shape
        if k == 1:  # a spectrogram
            conv = replace(w.conv, weight=_as_bfloat16(w.conv.weight))
            return super().conv_norm(_as_bfloat16(torch.as_tensor(x)), replace(w, conv=conv), grid, out, activation)
        patches = torch.nn.functional.unfold(x.mT.reshape(b, k, *grid), 3, padding=1, stride=2)  # [B, K * 9, positions]
        y = self._linear(patches.unflatten(1, (k, 9)).transpose(1, 2).flatten(1, 2).mT, w.conv)
        y = self._norm(y, w.norm)
        return torch.nn.functional.gelu(y) if activation == "gelu" else y

    def depthwise_silu(self, x: Any, w: Depthwise, grid: Any, out: Any = None) -> torch.Tensor:
        return _as_bfloat16(super().depthwise_silu(x, w, grid))

    def _linear(self, x: torch.Tensor, w: Linear) -> torch.Tensor:
        levels = self._levels(x.shape[-1])
        rows = _quantised_in_range(x, levels) if self._shifts_rows else _quantised(x, -1, levels)
        return torch.nn.functional.linear(rows, _quantised(w.weight, -1, levels), w.bias)

    def _levels(self, k: int) -> int:
        """Of operands whose products are summed over k: as many as fit their type, and their sums 32 bits."""
        if self._shifts_rows:
            return min(127, 2**31 // (128 * k))  # AMX and VNNI, where they may be 128 off centre
        return min(2**15 - 1 if self._by_pairs_of_16_bits else 127, math.isqrt(2**31 // k))


def _as_bfloat16(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().double()


def _quantised(x: torch.Tensor, dim: int, levels: int) -> torch.Tensor:
    step = x.abs().amax(dim, keepdim=True).clamp_min(SMALLEST_LARGEST) / levels
    return (x / step).round() * step


def _quantised_in_range(x: torch.Tensor, levels: int) -> torch.Tensor:
    low, high = x.amin(-1, keepdim=True).clamp_max(0), x.amax(-1, keepdim=True).clamp_min(0)
    step = (high - low).clamp_min(SMALLEST_LARGEST) / (2 * levels)
    return ((x - low) / step).round() * step + low


def at_precision(case: OpCase, geometry: Geometry, precision: str, tier: str) -> np.ndarray:
    """The case with the roundings of this precision and no other errors, as float64."""
    by_type = precision != "int8"
    ops = RoundedOps(geometry.heads, getattr(torch, precision)) if by_type else QuantisedOps(geometry.heads, tier)
    with torch.inference_mode():
        return case.call(ops, on_torch(torch.float64)).double().numpy()


def cases(g: Geometry, precision: str, seed: int = 0) -> list[OpCase]:
    """Every op at this geometry. Inputs have outlier channels; activations hold values of the precision."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def activation(*shape: int) -> np.ndarray:
        x = normal(*shape)
        return x if precision == "float32" else from_bfloat16_bits(bfloat16_bits(x))

    def norm(width: int) -> LayerNorm:
        weight = 1 + 0.3 * normal(width)
        weight[rng.integers(width)] *= 8  # an outlier channel
        return LayerNorm(weight, 0.5 * normal(width), 1e-12)

    def linear(n: int, k: int) -> Linear:
        return Linear(normal(n, k) / np.float32(k**0.5), normal(n))

    b, t, d, m = g.clips, g.tokens, g.hidden, g.mlp
    x = normal(b, t, d) * np.where(rng.random(d) < 0.02, 20, 1).astype(np.float32) + normal(d)

    def norm_linear(name: str, rows: int, n: int, act: str | None) -> OpCase:
        w = NormLinear(norm(d), linear(n, d))
        part = x[:, :rows]
        normal_rows = (part - part.mean(-1, keepdims=True)) / part.std(-1, keepdims=True)
        magnitude = np.abs(normal_rows * w.norm.weight + w.norm.bias) @ np.abs(w.linear.weight).T
        floor = d**0.5 * FLOAT32_ROUNDING * magnitude
        return OpCase(
            name,
            lambda ops, put: ops.norm_linear(
                put(x, "stream")[:, :rows], ops.pack_norm_linear(w), ops.empty((b, rows, n), "activation"), act
            ),
            floor,
            2.0 * b * rows * d * n,
        )

    def linear_residual(name: str, rows: int, k: int) -> OpCase:
        w, inputs = linear(d, k), activation(b, rows, k)
        floor = k**0.5 * FLOAT32_ROUNDING * (np.abs(inputs) @ np.abs(w.weight).T + np.abs(x[:, :rows]))

        def call(ops: Any, put: Any) -> Any:
            residual = put(x, "stream")[:, :rows]  # strided where rows < t, as in the last layer
            return ops.linear_residual(put(inputs, "activation"), ops.pack_linear(w), residual)

        return OpCase(name, call, floor, 2.0 * b * rows * k * d)

    def attention(name: str, queries: int) -> OpCase:
        qkv = activation(b, t, 3 * d)  # q and kv are column slices of it

        def call(ops: Any, put: Any) -> Any:
            q, kv = put(qkv, "activation")[:, :queries, :d], put(qkv, "activation")[..., d:]
            return ops.attention(q, kv, ops.empty((b, queries, d), "activation"))

        return OpCase(name, call, t**0.5 * FLOAT32_ROUNDING * float(np.abs(qkv).max()), 4.0 * b * queries * t * d)

    def patch_embed(name: str, prefix: int, more_columns: int = 0) -> OpCase:
        """``more_columns``: positions along time that the model has and the spectrogram has not."""
        rows, _ = patch_grid(g.frames, g.mels, g.patch_size, *g.strides)
        k, tokens = g.patch_size**2, prefix + g.patches + rows * more_columns
        w = Embed(linear(d, k), normal(prefix, d), normal(tokens, d), g.patch_size, *g.strides)
        spectrogram = normal(b, g.frames, g.mels)
        floor = 4 * k**0.5 * FLOAT32_ROUNDING * float(np.abs(spectrogram).max())
        return OpCase(
            name,
            lambda ops, put: ops.patch_embed(
                put(spectrogram, "stream"), ops.pack_embed(w), ops.empty((b, prefix + g.patches, d), "stream")
            ),
            floor,
            2.0 * b * g.patches * k * d,
        )

    def pool(name: str, rows: int) -> OpCase:
        w = norm(d)
        return OpCase(
            name,
            lambda ops, put: ops.pool(put(x, "stream")[:, :rows], ops.pack_norm(w), ops.empty((b, d), "output")),
            max(8, rows**0.5) * FLOAT32_ROUNDING * float(np.abs(x).max()),
            0.0,
        )

    def head() -> OpCase:
        w = Head(norm(d), linear(g.labels, d))
        pooled = normal(b, d)
        return OpCase(
            "head",
            lambda ops, put: ops.head(put(pooled, "stream"), ops.pack_head(w), ops.empty((b, g.labels), "output")),
            d**0.5 * FLOAT32_ROUNDING * 8 * float(np.abs(pooled).max()),
            2.0 * b * d * g.labels,
        )

    return [
        patch_embed("patch_embed", AST_PREFIX),
        norm_linear("qkv", t, 3 * d, None),
        norm_linear("fc1", t, m, "gelu"),
        norm_linear("last_q", AST_PREFIX, d, None),
        attention("attention", t),
        attention("last_attention", AST_PREFIX),
        linear_residual("proj", t, d),
        linear_residual("fc2", t, m),
        linear_residual("last_fc2", AST_PREFIX, m),
        pool("pool", AST_PREFIX),
        head(),
        patch_embed("patch_embed_without_prefix", 0),
        patch_embed("patch_embed_after_one_token", 1),
        patch_embed("patch_embed_of_a_shorter_clip", 2, more_columns=3),
        pool("pool_one_row", 1),
        pool("pool_five_rows", 5),
        pool("pool_all_rows", t),
    ]


def beyond_bound(rows: Any, run: Any) -> list[str]:
    """Cases of (case, exact, rounded) whose result by ``run`` is off by more than twice what the roundings cost."""
    failures = []
    for case, exact, rounded in rows:
        error, roundings = np.abs(run(case) - exact), np.abs(rounded - exact).max()
        if not (error <= 2 * roundings + case.floor).all():
            failures.append(f"{case.name}: error {error.max():.2e}, of roundings {roundings:.2e}")
    return failures
