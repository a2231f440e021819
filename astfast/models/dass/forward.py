"""Forward pass of DASS (Bhati et al. 2024, https://arxiv.org/abs/2407.04082), a VMamba over spectrograms.

Shapes: B clips, images of R x C positions as tokens [B, R * C, channels], L labels. Rows are frames and columns mel
bins, as the spectrogram lies, so that nothing is transposed; the authors' images are the transposes, and
``key_layouts.py`` turns their kernels and directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from astfast.models.dass.config import DassConfig
from astfast.ops import ConvNorm, Depthwise, LayerNorm, Linear, NormLinear, Ops, Scan, halved


@dataclass(frozen=True)
class Block:
    """A selective scan in four directions between two linear layers, and an MLP, each with its residual sum."""

    in_proj: NormLinear  # C -> C
    conv: Depthwise
    x_proj: Linear  # C -> 4 * (R + 2): dt, b and c of each direction
    scan: Scan
    out_proj: NormLinear  # C -> C
    fc1: NormLinear  # C -> M
    fc2: Linear  # M -> C


@dataclass(frozen=True)
class Stage:
    """A convolution that halves the image, then blocks. That of the first stage is the second one of the stem."""

    down: ConvNorm
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class DassWeights:
    """Weights that the forward pass reads; leaves are arrays as read, or a backend's packed form of them."""

    stem: ConvNorm  # 1 -> half of the first stage's channels
    stages: tuple[Stage, ...]
    norm: LayerNorm
    head: Linear | None  # None for a checkpoint without a classifier


def pack(ops: Ops, w: DassWeights) -> DassWeights:
    """The same weights with every leaf in the backend's own layout; leaves are read one at a time."""

    def block(b: Block) -> Block:
        return Block(
            in_proj=ops.pack_norm_linear(b.in_proj),
            conv=ops.pack_depthwise(b.conv),
            x_proj=ops.pack_linear(b.x_proj, into="output"),
            scan=ops.pack_scan(b.scan),
            out_proj=ops.pack_norm_linear_residual(b.out_proj),
            fc1=ops.pack_norm_linear(b.fc1),
            fc2=ops.pack_linear(b.fc2, input_layer=b.fc1, into="image"),
        )

    stem = ops.pack_conv_norm(w.stem)
    stages = tuple(Stage(ops.pack_conv_norm(s.down), tuple(block(b) for b in s.blocks)) for s in w.stages)
    return DassWeights(stem, stages, ops.pack_norm(w.norm), None if w.head is None else ops.pack_head(w.head))


def forward(ops: Ops, w: DassWeights, spectrogram: Any, ws: Mapping[str, Any]) -> Any:
    """Normalised log-mel spectrogram [B, frames, mels] -> logits [B, L], float32."""
    return ops.head(embed(ops, w, spectrogram, ws), w.head, ws["logits"])


def embed(ops: Ops, w: DassWeights, spectrogram: Any, ws: Mapping[str, Any]) -> Any:
    """Normalised log-mel spectrogram [B, frames, mels] -> mean over the image of its final LN [B, D], float32."""
    clips, frames, mels = spectrogram.shape
    image = spectrogram.reshape(clips, frames * mels, 1)
    x = ops.conv_norm(image, w.stem, (frames, mels), ws["stem"], activation="gelu")
    grid = halved((frames, mels))
    for i, stage in enumerate(w.stages):
        x = ops.conv_norm(x, stage.down, grid, ws[f"{i}.image"])  # [B, R * C, channels]
        grid = halved(grid)
        for block in stage.blocks:
            u = ops.norm_linear(x, block.in_proj, ws[f"{i}.inner"])
            u = ops.depthwise_silu(u, block.conv, grid, ws[f"{i}.u"])
            projected = ops.linear(u, block.x_proj, ws[f"{i}.projected"])  # [B, R * C, 4 * (rank + 2)]
            y = ops.selective_scan(u, projected, block.scan, grid, ws[f"{i}.y"])
            x = ops.norm_linear_residual(y, block.out_proj, x)
            x = ops.linear_residual(ops.norm_linear(x, block.fc1, ws[f"{i}.hidden"], activation="gelu"), block.fc2, x)
    return ops.pool(x, w.norm, ws["embedding"])


def workspace(config: DassConfig) -> dict[str, tuple[tuple[int, ...], str]]:
    """Every buffer of the forward pass, see ``Family.workspace``."""
    first, *grids = config.grids
    buffers: dict[str, tuple[tuple[int, ...], str]] = {
        "spectrogram": ((config.max_length, config.num_mel_bins), "output"),
        "stem": ((prod(first), config.stem_dim), "image"),
        "embedding": ((config.embedding_size,), "output"),
        "logits": ((config.num_labels,), "output"),
    }
    for i, (grid, dim, rank, mlp) in enumerate(zip(grids, config.dims, config.ranks, config.mlp_dims, strict=True)):
        tokens = prod(grid)
        buffers |= {
            f"{i}.image": ((tokens, dim), "image"),
            f"{i}.inner": ((tokens, dim), "activation"),
            f"{i}.u": ((tokens, dim), "activation"),
            f"{i}.projected": ((tokens, 4 * (rank + 2)), "output"),
            f"{i}.y": ((tokens, dim), "image"),
            f"{i}.hidden": ((tokens, mlp), "operand"),
        }
    return buffers
