"""norm_linear in float8, on a GPU: its two calls, see ``CudaOps``. The stream is quantised once, then multiplied."""

from __future__ import annotations

import torch

from astfast.backends.cuda import fallback_ops
from astfast.backends.cuda.op_call import OpCall
from astfast.backends.cuda.packing import PackedLinear, Stream
from astfast.kernels import linear, quantise, tuning


def quantise_call(x: Stream, w: PackedLinear, tile: tuning.Tile) -> OpCall:
    """The call that writes the stream behind the LayerNorm of a layer to its place in float8."""
    assert x.quantised is not None, "a stream in float8 has a place for itself quantised"
    return OpCall(
        "quantise_rows",
        quantise.quantise_rows,
        fallback_ops.quantise_rows,
        clips={"x": x.x, "sumsq": x.sumsq, "out": x.quantised},
        weights={},
        settings={"eps": w.eps},
        result="out",
        written=("out",),
        tuning={"tile": tile},
    )


def linear_call(
    x: torch.Tensor, w: PackedLinear, out: torch.Tensor, activation: str | None, tile: tuning.Tile
) -> OpCall:
    """The call of the layer on what was quantised."""
    assert w.weight_scale is not None
    return OpCall(
        "norm_linear",
        linear.linear,
        fallback_ops.float8_linear,
        clips={"x": x, "out": out},
        weights=w.tensors,
        settings={"activation": activation, "gain": w.gain if out.element_size() == 1 else 1.0},
        result="out",
        written=("out",),
        tuning={"precision": "ieee", "tile": tile},
        rounded={"bias": w.rounded_bias},
    )
