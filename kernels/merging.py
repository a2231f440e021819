"""Token merging (``Ops.merge_tokens``): ``directions`` of keys, ``match`` of each source, a ``plan``, ``merge``.

Sources are the patches at even places, targets those at odd ones. All shapes depend on the count alone, and every sum
has one order, so that a CUDA graph holds for any clip. The plan ranks sources by counting those before each one: a
sort, a scatter and a compaction in one launch, and ties as defined.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from astfast.kernels.launch import Launch, Work, await_grid
from astfast.kernels.linear import row_strides
from astfast.kernels.statistics import STATISTICS_TILE, store_stream
from astfast.kernels.tuning import Tile

DIRECTION_ROWS = 16
SMALLEST_LENGTH = 1e-12  # of a key's mean, below which it has no direction
RANKED_AGAINST = 8  # sources at a time
MATCH_TILE = Tile(32, 32, 16, 4, 2)  # sources, targets, columns; the product is exact to float32


@triton.jit(do_not_specialize=["rows"])
def directions_kernel(
    keys_ptr,  # [clips, rows, HEADS * HEAD_DIM]
    out_ptr,  # [clips, rows, HEAD_DIM] float32
    rows,
    keys_clip_stride,
    keys_row_stride,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    SMALLEST: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """Sum over the heads of each key, divided by its length. Grid: row tiles, clips."""
    await_grid(DEPENDENT)
    clip = tl.program_id(1).to(tl.int64)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    inside = (m < rows)[:, None] & (d < HEAD_DIM)[None, :]
    keys = keys_ptr + clip * keys_clip_stride + m[:, None] * keys_row_stride + d[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    for head in range(HEADS):
        total += tl.load(keys + head * HEAD_DIM, mask=inside, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(total * total, axis=1)), SMALLEST)
    out = out_ptr + (clip * rows + m[:, None]) * HEAD_DIM + d[None, :]
    tl.store(out, total / length[:, None], mask=inside)


@triton.jit(do_not_specialize=["rows"])
def match_kernel(
    directions_ptr,  # [clips, rows, HEAD_DIM] float32
    cosine_ptr,  # [clips, sources] float32
    partner_ptr,  # [clips, sources] int32
    rows,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """The largest cosine of each source with a target, and the first target that has it. Grid: source tiles, clips."""
    await_grid(DEPENDENT)
    clip = tl.program_id(1).to(tl.int64)
    sources = (rows + 1) // 2
    targets = rows // 2
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)
    first_row = directions_ptr + clip * rows * HEAD_DIM
    source = first_row + 2 * tl.minimum(m, sources - 1)[:, None] * HEAD_DIM + k[None, :]
    best = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    partner = tl.zeros((BLOCK_M,), dtype=tl.int32)
    for first in range(0, targets, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        target = first_row + (2 * tl.minimum(n, targets - 1) + 1)[None, :] * HEAD_DIM + k[:, None]
        cosines = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, HEAD_DIM, BLOCK_K):
            inside = start + k < HEAD_DIM
            a = tl.load(source + start, mask=inside[None, :], other=0.0)
            b = tl.load(target + start, mask=inside[:, None], other=0.0)
            cosines = tl.dot(a, b, cosines, input_precision="ieee")
        cosines = tl.where((n < targets)[None, :], cosines, float("-inf"))
        largest, place = tl.max(cosines, axis=1, return_indices=True, return_indices_tie_break_left=True)
        partner = tl.where(largest > best, first + place, partner)
        best = tl.maximum(best, largest)
    tl.store(cosine_ptr + clip * sources + m, best, mask=m < sources)
    tl.store(partner_ptr + clip * sources + m, partner, mask=m < sources)


@triton.jit(do_not_specialize=["tokens", "count"])
def plan_kernel(
    cosine_ptr,  # [clips, sources] float32
    partner_ptr,  # [clips, sources] int32
    into_ptr,  # [clips, sources] int32: the target that a source is merged into, or -1
    origin_ptr,  # [clips, tokens - count] int32: the token that is kept in each row
    tokens,
    count,
    PREFIX: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """The ``count`` sources with the largest cosines, ties by place, and the tokens that are left. Grid: clips."""
    await_grid(DEPENDENT)
    clip = tl.program_id(0).to(tl.int64)
    sources = (tokens - PREFIX + 1) // 2
    i = tl.arange(0, BLOCK)
    cosine = tl.load(cosine_ptr + clip * sources + i, mask=i < sources, other=float("-inf"))
    rank = tl.zeros((BLOCK,), dtype=tl.int32)
    for start in range(0, sources, STEP):
        j = start + tl.arange(0, STEP)
        other = tl.load(cosine_ptr + clip * sources + j, mask=j < sources, other=float("-inf"))
        tied = (other[None, :] == cosine[:, None]) & (j[None, :] < i[:, None])
        before = ((other[None, :] > cosine[:, None]) | tied) & (j < sources)[None, :]
        rank += tl.sum(before.to(tl.int32), axis=1)
    merged = (rank < count) & (i < sources)
    gone = tl.cumsum(merged.to(tl.int32), axis=0)  # sources up to this one that are merged
    partner = tl.load(partner_ptr + clip * sources + i, mask=i < sources, other=-1)
    tl.store(into_ptr + clip * sources + i, tl.where(merged, partner, -1), mask=i < sources)
    origin = origin_ptr + clip * (tokens - count)
    even = PREFIX + 2 * i
    tl.store(origin + i, i, mask=i < PREFIX)
    tl.store(origin + even - gone, even, mask=(even < tokens) & (rank >= count))
    tl.store(origin + even + 1 - gone, even + 1, mask=even + 1 < tokens)


@triton.jit(do_not_specialize=["tokens"])
def merge_kernel(
    stream_ptr,  # [clips, tokens, D]
    into_ptr,  # [clips, sources] int32
    origin_ptr,  # [clips, rows] int32
    sizes_ptr,  # [clips, tokens] float32, or None: one each
    out_ptr,  # [clips, rows, D]
    sumsq_ptr,  # [clips, rows, parts] float32
    new_sizes_ptr,  # [clips, rows] float32
    tokens,
    stream_clip_stride,
    stream_row_stride,
    PREFIX: tl.constexpr,
    D: tl.constexpr,
    STATISTICS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """A row that is kept: its token, or the mean of all that it is merged from, by sizes. Grid: rows, clips."""
    await_grid(DEPENDENT)
    clip = tl.program_id(1).to(tl.int64)
    row = clip * tl.num_programs(0) + tl.program_id(0)
    sources = (tokens - PREFIX + 1) // 2
    token = tl.load(origin_ptr + row)
    target = (token - PREFIX) // 2
    is_target = (token >= PREFIX) & ((token - PREFIX) % 2 == 1)
    i = tl.arange(0, BLOCK)
    into = tl.load(into_ptr + clip * sources + i, mask=(i < sources) & is_target, other=-1)
    left = tl.where(is_target & (into == target), i, BLOCK)  # sources of this row, in order
    d = tl.arange(0, BLOCK_D)[None, :]
    tokens_of_clip = stream_ptr + clip * stream_clip_stride + d
    x = tl.load(tokens_of_clip + token * stream_row_stride, mask=d < D, other=0.0).to(tl.float32)  # [1, BLOCK_D]
    size = 1.0
    if sizes_ptr is not None:
        size = tl.load(sizes_ptr + clip * tokens + token)
    total = size
    weighted = x * size
    source = tl.min(left, axis=0)
    while source < BLOCK:
        place = PREFIX + 2 * source
        more = 1.0
        if sizes_ptr is not None:
            more = tl.load(sizes_ptr + clip * tokens + place)
        weighted += more * tl.load(tokens_of_clip + place * stream_row_stride, mask=d < D, other=0.0).to(tl.float32)
        total += more
        left = tl.where(left == source, BLOCK, left)
        source = tl.min(left, axis=0)
    y = tl.where(total == size, x, weighted / total)
    at = row + tl.zeros((1,), dtype=tl.int64)
    parts: tl.constexpr = (D + STATISTICS - 1) // STATISTICS
    store_stream(y, out_ptr + at * D, sumsq_ptr + at * parts, at >= 0, 0, D, 1, BLOCK_D, STATISTICS)
    tl.store(new_sizes_ptr + row, total)


def directions(keys: Any, out: Any, *, heads: int) -> Launch:
    """keys [B, R, D] -> out [B, R, D / heads] float32: their means over heads, of length 1."""
    clips, rows, hidden = keys.shape
    head_dim = hidden // heads
    args = {
        "keys_ptr": keys,
        "out_ptr": out,
        "rows": rows,
        **row_strides("keys", keys),
        "HEADS": heads,
        "HEAD_DIM": head_dim,
        "BLOCK_D": triton.next_power_of_2(head_dim),
        "BLOCK_M": DIRECTION_ROWS,
        "SMALLEST": SMALLEST_LENGTH,
    }
    work = Work(bytes=keys.numel() * keys.element_size() + out.numel() * 4)
    grid = (triton.cdiv(rows, DIRECTION_ROWS), clips, 1)
    return Launch(directions_kernel, grid, args, 4, 1, ("out_ptr",), work)


def match(directions: Any, cosine: Any, partner: Any) -> Launch:
    """directions [B, R, head_dim] -> cosine, partner [B, ceil(R / 2)]: of each source with the target most like it."""
    clips, rows, head_dim = directions.shape
    tile = MATCH_TILE
    args = {
        "directions_ptr": directions,
        "cosine_ptr": cosine,
        "partner_ptr": partner,
        "rows": rows,
        "HEAD_DIM": head_dim,
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "BLOCK_K": tile.k,
    }
    sources = cosine.shape[1]
    work = Work(
        flops=2 * clips * sources * (rows - sources) * head_dim, bytes=4 * (directions.numel() + 2 * clips * sources)
    )
    grid = (triton.cdiv(sources, tile.m), clips, 1)
    return Launch(match_kernel, grid, args, tile.warps, tile.stages, ("cosine_ptr", "partner_ptr"), work)


def plan(cosine: Any, partner: Any, into: Any, origin: Any, *, tokens: int, prefix: int) -> Launch:
    """cosine, partner [B, S] -> into [B, S], origin [B, tokens - count]: who is merged, and who is in which row."""
    clips, sources = cosine.shape
    args = {
        "cosine_ptr": cosine,
        "partner_ptr": partner,
        "into_ptr": into,
        "origin_ptr": origin,
        "tokens": tokens,
        "count": tokens - origin.shape[1],
        "PREFIX": prefix,
        "BLOCK": triton.next_power_of_2(max(sources, prefix)),
        "STEP": RANKED_AGAINST,
    }
    work = Work(bytes=4 * (3 * clips * sources + origin.numel()))
    return Launch(plan_kernel, (clips, 1, 1), args, 8, 1, ("into_ptr", "origin_ptr"), work)


def merge(
    stream: Any, into: Any, origin: Any, out: Any, sumsq: Any, new_sizes: Any, sizes: Any = None, *, prefix: int
) -> Launch:
    """stream [B, T, D], sizes [B, T] -> out [B, R, D] with its sums of squares, new_sizes [B, R]."""
    clips, tokens, d = stream.shape
    rows, sources = origin.shape[1], into.shape[1]
    args = {
        "stream_ptr": stream,
        "into_ptr": into,
        "origin_ptr": origin,
        "sizes_ptr": sizes,
        "out_ptr": out,
        "sumsq_ptr": sumsq,
        "new_sizes_ptr": new_sizes,
        "tokens": tokens,
        **row_strides("stream", stream),
        "PREFIX": prefix,
        "D": d,
        "STATISTICS": STATISTICS_TILE,
        "BLOCK_D": max(STATISTICS_TILE, triton.next_power_of_2(d)),
        "BLOCK": triton.next_power_of_2(sources),
    }
    work = Work(bytes=(stream.numel() + out.numel()) * out.element_size() + 4 * (sumsq.numel() + 2 * new_sizes.numel()))
    outputs = ("out_ptr", "sumsq_ptr", "new_sizes_ptr")
    return Launch(merge_kernel, (rows, clips, 1), args, 4, 1, outputs, work)
