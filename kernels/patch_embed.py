"""Patch embedding as an implicit GEMM: spectrogram -> tokens, prefix tokens and position added in the epilogue.

Strided patches are read straight from the spectrogram: no patch matrix is written. Rows of the product are tokens; the
first ``PREFIX`` of each clip (such as cls and dist) have an empty patch and are rows of the added table alone.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from astfast.kernels.launch import Launch, Work, await_grid
from astfast.kernels.linear import GROUP, row_offset, row_strides, tile_position
from astfast.kernels.statistics import STATISTICS_TILE, store_stream
from astfast.kernels.tuning import Tile


@triton.jit(do_not_specialize=["rows", "tokens", "grid_t"])
def patch_embed_kernel(
    spectrogram_ptr,  # [clips, frames, mels] float32
    w_ptr,  # [N, PATCH * PATCH], column j * PATCH + i multiplies frame j and mel bin i of a patch
    table_ptr,  # [tokens, N] float32: position plus prefix token or bias of the projection
    stream_ptr,  # [clips, tokens, N]
    sumsq_ptr,  # [clips, tokens, PARTS] float32
    scale,  # of the stream
    rows,  # clips * tokens
    tokens,  # of a clip
    grid_t,  # patches along time
    clip_stride,  # of the spectrogram
    frame_stride,
    stream_clip_stride,
    stream_row_stride,
    sumsq_clip_stride,
    sumsq_row_stride,
    PREFIX: tl.constexpr,  # tokens before the patches, 0 or more
    N: tl.constexpr,
    PATCH: tl.constexpr,
    FREQUENCY_STRIDE: tl.constexpr,
    TIME_STRIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    STATISTICS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """stream = scale * (patch w^T) + table, and the partial sums of squares of its rows."""
    await_grid(DEPENDENT)
    tile_m, tile_n = tile_position(tl.program_id(0), rows, N, BLOCK_M, BLOCK_N, GROUP_M)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.minimum(m, rows - 1)
    column = tl.minimum(n, N - 1)
    clip = row // tokens
    token = row % tokens
    patch = tl.maximum(token - PREFIX, 0)
    mel = patch // grid_t * FREQUENCY_STRIDE
    frame = patch % grid_t * TIME_STRIDE
    corner = spectrogram_ptr + clip.to(tl.int64) * clip_stride + frame * frame_stride + mel  # [BLOCK_M]

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, PATCH * PATCH, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = k < PATCH * PATCH
        offset = k // PATCH * frame_stride + k % PATCH
        x = tl.load(corner[:, None] + offset[None, :], mask=(token >= PREFIX)[:, None] & inside[None, :], other=0.0)
        w = tl.load(w_ptr + column[None, :] * (PATCH * PATCH) + k[:, None], mask=inside[:, None], other=0.0)
        acc = tl.dot(x.to(w.dtype), w, acc, input_precision=PRECISION)

    y = acc * scale + tl.load(table_ptr + token[:, None] * N + column[None, :])
    stream_rows = stream_ptr + row_offset(row, tokens, stream_clip_stride, stream_row_stride)
    sumsq_rows = sumsq_ptr + row_offset(row, tokens, sumsq_clip_stride, sumsq_row_stride)
    store_stream(y, stream_rows, sumsq_rows, m < rows, tile_n, N, BLOCK_M, BLOCK_N, STATISTICS)


def patch_embed(
    spectrogram: Any,
    weight: Any,
    table: Any,
    scale: float,
    stream: Any,
    sumsq: Any,
    *,
    prefix: int,
    patch_size: int,
    frequency_stride: int,
    time_stride: int,
    precision: str,
    tile: Tile,
) -> Launch:
    """spectrogram [B, frames, mels] float32 -> stream [B, T, D] and its partial sums of squares [B, T, D / 64].

    ``prefix``: number of tokens before the patches, which are the first rows of ``table`` [T, D].
    """
    clips, frames, _ = spectrogram.shape
    tokens, n = table.shape
    k = patch_size * patch_size
    strides = row_strides("spectrogram", spectrogram)
    args = {
        "spectrogram_ptr": spectrogram,
        "w_ptr": weight,
        "table_ptr": table,
        "stream_ptr": stream,
        "sumsq_ptr": sumsq,
        "scale": scale,
        "rows": clips * tokens,
        "tokens": tokens,
        "grid_t": (frames - patch_size) // time_stride + 1,
        "clip_stride": strides["spectrogram_clip_stride"],
        "frame_stride": strides["spectrogram_row_stride"],
        **row_strides("stream", stream),
        **row_strides("sumsq", sumsq),
        "PREFIX": prefix,
        "N": n,
        "PATCH": patch_size,
        "FREQUENCY_STRIDE": frequency_stride,
        "TIME_STRIDE": time_stride,
        "PRECISION": precision,
        "STATISTICS": STATISTICS_TILE,
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "BLOCK_K": tile.k,
        "GROUP_M": GROUP,
    }
    work = Work(
        flops=2 * clips * (tokens - prefix) * n * k,
        bytes=sum(a.numel() * a.element_size() for a in (spectrogram, weight, table, stream)),
    )
    grid = (triton.cdiv(clips * tokens, tile.m) * triton.cdiv(n, tile.n), 1, 1)
    return Launch(patch_embed_kernel, grid, args, tile.warps, tile.stages, ("stream_ptr", "sumsq_ptr"), work)
