"""Images of DASS, as rows of channels: convolutions that halve them, their LayerNorm, and the depthwise convolution.

A convolution is an implicit GEMM: its rows are positions of the output, its sum runs over nine neighbours' channels,
which are read where they lie. No patch matrix is written, and nothing is transposed.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from astfast.kernels.launch import Launch, Work, await_grid
from astfast.kernels.linear import GROUP, gelu, row_offset, row_strides, tile_position
from astfast.kernels.statistics import STATISTICS_TILE, store_stream
from astfast.kernels.tuning import Tile

TAPS = 9  # of a 3 x 3 kernel, row by row
NORM_ELEMENTS = 4096  # of a tile of ``image_norm``: 32 registers of a thread


@triton.jit(do_not_specialize=["rows", "in_rows", "in_columns"])
def convolution_kernel(
    x_ptr,  # [clips, in_rows * in_columns, K]
    w_ptr,  # [N, 9 * K], column tap * K + k
    bias_ptr,  # [N] float32, scaled
    out_ptr,  # [clips, rows of the output image, N]
    scale,  # of the product
    rows,  # of all output images
    in_rows,
    in_columns,
    x_clip_stride,
    x_row_stride,
    out_clip_stride,
    out_row_stride,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """out = scale * (3 x 3 convolution of stride 2 and padding 1) + bias."""
    await_grid(DEPENDENT)
    tile_m, tile_n = tile_position(tl.program_id(0), rows, N, BLOCK_M, BLOCK_N, GROUP_M)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.minimum(m, rows - 1)
    column = n if N % BLOCK_N == 0 else tl.minimum(n, N - 1)
    out_columns = (in_columns + 1) // 2
    positions = (in_rows + 1) // 2 * out_columns
    clip = row // positions
    position = row - clip * positions
    top = 2 * (position // out_columns) - 1  # row and column of the first neighbour, which may lie outside
    left = 2 * (position % out_columns) - 1
    image = x_ptr + clip.to(tl.int64) * x_clip_stride  # [BLOCK_M]

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, 9 * K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        if K % BLOCK_K == 0:  # one neighbour at a time
            tap = tl.zeros((BLOCK_K,), dtype=tl.int32) + start // K
            channel = start % K + tl.arange(0, BLOCK_K)
        else:
            tap = k // K
            channel = k % K
        y = top[:, None] + (tap // 3)[None, :]
        x = left[:, None] + (tap % 3)[None, :]
        inside = (y >= 0) & (y < in_rows) & (x >= 0) & (x < in_columns) & (k < 9 * K)[None, :]
        source = image[:, None] + (y * in_columns + x) * x_row_stride + channel[None, :]
        w = tl.load(w_ptr + column[None, :] * (9 * K) + k[:, None], mask=(k < 9 * K)[:, None], other=0.0)
        acc = tl.dot(tl.load(source, mask=inside, other=0.0).to(w.dtype), w, acc, input_precision=PRECISION)
    y = acc * scale + tl.load(bias_ptr + column)[None, :]
    out = out_ptr + row_offset(row, positions, out_clip_stride, out_row_stride)[:, None] + n[None, :]
    tl.store(out, y.to(out_ptr.dtype.element_ty), mask=(m < rows)[:, None] & (n < N)[None, :])


@triton.jit(do_not_specialize=["rows", "rows_per_clip"])
def image_norm_kernel(
    stream_ptr,  # [clips, rows_per_clip, N], read and written
    sumsq_ptr,  # [clips, rows_per_clip, 2 * PARTS] float32
    weight_ptr,  # [N] float32
    bias_ptr,  # [N] float32
    scale,  # of the stream
    eps,  # times scale^2
    rows,
    rows_per_clip,
    stream_clip_stride,
    stream_row_stride,
    sumsq_clip_stride,
    sumsq_row_stride,
    N: tl.constexpr,
    GELU: tl.constexpr,
    STATISTICS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,  # N or more
    DEPENDENT: tl.constexpr = False,
):
    """stream = scale * act(LN(stream)), and the statistics of its new rows. Grid: row tiles."""
    await_grid(DEPENDENT)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    row = tl.minimum(m, rows - 1)
    inside = (n < N)[None, :]
    valid = (m < rows)[:, None] & inside
    stream_rows = stream_ptr + row_offset(row, rows_per_clip, stream_clip_stride, stream_row_stride)
    x = tl.load(stream_rows[:, None] + n[None, :], mask=valid, other=0.0).to(tl.float32)
    centred = tl.where(inside, x - (tl.sum(x, axis=1) / N)[:, None], 0.0)
    std = tl.sqrt(tl.sum(centred * centred, axis=1) / N + eps)
    weight = tl.load(weight_ptr + n, mask=n < N, other=0.0)
    y = centred / std[:, None] * weight[None, :] + tl.load(bias_ptr + n, mask=n < N, other=0.0)[None, :]
    if GELU:
        y = gelu(y, stream_ptr.dtype.element_ty)
    sumsq_rows = sumsq_ptr + row_offset(row, rows_per_clip, sumsq_clip_stride, sumsq_row_stride)
    store_stream(y * scale, stream_rows, sumsq_rows, m < rows, 0, N, BLOCK_M, BLOCK_N, STATISTICS, False)


@triton.jit(do_not_specialize=["rows", "columns"])
def depthwise_silu_kernel(
    x_ptr,  # [clips, rows * columns, C]
    w_ptr,  # [9, C] float32
    out_ptr,  # [clips, rows * columns, C]
    rows,
    columns,
    x_clip_stride,
    x_row_stride,
    out_clip_stride,
    out_row_stride,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """out = silu(3 x 3 convolution of each channel, padding 1). Grid: tiles of positions, of channels, clips."""
    await_grid(DEPENDENT)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    clip = tl.program_id(2).to(tl.int64)
    image = x_ptr + clip * x_clip_stride + n
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for tap in tl.static_range(9):
        y = m // columns + (tap // 3 - 1)
        x = m % columns + (tap % 3 - 1)
        inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
        source = image[None, :] + (y * columns + x)[:, None] * x_row_stride
        value = tl.load(source, mask=inside[:, None] & (n < C)[None, :], other=0.0).to(tl.float32)
        acc += value * tl.load(w_ptr + tap * C + n, mask=n < C, other=0.0)[None, :]
    acc = acc / (1.0 + tl.exp(-acc))
    out = out_ptr + clip * out_clip_stride + m[:, None] * out_row_stride + n[None, :]
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=(m < rows * columns)[:, None] & (n < C)[None, :])


def convolution(
    x: Any, weight: Any, bias: Any, scale: float, out: Any, *, rows: int, columns: int, precision: str, tile: Tile
) -> Launch:
    """Image x [B, rows * columns, K] -> out [B, R' * C', N] = scale * convolution + bias, sizes halved upwards."""
    clips, positions, n = out.shape
    k = x.shape[2]
    block_k = tile.k
    while block_k > 16 and k % block_k:  # of one neighbour, where that is possible
        block_k //= 2
    args = {
        "x_ptr": x,
        "w_ptr": weight,
        "bias_ptr": bias,
        "out_ptr": out,
        "scale": scale,
        "rows": clips * positions,
        "in_rows": rows,
        "in_columns": columns,
        **row_strides("x", x),
        **row_strides("out", out),
        "N": n,
        "K": k,
        "PRECISION": precision,
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "BLOCK_K": block_k,
        "GROUP_M": GROUP,
    }
    work = Work(
        flops=2 * clips * positions * TAPS * k * n,
        bytes=sum(a.numel() * a.element_size() for a in (x, weight, out)),
    )
    grid = (triton.cdiv(clips * positions, tile.m) * triton.cdiv(n, tile.n), 1, 1)
    return Launch(convolution_kernel, grid, args, tile.warps, tile.stages, ("out_ptr",), work)


def image_norm(
    stream: Any, sumsq: Any, weight: Any, bias: Any, scale: float, eps: float, *, activation: str | None
) -> Launch:
    """stream [B, R, N] = scale * act(LN(stream)) in place; sumsq [B, R, 2 * N / 64] of the result."""
    clips, rows_per_clip, n = stream.shape
    block_n = max(triton.next_power_of_2(n), STATISTICS_TILE)
    block_m = max(1, NORM_ELEMENTS // block_n)
    args = {
        "stream_ptr": stream,
        "sumsq_ptr": sumsq,
        "weight_ptr": weight,
        "bias_ptr": bias,
        "scale": scale,
        "eps": eps,
        "rows": clips * rows_per_clip,
        "rows_per_clip": rows_per_clip,
        **row_strides("stream", stream),
        **row_strides("sumsq", sumsq),
        "N": n,
        "GELU": activation == "gelu",
        "STATISTICS": STATISTICS_TILE,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
    }
    work = Work(bytes=2 * stream.numel() * stream.element_size() + sumsq.numel() * 4)
    grid = (triton.cdiv(clips * rows_per_clip, block_m), 1, 1)
    return Launch(image_norm_kernel, grid, args, 4, 1, ("sumsq_ptr",), work)


def depthwise_silu(x: Any, weight: Any, out: Any, *, rows: int, columns: int, tile: Tile) -> Launch:
    """Image x [B, rows * columns, C], weight [9, C] float32 -> out: silu of the depthwise convolution."""
    clips, positions, c = x.shape
    args = {
        "x_ptr": x,
        "w_ptr": weight,
        "out_ptr": out,
        "rows": rows,
        "columns": columns,
        **row_strides("x", x),
        **row_strides("out", out),
        "C": c,
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
    }
    work = Work(
        flops=2 * TAPS * x.numel(),
        bytes=sum(a.numel() * a.element_size() for a in (x, weight, out)),
        exponentials=x.numel(),
    )
    grid = (triton.cdiv(positions, tile.m), triton.cdiv(c, tile.n), clips)
    return Launch(depthwise_silu_kernel, grid, args, tile.warps, tile.stages, ("out_ptr",), work)
