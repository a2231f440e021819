"""Fused GEMMs of a transformer layer: LayerNorm, linear and GELU (``norm_linear``); linear and residual sum
(``linear_residual``).

The residual stream is zero-mean by construction (every weight that writes it is centred at load), so LayerNorm is
RMSNorm, and its gamma and beta are folded into the next weight: one factor a row is left of it, ``rstd``, applied to
the accumulator in the epilogue. Each kernel that writes the stream also stores partial sums of squares, one per 64
columns; the next kernel reduces them to ``rstd``, so that statistics take no pass over the stream.

In float8 (e4m3) both operands are quantised before (``quantise.py``); weights have a scale a channel, ``w_scale``, in
the epilogue. Outputs that only a product reads are written in float8 times one power of two, ``gain``, which a bound on
them gives (``backends/cuda/packing.py``). On Hopper such sums keep about 14 bits, see docs/gpu.md.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from astfast.kernels.launch import Launch, Work, await_grid
from astfast.kernels.statistics import (
    STATISTICS_TILE,
    are_centred,
    row_rstd,
    statistics_parts,
    store_stream,
)
from astfast.kernels.tuning import Tile

GROUP = 8  # row tiles whose weights are shared through the L2 cache


@triton.jit
def row_offset(row, rows_per_clip, clip_stride, row_stride):
    """Element offset of flattened row ``clip * rows_per_clip + r`` of a [clips, rows_per_clip, ...] view, 64 bits."""
    clip = row // rows_per_clip
    return clip.to(tl.int64) * clip_stride + (row - clip * rows_per_clip) * row_stride


@triton.jit
def tile_position(program, rows, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """(row tile, column tile) of a program, in grouped order: GROUP_M row tiles together, column by column."""
    tiles_m = (rows + BLOCK_M - 1) // BLOCK_M
    tiles_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    first = program // (GROUP_M * tiles_n) * GROUP_M
    height = tl.minimum(tiles_m - first, GROUP_M)
    inside = program % (GROUP_M * tiles_n)
    return first + inside % height, inside // height


@triton.jit
def as_type(y, TYPE: tl.constexpr):
    """y rounded to a type; to float8 by way of float16, as compute capability 8.9 always does it."""
    if tl.float8e4nv == TYPE:
        return y.to(tl.float16).to(TYPE)
    return y.to(TYPE)


@triton.jit
def tile_product(
    x_rows,  # pointers to the first element of each row of x, [BLOCK_M]
    w_rows,  # pointers to the first element of each row of w, [BLOCK_N]
    k_tiles,  # cdiv(K, BLOCK_K); not a constant, so that the loop stays a loop
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Main loop of a GEMM: x w^T of one tile, float32 [BLOCK_M, BLOCK_N]."""
    k = tl.arange(0, BLOCK_K)
    x_tile = x_rows[:, None] + k[None, :]  # [BLOCK_M, BLOCK_K]
    w_tile = w_rows[None, :] + k[:, None]  # [BLOCK_K, BLOCK_N]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for i in range(0, k_tiles):
        if K % BLOCK_K == 0:
            x = tl.load(x_tile)
            w = tl.load(w_tile)
        else:
            x = tl.load(x_tile, mask=(k < K - i * BLOCK_K)[None, :], other=0.0)
            w = tl.load(w_tile, mask=(k < K - i * BLOCK_K)[:, None], other=0.0)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
        x_tile += BLOCK_K
        w_tile += BLOCK_K
    return acc


@triton.jit
def gelu(x, TYPE: tl.constexpr):
    """GELU with erf, x (1 + erf(x / sqrt 2)) / 2: exact in float32, within 7e-5 for float16, 1.7e-4 for bfloat16.

    The approximation is max(x, 0) - a P(a), a = min(|x|, c): P minimax for the error of the product and 0 at c, so that
    nothing is left of it beyond. 11 or 9 operations and no special function, since little overlaps with the epilogue.
    """
    if tl.float32 == TYPE:
        return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))
    if tl.float16 == TYPE:
        a = tl.minimum(tl.abs(x), 4.18)
        p = 3.2023381209000945e-05 * a - 5.170065560378134e-04
        p = p * a + 2.710198750719428e-03
        p = p * a - 1.0996926575899124e-03
        p = p * a - 3.8905296474695206e-02
        p = p * a + 1.2682412564754486e-01
        p = p * a - 4.529266804456711e-02
        p = p * a - 3.8335397839546204e-01
        p = p * a + 4.982081949710846e-01
    else:
        a = tl.minimum(tl.abs(x), 3.94)
        p = -6.683841929771006e-04 * a + 1.0254942812025547e-02
        p = p * a - 5.927049741148949e-02
        p = p * a + 1.442699581384659e-01
        p = p * a - 4.833026602864265e-02
        p = p * a - 3.875108063220978e-01
        p = p * a + 4.998116493225098e-01
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) - a * p


@triton.jit(do_not_specialize=["rows", "rows_per_clip", "k_tiles"])
def norm_linear_kernel(
    x_ptr,  # [clips, rows_per_clip, K]
    sumsq_ptr,  # [clips, rows_per_clip, PARTS] float32, of x; None for a product of x as it is
    w_ptr,  # [N, K], gamma folded in
    w_scale_ptr,  # [N] float32 of float8 weights, else None
    bias_ptr,  # [N] float32, beta folded in
    out_ptr,  # [clips, rows_per_clip, N]
    eps,
    gain,  # of a float8 output
    rows,  # clips * rows_per_clip
    rows_per_clip,
    k_tiles,
    x_clip_stride,
    x_row_stride,
    sumsq_clip_stride,
    sumsq_row_stride,
    out_clip_stride,
    out_row_stride,
    N: tl.constexpr,
    K: tl.constexpr,
    CENTRED: tl.constexpr,  # whether rows of x are zero-mean
    GELU: tl.constexpr,
    PRECISION: tl.constexpr,
    STATISTICS: tl.constexpr,
    PADDED_PARTS: tl.constexpr,  # K / STATISTICS, rounded up to a power of two
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """out = gain * act(rstd(x) * w_scale * (x w^T) + bias), rstd = 1 / sqrt(sum of squares / K + eps)."""
    await_grid(DEPENDENT)
    tile_m, tile_n = tile_position(tl.program_id(0), rows, N, BLOCK_M, BLOCK_N, GROUP_M)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.minimum(m, rows - 1)  # rows past the end read the last one; their results are not stored

    column = n if N % BLOCK_N == 0 else tl.minimum(n, N - 1)
    x_rows = x_ptr + row_offset(row, rows_per_clip, x_clip_stride, x_row_stride)
    y = tile_product(x_rows, w_ptr + column * K, k_tiles, K, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
    if sumsq_ptr is not None:  # behind the loop: before it, all of it would wait for the statistics
        sumsq_rows = sumsq_ptr + row_offset(row, rows_per_clip, sumsq_clip_stride, sumsq_row_stride)
        y *= row_rstd(sumsq_rows, eps, K, STATISTICS, PADDED_PARTS, CENTRED)[:, None]
    if w_scale_ptr is not None:
        y *= tl.load(w_scale_ptr + column)[None, :]
    y += tl.load(bias_ptr + column)[None, :]
    if GELU:
        y = gelu(y, out_ptr.dtype.element_ty)
    if out_ptr.dtype.element_ty == tl.float8e4nv:
        y *= gain
    out = out_ptr + row_offset(row, rows_per_clip, out_clip_stride, out_row_stride)[:, None] + n[None, :]
    tl.store(out, as_type(y, out_ptr.dtype.element_ty), mask=(m < rows)[:, None] & (n < N)[None, :])


@triton.jit(do_not_specialize=["rows", "rows_per_clip", "k_tiles"])
def linear_residual_kernel(
    x_ptr,  # [clips, rows_per_clip, K]
    w_ptr,  # [N, K], centred over N
    w_scale_ptr,  # [N] float32 of float8 weights and x, else None
    bias_ptr,  # [N] float32, centred and scaled
    x_sumsq_ptr,  # [clips, rows_per_clip, parts of K] float32 of an x that is normalised, else None
    stream_ptr,  # [clips, rows_per_clip, N], read and written
    sumsq_ptr,  # [clips, rows_per_clip, PARTS] float32
    scale,  # of the stream
    eps,  # of the normalisation of x
    rows,  # clips * rows_per_clip
    rows_per_clip,
    k_tiles,
    x_clip_stride,
    x_row_stride,
    x_sumsq_clip_stride,
    x_sumsq_row_stride,
    stream_clip_stride,
    stream_row_stride,
    sumsq_clip_stride,
    sumsq_row_stride,
    N: tl.constexpr,
    K: tl.constexpr,
    CENTRED: tl.constexpr,  # whether rows of the stream are zero-mean, and those of an x that is normalised
    PRECISION: tl.constexpr,
    STATISTICS: tl.constexpr,
    PADDED_PARTS: tl.constexpr,  # K / STATISTICS, rounded up to a power of two
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    EARLY_RESIDUAL: tl.constexpr,  # the stream's tile is loaded before the main loop, and waits in registers
    DEPENDENT: tl.constexpr = False,
):
    """stream += scale * w_scale * (x w^T) + bias, and the partial sums of squares of the new rows."""
    await_grid(DEPENDENT)
    tile_m, tile_n = tile_position(tl.program_id(0), rows, N, BLOCK_M, BLOCK_N, GROUP_M)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.minimum(m, rows - 1)  # rows past the end read the last one; their results are not stored
    column = n if N % BLOCK_N == 0 else tl.minimum(n, N - 1)
    stream_rows = stream_ptr + row_offset(row, rows_per_clip, stream_clip_stride, stream_row_stride)
    sumsq_rows = sumsq_ptr + row_offset(row, rows_per_clip, sumsq_clip_stride, sumsq_row_stride)
    valid = (m < rows)[:, None] & (n < N)[None, :]
    if EARLY_RESIDUAL:
        residual = tl.load(stream_rows[:, None] + n[None, :], mask=valid, other=0.0)
    x_rows = x_ptr + row_offset(row, rows_per_clip, x_clip_stride, x_row_stride)
    acc = tile_product(x_rows, w_ptr + column * K, k_tiles, K, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
    if not EARLY_RESIDUAL:
        residual = tl.load(stream_rows[:, None] + n[None, :], mask=valid, other=0.0)
    if w_scale_ptr is not None:
        acc *= tl.load(w_scale_ptr + column)[None, :]
    if x_sumsq_ptr is not None:
        x_sumsq_rows = x_sumsq_ptr + row_offset(row, rows_per_clip, x_sumsq_clip_stride, x_sumsq_row_stride)
        acc *= row_rstd(x_sumsq_rows, eps, K, STATISTICS, PADDED_PARTS, CENTRED)[:, None]
    y = residual.to(tl.float32) + (acc * scale + tl.load(bias_ptr + column)[None, :])
    store_stream(y, stream_rows, sumsq_rows, m < rows, tile_n, N, BLOCK_M, BLOCK_N, STATISTICS, CENTRED)


def norm_linear(
    x: Any,
    sumsq: Any,
    weight: Any,
    bias: Any,
    eps: float,
    out: Any,
    *,
    activation: str | None,
    precision: str,
    tile: Tile,
    weight_scale: Any = None,
    gain: float = 1.0,
) -> Launch:
    """x [B, R, K] and its partial sums of squares [B, R, K / 64] -> out [B, R, N] = act(rstd(x) x weight^T + bias).

    Without sums of squares there is no rstd; twice as many are those of rows that are not zero-mean (statistics.py).
    A float8 weight has ``weight_scale`` [N]; a float8 output is multiplied by ``gain``.
    """
    clips, rows_per_clip, k = x.shape
    n = weight.shape[0]
    args = {
        "x_ptr": x,
        "sumsq_ptr": sumsq,
        "w_ptr": weight,
        "w_scale_ptr": weight_scale,
        "bias_ptr": bias,
        "out_ptr": out,
        "eps": eps,
        "gain": gain,
        "rows": clips * rows_per_clip,
        "rows_per_clip": rows_per_clip,
        "k_tiles": triton.cdiv(k, tile.k),
        **row_strides("x", x),
        **row_strides("sumsq", sumsq),
        **row_strides("out", out),
        "N": n,
        "K": k,
        "CENTRED": are_centred(k, sumsq),
        "GELU": activation == "gelu",
        "PRECISION": precision,
        "STATISTICS": STATISTICS_TILE,
        "PADDED_PARTS": triton.next_power_of_2(statistics_parts(k)),
        **_blocks(tile),
    }
    return _launch(norm_linear_kernel, clips * rows_per_clip, n, k, args, tile, ("out_ptr",), x, weight, out)


def linear(
    x: Any, weight: Any, bias: Any, out: Any, *, activation: str | None = None, **epilogue_and_tile: Any
) -> Launch:
    """x [B, R, K] -> out [B, R, N] = act(x weight^T + bias); the other arguments as in ``norm_linear``."""
    return norm_linear(x, None, weight, bias, 0.0, out, activation=activation, **epilogue_and_tile)


def linear_residual(
    x: Any,
    weight: Any,
    bias: Any,
    scale: float,
    stream: Any,
    sumsq: Any,
    *,
    precision: str,
    tile: Tile,
    weight_scale: Any = None,
    x_sumsq: Any = None,
    eps: float = 0.0,
) -> Launch:
    """stream [B, R, N] += scale * (x [B, R, K] weight^T) + bias; sumsq [B, R, N / 64] of the result.

    With ``x_sumsq`` [B, R, K / 64], partial sums of squares of x, the product is multiplied by rstd(x).
    Where x and weight are float8, ``weight_scale`` [N] multiplies the product.
    """
    clips, rows_per_clip, k = x.shape
    n = weight.shape[0]
    args = {
        "x_ptr": x,
        "w_ptr": weight,
        "w_scale_ptr": weight_scale,
        "bias_ptr": bias,
        "x_sumsq_ptr": x_sumsq,
        "stream_ptr": stream,
        "sumsq_ptr": sumsq,
        "scale": scale,
        "eps": eps,
        "rows": clips * rows_per_clip,
        "rows_per_clip": rows_per_clip,
        "k_tiles": triton.cdiv(k, tile.k),
        **row_strides("x", x),
        **row_strides("x_sumsq", x_sumsq),
        **row_strides("stream", stream),
        **row_strides("sumsq", sumsq),
        "N": n,
        "K": k,
        "CENTRED": are_centred(n, sumsq),
        "PRECISION": precision,
        "STATISTICS": STATISTICS_TILE,
        "PADDED_PARTS": triton.next_power_of_2(statistics_parts(k)),
        **_blocks(tile),
        "EARLY_RESIDUAL": tile.early,
    }
    return _launch(
        linear_residual_kernel, clips * rows_per_clip, n, k, args, tile, ("sumsq_ptr",), x, weight, stream, stream
    )


def row_strides(name: str, view: Any) -> dict[str, int]:
    """Strides of a [clips, rows, columns] view as arguments of a kernel, 0 for None. Raises ValueError if columns are
    strided."""
    if view is None:
        return {f"{name}_clip_stride": 0, f"{name}_row_stride": 0}
    if view.stride(2) != 1:
        raise ValueError(f"{name} has column stride {view.stride(2)}: its columns must be contiguous")
    return {f"{name}_clip_stride": view.stride(0), f"{name}_row_stride": view.stride(1)}


def _blocks(tile: Tile) -> dict[str, int]:
    return {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k, "GROUP_M": GROUP}


def _launch(
    kernel: Any, rows: int, n: int, k: int, args: dict[str, Any], tile: Tile, outputs: tuple[str, ...], *traffic: Any
) -> Launch:
    grid = (triton.cdiv(rows, tile.m) * triton.cdiv(n, tile.n), 1, 1)
    work = Work(flops=2 * rows * n * k, bytes=sum(a.numel() * a.element_size() for a in traffic))
    return Launch(kernel, grid, args, tile.warps, tile.stages, outputs, work)
