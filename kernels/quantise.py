"""Quantisation of the residual stream to float8 (e4m3), once for each product that reads it.

A row is stored as LayerNorm leaves it (gamma and beta are in the next weight), times one power of two: |x| rstd is at
most sqrt(K), so that nothing saturates, no maximum is searched for, and no row needs a scale in the product.
"""

from __future__ import annotations

import math
from typing import Any

import triton
import triton.language as tl

from astfast.kernels.launch import Launch, Work, await_grid
from astfast.kernels.linear import as_type, row_offset, row_strides
from astfast.kernels.statistics import STATISTICS_TILE, row_rstd, statistics_parts
from astfast.kernels.tuning import Tile

FLOAT8_MAX = 448.0  # largest finite number of e4m3


@triton.jit(do_not_specialize=["rows", "rows_per_clip"])
def quantise_rows_kernel(
    x_ptr,  # [clips, rows_per_clip, K]
    sumsq_ptr,  # [clips, rows_per_clip, PARTS] float32, of x
    out_ptr,  # [clips, rows_per_clip, K] float8
    eps,
    room,  # power of two
    rows,  # clips * rows_per_clip
    rows_per_clip,
    x_clip_stride,
    x_row_stride,
    sumsq_clip_stride,
    sumsq_row_stride,
    out_clip_stride,
    out_row_stride,
    K: tl.constexpr,
    STATISTICS: tl.constexpr,
    PADDED_PARTS: tl.constexpr,  # K / STATISTICS, rounded up to a power of two
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """out = room * rstd(x) * x. Grid: tiles of rows, tiles of columns."""
    await_grid(DEPENDENT)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.minimum(m, rows - 1)  # rows past the end read the last one; their results are not stored
    x = x_ptr + row_offset(row, rows_per_clip, x_clip_stride, x_row_stride)[:, None] + k[None, :]
    out = out_ptr + row_offset(row, rows_per_clip, out_clip_stride, out_row_stride)[:, None] + k[None, :]
    sumsq_rows = sumsq_ptr + row_offset(row, rows_per_clip, sumsq_clip_stride, sumsq_row_stride)
    factor = row_rstd(sumsq_rows, eps, K, STATISTICS, PADDED_PARTS) * room
    y = tl.load(x, mask=(k < K)[None, :], other=0.0).to(tl.float32) * factor[:, None]
    tl.store(out, as_type(y, out_ptr.dtype.element_ty), mask=(m < rows)[:, None] & (k < K)[None, :])


def quantise_rows(x: Any, sumsq: Any, eps: float, out: Any, *, tile: Tile) -> Launch:
    """x [B, R, K] and its partial sums of squares [B, R, K / 64] -> out [B, R, K] = float8_room(K) rstd(x) x."""
    clips, rows_per_clip, k = x.shape
    rows = clips * rows_per_clip
    args = {
        "x_ptr": x,
        "sumsq_ptr": sumsq,
        "out_ptr": out,
        "eps": eps,
        "room": float8_room(k),
        "rows": rows,
        "rows_per_clip": rows_per_clip,
        **row_strides("x", x),
        **row_strides("sumsq", sumsq),
        **row_strides("out", out),
        "K": k,
        "STATISTICS": STATISTICS_TILE,
        "PADDED_PARTS": triton.next_power_of_2(statistics_parts(k)),
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
    }
    work = Work(bytes=sum(a.numel() * a.element_size() for a in (x, sumsq, out)))
    grid = (triton.cdiv(rows, tile.m), triton.cdiv(k, tile.n), 1)
    return Launch(quantise_rows_kernel, grid, args, tile.warps, tile.stages, ("out_ptr",), work)


def float8_room(k: int) -> float:
    """Largest power of two by which numbers up to sqrt(k) can be multiplied within the range of e4m3."""
    return 2.0 ** math.floor(math.log2(FLOAT8_MAX / math.sqrt(k)))
