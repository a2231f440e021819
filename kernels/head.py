"""Classification head in float32: ``pool`` (final LayerNorm, mean over rows) and ``head`` (LayerNorm, linear).

The pool's LayerNorm subtracts the mean itself, at no cost: its rows are in registers.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from astfast.kernels.launch import Launch, Work, await_grid
from astfast.kernels.linear import row_strides
from astfast.kernels.tuning import Tile

POOL_ROWS = 4  # at a time: [4, 1024] numbers are 32 registers of a thread
POOL_STAGES = 3


@triton.jit(do_not_specialize=["rows"])
def pool_kernel(
    stream_ptr,  # [clips, rows, D]
    weight_ptr,  # [D] float32
    bias_ptr,  # [D] float32
    sizes_ptr,  # [clips, rows] float32: how much each row counts, or None: alike
    out_ptr,  # [clips, D] float32
    eps,
    rows,
    clip_stride,
    row_stride,
    sizes_clip_stride,
    out_clip_stride,
    D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    STAGES: tl.constexpr,  # steps of BLOCK_R rows that are loaded ahead
    BLOCK_D: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """out = mean of LN(x) over the rows of a clip, biased variance. Grid: clips."""
    await_grid(DEPENDENT)
    clip = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    inside = d < D
    total = tl.zeros((BLOCK_R, BLOCK_D), dtype=tl.float32)
    count = tl.zeros((BLOCK_R,), dtype=tl.float32)
    for start in tl.range(0, rows, BLOCK_R, num_stages=STAGES):
        row = start + tl.arange(0, BLOCK_R)
        valid = (row < rows)[:, None] & inside[None, :]
        source = stream_ptr + clip * clip_stride + row[:, None] * row_stride + d[None, :]
        x = tl.load(source, mask=valid, other=0.0).to(tl.float32)  # [BLOCK_R, BLOCK_D]
        centred = tl.where(valid, x - (tl.sum(x, axis=1) / D)[:, None], 0.0)
        std = tl.sqrt(tl.sum(centred * centred, axis=1) / D + eps)
        normed = centred / std[:, None]
        if sizes_ptr is not None:
            size = tl.load(sizes_ptr + clip * sizes_clip_stride + row, mask=row < rows, other=0.0)
            count += size
            normed *= size[:, None]
        total += tl.where(valid, normed, 0.0)
    mean = tl.sum(total, axis=0)
    if sizes_ptr is not None:
        mean /= tl.sum(count, axis=0)
    else:
        mean *= 1.0 / rows
    y = mean * tl.load(weight_ptr + d, mask=inside) + tl.load(bias_ptr + d, mask=inside)
    tl.store(out_ptr + clip * out_clip_stride + d, y, mask=inside)


@triton.jit(do_not_specialize=["clips"])
def head_kernel(
    x_ptr,  # [clips, K] float32
    w_ptr,  # [LABELS, K] float32, gamma folded in
    bias_ptr,  # [LABELS] float32, beta folded in
    out_ptr,  # [clips, LABELS] float32
    eps,
    clips,
    x_clip_stride,
    out_clip_stride,
    LABELS: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """out = LN(x) w^T + bias, the classifier's own LayerNorm. Grid: clip tiles, label tiles."""
    await_grid(DEPENDENT)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    clip = tl.minimum(m, clips - 1).to(tl.int64)
    label = tl.minimum(n, LABELS - 1)
    x_rows = x_ptr + clip * x_clip_stride

    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        total += tl.sum(
            tl.load(x_rows[:, None] + (start + k)[None, :], mask=(start + k < K)[None, :], other=0.0), axis=1
        )
    mean = total / K
    square = tl.zeros((BLOCK_M,), dtype=tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        inside = start + k < K
        x = tl.load(x_rows[:, None] + (start + k)[None, :], mask=inside[None, :], other=0.0)
        x = tl.where(inside[None, :], x - mean[:, None], 0.0)
        square += tl.sum(x * x, axis=1)
        w = tl.load(w_ptr + label[None, :] * K + (start + k)[:, None], mask=inside[:, None], other=0.0)
        # A sum of its own for each block of K: one chain over all of K would round two to four times as far off. (fma,
        # since Triton folds acc + dot into dot's own accumulator.)
        part = tl.dot(x, w, input_precision=PRECISION)
        acc = tl.fma(part, tl.full((BLOCK_M, BLOCK_N), 1.0, tl.float32), acc)
    rstd = 1.0 / tl.sqrt(square / K + eps)
    y = acc * rstd[:, None] + tl.load(bias_ptr + label)[None, :]
    out = out_ptr + clip[:, None] * out_clip_stride + n[None, :]
    tl.store(out, y, mask=(m < clips)[:, None] & (n < LABELS)[None, :])


def pool(stream: Any, weight: Any, bias: Any, eps: float, out: Any, sizes: Any = None) -> Launch:
    """stream [B, R, D], sizes [B, R] -> out [B, D] float32: mean of LN(stream) over the R rows, R at least 1."""
    clips, rows, d = stream.shape
    strides = row_strides("stream", stream)
    args = {
        "stream_ptr": stream,
        "weight_ptr": weight,
        "bias_ptr": bias,
        "sizes_ptr": sizes,
        "out_ptr": out,
        "eps": eps,
        "rows": rows,
        "clip_stride": strides["stream_clip_stride"],
        "row_stride": strides["stream_row_stride"],
        "sizes_clip_stride": 0 if sizes is None else sizes.stride(0),
        "out_clip_stride": out.stride(0),
        "D": d,
        "BLOCK_R": min(triton.next_power_of_2(rows), POOL_ROWS),
        "STAGES": POOL_STAGES,
        "BLOCK_D": triton.next_power_of_2(d),
    }
    work = Work(bytes=stream.numel() * stream.element_size() + out.numel() * 4)
    return Launch(pool_kernel, (clips, 1, 1), args, 4, 1, ("out_ptr",), work)


def head(x: Any, weight: Any, bias: Any, eps: float, out: Any, *, precision: str, tile: Tile) -> Launch:
    """x [B, D] float32 -> out [B, L] float32 = LN(x) weight^T + bias, gamma and beta folded into weight and bias."""
    clips, k = x.shape
    labels = weight.shape[0]
    args = {
        "x_ptr": x,
        "w_ptr": weight,
        "bias_ptr": bias,
        "out_ptr": out,
        "eps": eps,
        "clips": clips,
        "x_clip_stride": x.stride(0),
        "out_clip_stride": out.stride(0),
        "LABELS": labels,
        "K": k,
        "PRECISION": precision,
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "BLOCK_K": tile.k,
    }
    work = Work(flops=2 * clips * k * labels, bytes=(x.numel() + weight.numel() + out.numel()) * 4)
    grid = (triton.cdiv(clips, tile.m), triton.cdiv(labels, tile.n), 1)
    return Launch(head_kernel, grid, args, tile.warps, tile.stages, ("out_ptr",), work)
