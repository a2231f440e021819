"""The ops on images that DASS asks for, on a GPU: calls of their kernels, see ``CudaOps``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from astfast.backends.cuda import fallback_images, fallback_ops, folding
from astfast.backends.cuda.op_call import OpCall
from astfast.backends.cuda.packing import PackedLinear, Packing, Stream
from astfast.errors import UnsupportedModel
from astfast.kernels import image, linear, scan, scan_states, tuning
from astfast.ops import ConvNorm, Depthwise, NormLinear, Scan


class PackedConvNorm(NamedTuple):
    """A convolution and the LayerNorm behind it."""

    conv: PackedLinear  # weight [N, 9 * K], bias scaled
    weight: torch.Tensor  # [N] float32, of the LayerNorm
    bias: torch.Tensor  # [N] float32
    eps: float  # times the stream's scale squared


class PackedScan(NamedTuple):
    """A selective scan in four directions, float32."""

    weight: torch.Tensor  # [4, R, C]
    bias: torch.Tensor  # [4, C]
    decay: torch.Tensor  # [4, C]: A
    skip: torch.Tensor  # [C], the sum of the directions' D


def pack_conv_norm(packing: Packing, w: ConvNorm) -> PackedConvNorm:
    """Raises UnsupportedModel in float8, whose range is known for rows of zero mean only."""
    if packing.float8:
        raise UnsupportedModel("the cuda backend doesn't run DASS models in float8: use bfloat16 or float16")
    conv = packing.output_linear(w.conv, packing.scale)
    weight, bias = packing.constant(folding.float64(w.norm.weight)), packing.constant(folding.float64(w.norm.bias))
    return PackedConvNorm(conv, weight, bias, w.norm.eps * packing.scale**2)


def pack_depthwise(packing: Packing, w: Depthwise) -> torch.Tensor:
    """[9, C] float32."""
    return packing.constant(folding.float64(w.weight).T)


def pack_scan(packing: Packing, w: Scan) -> PackedScan:
    """Transposed for the kernels; the directions' skip connections are one."""
    return PackedScan(
        packing.constant(folding.float64(w.weight).transpose(0, 2, 1)),
        packing.constant(folding.float64(w.bias)),
        packing.constant(-np.exp(folding.float64(w.log_decay))),
        packing.constant(folding.float64(w.skip).sum(0)),
    )


def conv_norm_calls(
    x: Any,
    w: PackedConvNorm,
    grid: tuple[int, int],
    out: Stream,
    activation: Literal["gelu"] | None,
    scale: float,
    products: str,
    tile: tuning.Tile,
) -> Iterator[OpCall]:
    """The convolution, which leaves its results in the stream, and their LayerNorm in place."""
    scaled = isinstance(x, Stream)  # or a spectrogram
    yield OpCall(
        "convolution",
        image.convolution,
        fallback_images.convolution,
        clips={"x": x.x if scaled else x, "out": out.x},
        weights={"weight": w.conv.weight, "bias": w.conv.bias},
        settings={"scale": 1.0 if scaled else scale, "rows": grid[0], "columns": grid[1]},
        result="out",
        written=("out",),
        tuning={"precision": products, "tile": tile},
    )
    yield OpCall(
        "image_norm",
        image.image_norm,
        fallback_images.image_norm,
        clips={"stream": out.x, "sumsq": out.sumsq},
        weights={"weight": w.weight, "bias": w.bias},
        settings={"scale": scale, "eps": w.eps, "activation": activation},
        result="stream",
        written=("sumsq",),
        updated=("stream",),
    )


def depthwise_silu_call(
    x: torch.Tensor, weight: torch.Tensor, grid: tuple[int, int], out: torch.Tensor, tile: tuning.Tile
) -> OpCall:
    """The call that writes silu of the depthwise convolution to out."""
    return OpCall(
        "depthwise_silu",
        image.depthwise_silu,
        fallback_images.depthwise_silu,
        clips={"x": x, "out": out},
        weights={"weight": weight},
        settings={"rows": grid[0], "columns": grid[1]},
        result="out",
        written=("out",),
        tuning={"tile": tile},
    )


def scan_calls(
    x: torch.Tensor,
    projected: torch.Tensor,
    w: PackedScan,
    grid: tuple[int, int],
    out: Stream,
    scale: float,
    tile: tuning.Tile,
) -> Iterator[OpCall]:
    """The calls of a selective scan, see ``kernels/scan.py``."""
    rows, columns = grid
    block_rows, block_columns = scan_states.blocks(rows, columns, tile)
    image_of = {"rows": rows, "columns": columns, "block_rows": block_rows, "block_columns": block_columns}
    shape = (len(x), scan_states.segments(**image_of), x.shape[2])
    factors, states = (torch.empty(shape, dtype=torch.float32, device=x.device) for _ in range(2))
    weights = {"weight": w.weight, "bias": w.bias, "decay": w.decay}
    yield OpCall(
        "scan_segments",
        scan.scan_segments,
        fallback_images.scan_segments,
        clips={"x": x, "projected": projected, "factors": factors, "states": states},
        weights=weights,
        settings=image_of,
        result="states",
        written=("factors", "states"),
        tuning={"tile": tile},
    )
    yield OpCall(
        "scan_states",
        scan_states.scan_states,
        fallback_images.scan_states,
        clips={"factors": factors, "states": states},
        weights={},
        settings=image_of,
        result="states",
        written=(),
        updated=("states",),
    )
    yield OpCall(
        "scan_outputs",
        scan.scan_outputs,
        fallback_images.scan_outputs,
        clips={"x": x, "projected": projected, "states": states, "stream": out.x, "sumsq": out.sumsq},
        weights={**weights, "skip": w.skip},
        settings={**image_of, "scale": scale},
        result="stream",
        written=("stream", "sumsq"),
        tuning={"tile": tile},
    )


def linear_call(x: torch.Tensor, w: PackedLinear, out: torch.Tensor, products: str, tile: tuning.Tile) -> OpCall:
    """The call of a linear layer alone, with a float32 result."""
    return OpCall(
        "linear",
        linear.linear,
        fallback_ops.linear,
        clips={"x": x, "out": out},
        weights={"weight": w.weight, "bias": w.bias},
        settings={},
        result="out",
        written=("out",),
        tuning={"precision": products, "tile": tile},
    )


def pack_norm_linear_residual(packing: Packing, w: NormLinear) -> PackedLinear:
    """A layer behind a LayerNorm whose outputs are added to an image."""
    weight, bias = folding.rms_linear(w)
    return packing.packed(weight, packing.scale * bias, packing.dtype, w.norm.eps * packing.scale**2)
