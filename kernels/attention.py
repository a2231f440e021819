"""Fused attention, softmax(q k^T / sqrt(head_dim)) v per head, in one pass over keys and values (FlashAttention-2).

Online softmax (Dao 2023, https://arxiv.org/abs/2307.08691) in base 2, with the scale folded into the multiply-add
before exp2; the score matrix is never in memory. In 16 bits full key tiles need no mask; the remaining keys are a tile
of the smallest power of two that holds them, so that at 1,214 tokens only 2 columns are masked. In float32 every tile
is masked: products of three TF32 products leave no registers for a separate last tile.
"""

from __future__ import annotations

import math
from typing import Any

import triton
import triton.language as tl

from astfast.kernels.launch import Launch, Work, await_grid
from astfast.kernels.linear import as_type, row_strides
from astfast.kernels.tuning import Tile

MINIMUM_TILE = 16  # smallest side of a matrix instruction


@triton.jit
def load_tile(tile, column, key, PADDED: tl.constexpr, MASKED: tl.constexpr):
    """Keys or values: ``column`` masks the padding of the head size, ``key`` that of the last tile."""
    if MASKED:
        return tl.load(tile, mask=column & key, other=0.0)
    if PADDED:
        return tl.load(tile, mask=column, other=0.0)
    return tl.load(tile)


@triton.jit
def attend(
    q,  # [BLOCK_M, BLOCK_D]
    keys,  # pointer to the first key of the tile; its value is HIDDEN elements on
    row_stride,
    keys_left,  # keys from here to the end
    sizes,  # pointer to the size of the first key, if SIZED
    acc,  # sum of p v so far, [BLOCK_M, BLOCK_D]
    peak,  # running maximum of scale * score, [BLOCK_M]
    total,  # running sum of p, [BLOCK_M]
    scale,  # log2(e) / sqrt(head_dim)
    HIDDEN: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
    SIZED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One step of the online softmax: updates acc, peak and total with a tile of keys and values."""
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    k_tile = keys + (n[None, :] * row_stride + d[:, None])  # [BLOCK_D, BLOCK_N]
    v_tile = keys + HIDDEN + (n[:, None] * row_stride + d[None, :])  # [BLOCK_N, BLOCK_D]
    key = n < keys_left
    inside = d < HEAD_DIM
    padded: tl.constexpr = BLOCK_D != HEAD_DIM
    k = load_tile(k_tile, inside[:, None], key[None, :], padded, MASKED)
    v = load_tile(v_tile, inside[None, :], key[:, None], padded, MASKED)
    scores = tl.dot(q, k, input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
    if MASKED:
        scores = tl.where(key[None, :], scores, float("-inf"))
    if SIZED:  # a key of size n counts as n equal ones
        size = tl.load(sizes + n, mask=key, other=1.0)
        scores = scores * scale + tl.log2(size)[None, :]
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        p = tl.exp2(scores - new_peak[:, None])
    else:
        new_peak = tl.maximum(peak, tl.max(scores, axis=1) * scale)
        p = tl.exp2(scores * scale - new_peak[:, None])
    shrink = tl.exp2(peak - new_peak)
    total = total * shrink + tl.sum(p, axis=1)
    acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
    return acc, new_peak, total


@triton.jit(do_not_specialize=["queries"])
def attention_kernel(
    q_ptr,  # [clips, queries, heads * HEAD_DIM]
    kv_ptr,  # [clips, KEYS, 2 * heads * HEAD_DIM]: keys, then values
    sizes_ptr,  # [clips, KEYS] float32: how many keys each stands for, or None: one each
    out_ptr,  # [clips, queries, heads * HEAD_DIM]
    scale,  # log2(e) / sqrt(HEAD_DIM)
    queries,
    q_clip_stride,
    q_row_stride,
    kv_clip_stride,
    kv_row_stride,
    out_clip_stride,
    out_row_stride,
    KEYS: tl.constexpr,
    HIDDEN: tl.constexpr,  # heads * HEAD_DIM
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,  # HEAD_DIM rounded up to a power of two
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FULL: tl.constexpr,  # keys that are taken BLOCK_N at a time without masks
    TAIL: tl.constexpr,  # the others: so many at a time, masked
    DEPENDENT: tl.constexpr = False,
):
    """Attention of one tile of queries of one head of one clip. Grid: query tiles, heads, clips."""
    await_grid(DEPENDENT)
    head = tl.program_id(1)
    clip = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    query = tl.minimum(m, queries - 1)  # rows past the end repeat the last one; their results are not stored
    q_tile = q_ptr + clip * q_clip_stride + head * HEAD_DIM + query[:, None] * q_row_stride + d[None, :]
    q = tl.load(q_tile, mask=(d < HEAD_DIM)[None, :], other=0.0)

    keys = kv_ptr + clip * kv_clip_stride + head * HEAD_DIM
    acc = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    peak = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    stride = kv_row_stride
    sized: tl.constexpr = sizes_ptr is not None
    sizes = kv_ptr  # of no use
    if sized:
        sizes = sizes_ptr + clip * KEYS
    for _ in range(0, FULL, BLOCK_N):
        acc, peak, total = attend(
            q,
            keys,
            stride,
            BLOCK_N,
            sizes,
            acc,
            peak,
            total,
            scale,
            HIDDEN,
            HEAD_DIM,
            BLOCK_D,
            BLOCK_N,
            False,
            sized,
            PRECISION,
        )
        keys += BLOCK_N * stride
        if sized:
            sizes += BLOCK_N
    for first in range(FULL, KEYS, TAIL):
        left = KEYS - first
        acc, peak, total = attend(
            q,
            keys,
            stride,
            left,
            sizes,
            acc,
            peak,
            total,
            scale,
            HIDDEN,
            HEAD_DIM,
            BLOCK_D,
            TAIL,
            True,
            sized,
            PRECISION,
        )
        keys += TAIL * stride
        if sized:
            sizes += TAIL
    out = out_ptr + clip * out_clip_stride + head * HEAD_DIM + m[:, None] * out_row_stride + d[None, :]
    mask = (m < queries)[:, None] & (d < HEAD_DIM)[None, :]
    tl.store(out, as_type(acc / total[:, None], out_ptr.dtype.element_ty), mask=mask)


def attention(q: Any, kv: Any, out: Any, sizes: Any = None, *, heads: int, precision: str, tile: Tile) -> Launch:
    """q [B, R, D], kv [B, T, 2D] = [k, v], sizes [B, T] -> out [B, R, D]. ``tile.m`` queries by ``tile.n`` keys at a
    time."""
    clips, queries, hidden = q.shape
    keys = kv.shape[1]
    head_dim = hidden // heads
    full = keys // tile.n * tile.n if q.element_size() == 2 else 0
    tail = max(MINIMUM_TILE, min(tile.n, triton.next_power_of_2(keys - full)))
    args = {
        "q_ptr": q,
        "kv_ptr": kv,
        "sizes_ptr": sizes,
        "out_ptr": out,
        "scale": math.log2(math.e) / math.sqrt(head_dim),
        "queries": queries,
        **row_strides("q", q),
        **row_strides("kv", kv),
        **row_strides("out", out),
        "KEYS": keys,
        "HIDDEN": hidden,
        "HEAD_DIM": head_dim,
        "BLOCK_D": max(MINIMUM_TILE, triton.next_power_of_2(head_dim)),
        "PRECISION": precision,
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "FULL": full,
        "TAIL": tail,
    }
    work = Work(
        flops=4 * clips * queries * keys * hidden,
        bytes=(q.numel() + kv.numel() + out.numel()) * q.element_size(),
        exponentials=clips * heads * queries * keys,
    )
    grid = (triton.cdiv(queries, tile.m), heads, clips)
    return Launch(attention_kernel, grid, args, tile.warps, tile.stages, ("out_ptr",), work)
