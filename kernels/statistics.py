"""Statistics of the rows of the residual stream, which LayerNorm reads: stored by what writes the stream, 64 columns at
a time, so that they take no pass over it.

Rows of a vision transformer's stream are zero-mean (folding.py): one partial sum of squares for each 64 columns. Rows
of an image that a convolution reads keep their mean: each part's sum of squares about its own mean, then the parts'
means, so that no large numbers cancel however far a mean is from zero.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

STATISTICS_TILE = 64  # columns of the stream in one partial sum of squares


@triton.jit
def row_rstd(
    sumsq_rows, eps, K: tl.constexpr, STATISTICS: tl.constexpr, PADDED_PARTS: tl.constexpr, CENTRED: tl.constexpr = True
):
    """1 / sqrt(sum of squares / K + eps) of rows, from pointers to their partial sums of squares, [BLOCK_M]."""
    part = tl.arange(0, PADDED_PARTS)
    parts: tl.constexpr = (K + STATISTICS - 1) // STATISTICS
    sums = tl.load(sumsq_rows[:, None] + part[None, :], mask=(part < parts)[None, :], other=0.0)
    if not CENTRED:  # the parts' own means apart from the row's
        means = tl.load(sumsq_rows[:, None] + (parts + part)[None, :], mask=(part < parts)[None, :], other=0.0)
        widths = tl.maximum(tl.minimum(K - part * STATISTICS, STATISTICS), 0).to(tl.float32)[None, :]
        apart = means - (tl.sum(means * widths, axis=1) / K)[:, None]
        sums += widths * apart * apart
    return 1.0 / tl.sqrt(tl.sum(sums, axis=1) / K + eps)


@triton.jit
def store_stream(
    y,  # new values of the stream, float32 [BLOCK_M, BLOCK_N]
    stream_rows,  # pointers to the rows of the stream, [BLOCK_M]
    sumsq_rows,  # pointers to the rows of the sums of squares, [BLOCK_M]
    row_valid,  # [BLOCK_M]
    tile_n,
    N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STATISTICS: tl.constexpr,
    CENTRED: tl.constexpr = True,
):
    """Epilogue: stores a tile of the residual stream, and partial sums of squares of the rounded values; where rows are
    not zero-mean, each part's about its own mean, and the means."""
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    valid = row_valid[:, None] & (n < N)[None, :]
    stored = y.to(stream_rows.dtype.element_ty)
    tl.store(stream_rows[:, None] + n[None, :], stored, mask=valid)
    part = tile_n * (BLOCK_N // STATISTICS) + tl.arange(0, BLOCK_N // STATISTICS)
    parts: tl.constexpr = (N + STATISTICS - 1) // STATISTICS
    part_valid = row_valid[:, None] & (part < parts)[None, :]
    value = tl.where((n < N)[None, :], stored.to(tl.float32), 0.0)
    value = tl.reshape(value, (BLOCK_M, BLOCK_N // STATISTICS, STATISTICS))
    if not CENTRED:
        width = tl.maximum(tl.minimum(N - part * STATISTICS, STATISTICS), 1).to(tl.float32)
        mean = tl.sum(value, axis=2) / width[None, :]
        tl.store(sumsq_rows[:, None] + (parts + part)[None, :], mean, mask=part_valid)
        inside = tl.reshape(n < N, (1, BLOCK_N // STATISTICS, STATISTICS))
        value = tl.where(inside, value - mean[:, :, None], 0.0)
    sums = tl.sum(value * value, axis=2)
    tl.store(sumsq_rows[:, None] + part[None, :], sums, mask=part_valid)


def statistics_parts(columns: int) -> int:
    """Number of partial sums of squares of a row of the stream with so many columns."""
    return triton.cdiv(columns, STATISTICS_TILE)


def are_centred(columns: int, sumsq: Any) -> bool:
    """Whether rows are zero-mean, by their statistics: [.., parts], or [.., 2 * parts] where they are not."""
    return sumsq is None or int(sumsq.shape[-1]) == statistics_parts(columns)
