"""The op cases of images: convolutions, depthwise convolutions and selective scans, as op_cases.py has those of tokens.

Floors add to op_cases.py's what a scan may lose: a step's relative error moves a product of decays by at most its
e-th part, so that a result is off by no more than the errors of steps and states times the sum of magnitudes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from astfast.backends.reference import ReferenceOps
from astfast.ops import ConvNorm, Depthwise, LayerNorm, Linear, NormLinear, Scan, halved
from tests.cases.op_cases import FLOAT32_ROUNDING, OpCase, bfloat16_bits, from_bfloat16_bits

EPS = 1e-5


@dataclass(frozen=True)
class ImageGeometry:
    """An image as the ops see it."""

    clips: int
    rows: int
    columns: int
    channels: int
    out_channels: int  # of a convolution
    labels: int = 7
    heads: int = 1

    @property
    def rank(self) -> int:
        return -(-self.channels // 16)


QUICK = {
    "one_pixel": ImageGeometry(2, 1, 1, 5, 3),
    "row": ImageGeometry(2, 1, 9, 16, 31),
    "column": ImageGeometry(1, 7, 1, 33, 48),
    "odd": ImageGeometry(2, 13, 5, 20, 45),
    "even": ImageGeometry(3, 8, 6, 96, 192),
    "wide": ImageGeometry(1, 4, 3, 240, 17),
}
STAGES = {  # of DASS small at 1,024 frames
    "stage 0": ImageGeometry(1, 256, 32, 96, 192, labels=527),
    "stage 1": ImageGeometry(1, 128, 16, 192, 384, labels=527),
    "stage 2": ImageGeometry(1, 64, 8, 384, 768, labels=527),
    "stage 3": ImageGeometry(1, 32, 4, 768, 768, labels=527),
}


def cases(g: ImageGeometry, precision: str, seed: int = 0) -> list[OpCase]:
    """Every op of images at this geometry; activations hold values of the precision."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def activation(*shape: int) -> np.ndarray:
        x = normal(*shape)
        return x if precision == "float32" else from_bfloat16_bits(bfloat16_bits(x))

    def norm(width: int) -> LayerNorm:
        return LayerNorm(1 + 0.3 * normal(width), 0.5 * normal(width), EPS)

    def linear(n: int, k: int) -> Linear:
        return Linear(normal(n, k) / np.float32(k**0.5), normal(n))

    b, c, grid, tokens, small = (
        g.clips,
        g.channels,
        (g.rows, g.columns),
        g.rows * g.columns,
        halved((g.rows, g.columns)),
    )
    scales = np.where(rng.random(c) < 0.02, 20, 1).astype(np.float32)

    def conv_norm(name: str, image: np.ndarray, act: str | None) -> OpCase:
        n, k = g.out_channels, image.shape[2]
        w = ConvNorm(linear(n, 9 * k), norm(n))
        ones, none = np.ones(n, np.float32), np.zeros(n, np.float32)
        exact, magnitude = (
            convolved(image, w.conv, grid),
            convolved(np.abs(image), Linear(np.abs(w.conv.weight), none), grid),
        )
        std = np.sqrt(exact.var(-1, keepdims=True) + EPS)
        normalised = np.abs(exact - exact.mean(-1, keepdims=True)) / std
        spread = magnitude + np.mean(magnitude, -1, keepdims=True)
        spread = spread + normalised * np.mean(normalised * magnitude, -1, keepdims=True)
        floor = FLOAT32_ROUNDING * np.abs(w.norm.weight) * ((9 * k) ** 0.5 * spread / std + 8 * normalised * ones)
        floor = floor + 8 * FLOAT32_ROUNDING * np.abs(w.norm.bias)

        def call(ops: Any, put: Any) -> Any:
            out = ops.empty((b, small[0] * small[1], n), "stream")
            return ops.conv_norm(put(image, "stream"), ops.pack_conv_norm(w), grid, out, act)

        return OpCase(name, call, floor, 2.0 * b * small[0] * small[1] * 9 * k * n)

    def depthwise() -> OpCase:
        w, x = Depthwise(normal(c, 9) / 3), activation(b, tokens, c)
        floor = 16 * FLOAT32_ROUNDING * float(np.abs(x).max() * np.abs(w.weight).sum(1).max())

        def call(ops: Any, put: Any) -> Any:
            out = ops.empty((b, tokens, c), "activation")
            return ops.depthwise_silu(put(x, "activation"), ops.pack_depthwise(w), grid, out)

        return OpCase("depthwise_silu", call, floor, 2.0 * b * tokens * c * 9)

    def selective_scan() -> OpCase:
        x, projected = activation(b, tokens, c), normal(b, tokens, 4 * (g.rank + 2))
        steps = np.exp(rng.uniform(np.log(1e-3), np.log(0.5), (4, c)))
        w = Scan(
            normal(4, c, g.rank) / np.float32(g.rank**0.5),
            np.log(np.expm1(steps)).astype(np.float32),
            0.5 * normal(4, c),
            1 + 0.3 * normal(4, c),
        )
        floor = scan_floor(x, projected, w, grid)

        def call(ops: Any, put: Any) -> Any:
            out = ops.empty((b, tokens, c), "stream")
            arguments = put(x, "activation"), put(projected, "stream"), ops.pack_scan(w)
            return ops.selective_scan(*arguments, grid, out)

        return OpCase("selective_scan", call, floor, 2.0 * b * tokens * c * 4 * (g.rank + 6))

    def x_proj() -> OpCase:
        n = 4 * (g.rank + 2)
        w, x = linear(n, c), activation(b, tokens, c)
        floor = c**0.5 * FLOAT32_ROUNDING * (np.abs(x) @ np.abs(w.weight).T + np.abs(w.bias))

        def call(ops: Any, put: Any) -> Any:
            return ops.linear(
                put(x, "activation"), ops.pack_linear(w, into="output"), ops.empty((b, tokens, n), "output")
            )

        return OpCase("x_proj", call, floor, 2.0 * b * tokens * c * n)

    def out_proj() -> OpCase:
        w, x, residual = NormLinear(norm(c), linear(c, c)), normal(b, tokens, c) * scales, normal(b, tokens, c)
        normalised = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS)
        magnitude = np.abs(normalised * w.norm.weight + w.norm.bias) @ np.abs(w.linear.weight).T + np.abs(residual)

        def call(ops: Any, put: Any) -> Any:
            packed = ops.pack_norm_linear_residual(w)
            return ops.norm_linear_residual(put(x, "stream"), packed, put(residual, "stream"))

        return OpCase("out_proj", call, 2 * (c**0.5 + 8) * FLOAT32_ROUNDING * magnitude, 2.0 * b * tokens * c * c)

    def head() -> OpCase:
        w, x = linear(g.labels, c), normal(b, c)
        floor = c**0.5 * FLOAT32_ROUNDING * (np.abs(x) @ np.abs(w.weight).T + np.abs(w.bias))
        return OpCase(
            "head_without_norm",
            lambda ops, put: ops.head(put(x, "stream"), ops.pack_head(w), ops.empty((b, g.labels), "output")),
            floor,
            2.0 * b * c * g.labels,
        )

    return [
        conv_norm("stem", normal(b, tokens, 1), "gelu"),
        conv_norm("downsample", normal(b, tokens, c) * scales, None),
        depthwise(),
        x_proj(),
        selective_scan(),
        out_proj(),
        head(),
    ]


def convolved(image: np.ndarray, w: Linear, grid: tuple[int, int]) -> np.ndarray:
    """The convolution alone in float64, [B, positions, N]."""
    k = image.shape[2]
    x = torch.from_numpy(image).double().mT.reshape(len(image), k, *grid)
    kernel = torch.from_numpy(np.asarray(w.weight)).double().view(-1, 3, 3, k).permute(0, 3, 1, 2)
    bias = torch.from_numpy(np.asarray(w.bias)).double()
    return F.conv2d(x, kernel, bias, stride=2, padding=1).flatten(2).mT.numpy()


def scan_floor(x: np.ndarray, projected: np.ndarray, w: Scan, grid: tuple[int, int]) -> np.ndarray:
    """Bound on the error of a scan in float32, by element."""
    rank = w.weight.shape[2]
    parts = projected.reshape(*projected.shape[:2], 4, rank + 2)
    positive = parts.copy()
    positive[..., rank:] = np.abs(positive[..., rank:])  # b and c: nothing cancels, steps stay what they are
    ops = ReferenceOps(1, torch.float64)
    wide = [torch.from_numpy(np.ascontiguousarray(a)).double() for a in (np.abs(x), positive.reshape(projected.shape))]
    magnitude = ops.selective_scan(
        wide[0], wide[1], ops.pack_scan(Scan(w.weight, w.bias, w.log_decay, np.abs(w.skip))), grid
    )
    terms = np.einsum("btkr,kcr->btkc", np.abs(parts[..., :rank]), np.abs(w.weight)).max() + np.abs(w.bias).max()
    relative = (8 + rank**0.5 * terms) * FLOAT32_ROUNDING  # of a step, whose relative derivative is at most 1
    result: np.ndarray = 3 * relative * magnitude.numpy()
    return result
