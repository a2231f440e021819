"""Selective scan of state size 1 over an image in four directions: rows, columns, both reversed.

h_t = exp(A step_t) h_(t-1) + step_t b_t x_t, y_t = c_t h_t + D x_t, step = softplus(dt weight^T + bias). An image is
cut into tiles; what a tile's part of a row or column, a segment, does to the state is one factor and one addend:

- ``scan_segments`` finds both for every segment, each by itself;
- ``scan_states`` (scan_states.py) runs over the segments of a direction, which leaves the state behind each;
- ``scan_outputs`` computes a tile again, from the states in front of its segments, and adds up the four directions.

Steps are computed where they are needed and never stored, a tile is read as it lies in all directions, and the order of
every sum is fixed, whatever the batch.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from astfast.kernels.launch import Launch, Work, await_grid
from astfast.kernels.linear import row_strides
from astfast.kernels.scan_states import DIRECTIONS, first_segment, then
from astfast.kernels.statistics import STATISTICS_TILE, store_stream
from astfast.kernels.tuning import Tile


@triton.jit
def softplus(x):
    """log(1 + e^x) to 2^-22 of itself: max(x, 0) + log1p(e^-|x|), log1p(t) = t P(t), P minimax on [0, 1]."""
    t = tl.exp(-tl.abs(x))
    p = -0.0032440251670777798 * t + 0.01985146291553974
    p = p * t - 0.05695953592658043
    p = p * t + 0.10603655129671097
    p = p * t - 0.15305592119693756
    p = p * t + 0.1967593878507614
    p = p * t - 0.24954134225845337
    p = p * t + 0.3332996368408203
    p = p * t - 0.4999990165233612
    p = p * t + 1.0
    return tl.maximum(x, 0.0) + t * p


@triton.jit
def image_tile(grid_rows, grid_columns, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """A program's tile: row and column among tiles, positions [BLOCK_R, BLOCK_C], which are in the image."""
    tiles_c = tl.cdiv(grid_columns, BLOCK_C)
    tile_r = tl.program_id(0) // tiles_c
    tile_c = tl.program_id(0) % tiles_c
    row = tile_r * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    column = tile_c * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    return tile_r, tile_c, row * grid_columns + column, (row < grid_rows) & (column < grid_columns)


@triton.jit
def tile_segments(
    direction: tl.constexpr,
    tile_r,
    tile_c,
    grid_rows,
    grid_columns,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The segments of a tile in one direction, counted from its first one, how many it has in all, and which of the
    tile's are in the image."""
    if direction % 2 == 0:
        tiles_c = tl.cdiv(grid_columns, BLOCK_C)
        rows = tile_r * BLOCK_R + tl.arange(0, BLOCK_R)
        segment, count, inside = rows * tiles_c + tile_c, grid_rows * tiles_c, rows < grid_rows
    else:
        tiles_r = tl.cdiv(grid_rows, BLOCK_R)
        columns = tile_c * BLOCK_C + tl.arange(0, BLOCK_C)
        segment, count, inside = columns * tiles_r + tile_r, grid_columns * tiles_r, columns < grid_columns
    return segment, count, inside


@triton.jit
def tile_values(x_ptr, x_row_stride, position, valid, channel):
    """x at a tile's positions, float32 [BLOCK_R, BLOCK_C, BLOCK_K], 0 outside the image."""
    source = x_ptr + position[:, :, None] * x_row_stride + channel[None, None, :]
    return tl.load(source, mask=valid[:, :, None], other=0.0).to(tl.float32)


@triton.jit
def tile_transitions(
    direction,
    projected,  # pointers to the rows of ``projected``: dt, b, c of each direction; [BLOCK_R, BLOCK_C]
    x,  # float32 [BLOCK_R, BLOCK_C, BLOCK_K], 0 at positions outside the image
    valid,  # which positions are in the image, [BLOCK_R, BLOCK_C]
    weight_ptr,  # [4, rank, C]
    bias_ptr,  # [4, C]
    decay_ptr,  # [4, C]: A
    channel,  # [BLOCK_K]
    rank,  # not a constant, so that the loop stays a loop
    C: tl.constexpr,
):
    """(factor, addend) of every step of a tile in one direction; of positions outside, 1 and 0."""
    projected += direction * (rank + 2)
    weight = weight_ptr + direction * rank * C + channel
    step = tl.zeros_like(x) + tl.load(bias_ptr + direction * C + channel)[None, None, :]
    for r in range(0, rank):
        dt = tl.load(projected + r, mask=valid, other=0.0)
        step += dt[:, :, None] * tl.load(weight + r * C)[None, None, :]
    step = softplus(step)
    factor = tl.where(
        valid[:, :, None], tl.exp(tl.load(decay_ptr + direction * C + channel)[None, None, :] * step), 1.0
    )
    return factor, step * tl.load(projected + rank, mask=valid, other=0.0)[:, :, None] * x


@triton.jit(do_not_specialize=["grid_rows", "grid_columns", "rank"])
def scan_segments_kernel(
    x_ptr,  # [clips, positions, C]
    projected_ptr,  # [clips, positions, 4 * (rank + 2)] float32
    weight_ptr,  # [4, rank, C] float32
    bias_ptr,  # [4, C] float32
    decay_ptr,  # [4, C] float32: A
    factors_ptr,  # [clips, segments, C] float32
    states_ptr,  # [clips, segments, C] float32
    grid_rows,
    grid_columns,
    rank,
    x_clip_stride,
    x_row_stride,
    projected_clip_stride,
    projected_row_stride,
    factors_clip_stride,
    states_clip_stride,
    C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """Factor and addend of every segment of a tile, in four directions. Grid: tiles, of channels, clips."""
    await_grid(DEPENDENT)
    tile_r, tile_c, position, valid = image_tile(grid_rows, grid_columns, BLOCK_R, BLOCK_C)
    clip = tl.program_id(2).to(tl.int64)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    channel = tl.minimum(k, C - 1)
    x = tile_values(x_ptr + clip * x_clip_stride, x_row_stride, position, valid, channel)
    projected = projected_ptr + clip * projected_clip_stride + position * projected_row_stride
    for direction in tl.static_range(4):
        factor, addend = tile_transitions(
            direction, projected, x, valid, weight_ptr, bias_ptr, decay_ptr, channel, rank, C
        )
        factor, state = tl.associative_scan((factor, addend), 1 - direction % 2, then, reverse=direction >= 2)
        segment, _, inside = tile_segments(direction, tile_r, tile_c, grid_rows, grid_columns, BLOCK_R, BLOCK_C)
        segment += first_segment(direction, grid_rows, grid_columns, BLOCK_R, BLOCK_C)
        if direction % 2 == 0:
            end = tl.arange(0, BLOCK_C)[None, :, None] == (0 if direction >= 2 else BLOCK_C - 1)
        else:
            end = tl.arange(0, BLOCK_R)[:, None, None] == (0 if direction >= 2 else BLOCK_R - 1)
        target = segment[:, None].to(tl.int64) * C + k[None, :]
        mask = inside[:, None] & (k < C)[None, :]
        tl.store(
            factors_ptr + clip * factors_clip_stride + target,
            tl.sum(tl.where(end, factor, 0.0), 1 - direction % 2),
            mask=mask,
        )
        tl.store(
            states_ptr + clip * states_clip_stride + target,
            tl.sum(tl.where(end, state, 0.0), 1 - direction % 2),
            mask=mask,
        )


@triton.jit(do_not_specialize=["grid_rows", "grid_columns", "rank"])
def scan_outputs_kernel(
    x_ptr,  # [clips, positions, C]
    projected_ptr,  # [clips, positions, 4 * (rank + 2)] float32
    weight_ptr,  # [4, rank, C] float32
    bias_ptr,  # [4, C] float32
    decay_ptr,  # [4, C] float32: A
    skip_ptr,  # [C] float32: the sum of the directions' D
    states_ptr,  # [clips, segments, C] float32, behind each segment
    stream_ptr,  # [clips, positions, C]
    sumsq_ptr,  # [clips, positions, 2 * PARTS] float32
    scale,  # of the stream
    grid_rows,
    grid_columns,
    rank,
    x_clip_stride,
    x_row_stride,
    projected_clip_stride,
    projected_row_stride,
    states_clip_stride,
    stream_clip_stride,
    stream_row_stride,
    sumsq_clip_stride,
    sumsq_row_stride,
    C: tl.constexpr,
    STATISTICS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """stream = scale * the directions' outputs in all, and its rows' statistics. Grid: tiles, of channels, clips."""
    await_grid(DEPENDENT)
    tile_r, tile_c, position, valid = image_tile(grid_rows, grid_columns, BLOCK_R, BLOCK_C)
    clip = tl.program_id(2).to(tl.int64)
    channel = tl.minimum(tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K), C - 1)
    x = tile_values(x_ptr + clip * x_clip_stride, x_row_stride, position, valid, channel)
    projected = projected_ptr + clip * projected_clip_stride + position * projected_row_stride
    y = x * tl.load(skip_ptr + channel)[None, None, :]
    for direction in tl.static_range(4):
        factor, addend = tile_transitions(
            direction, projected, x, valid, weight_ptr, bias_ptr, decay_ptr, channel, rank, C
        )
        segment, count, inside = tile_segments(direction, tile_r, tile_c, grid_rows, grid_columns, BLOCK_R, BLOCK_C)
        before = segment + 1 if direction >= 2 else segment - 1
        inside = inside & (before >= 0) & (before < count)
        before += first_segment(direction, grid_rows, grid_columns, BLOCK_R, BLOCK_C)
        place = states_ptr + clip * states_clip_stride + before[:, None].to(tl.int64) * C + channel[None, :]
        carried = tl.expand_dims(tl.load(place, mask=inside[:, None], other=0.0), 1 - direction % 2)
        factor, state = tl.associative_scan((factor, addend), 1 - direction % 2, then, reverse=direction >= 2)
        c = tl.load(projected + (direction * (rank + 2) + rank + 1), mask=valid, other=0.0)
        y += c[:, :, None] * (state + factor * carried)
    P: tl.constexpr = BLOCK_R * BLOCK_C
    stream_rows = tl.reshape(stream_ptr + clip * stream_clip_stride + position * stream_row_stride, (P,))
    sumsq_rows = tl.reshape(sumsq_ptr + clip * sumsq_clip_stride + position * sumsq_row_stride, (P,))
    y = tl.reshape(y * scale, (P, BLOCK_K))
    tile_k = tl.program_id(1)
    store_stream(y, stream_rows, sumsq_rows, tl.reshape(valid, (P,)), tile_k, C, P, BLOCK_K, STATISTICS, False)


def scan_segments(
    x: Any,
    projected: Any,
    factors: Any,
    states: Any,
    weight: Any,
    bias: Any,
    decay: Any,
    *,
    rows: int,
    columns: int,
    block_rows: int,
    block_columns: int,
    tile: Tile,
) -> Launch:
    """x [B, T, C], projected [B, T, 4 * (R + 2)] -> factors and states [B, segments, C] of each segment by itself."""
    args = {
        **_arguments(x, projected, weight, bias, decay, rows, columns, block_rows, block_columns, tile),
        "factors_ptr": factors,
        "states_ptr": states,
        "factors_clip_stride": factors.stride(0),
        "states_clip_stride": states.stride(0),
    }
    grid = _tiles(x, rows, columns, block_rows, block_columns, tile)
    work = _work(x, projected, weight, factors, states)
    return Launch(scan_segments_kernel, grid, args, tile.warps // 2, tile.stages, ("factors_ptr", "states_ptr"), work)


def scan_outputs(
    x: Any,
    projected: Any,
    states: Any,
    stream: Any,
    sumsq: Any,
    weight: Any,
    bias: Any,
    decay: Any,
    skip: Any,
    scale: float,
    *,
    rows: int,
    columns: int,
    block_rows: int,
    block_columns: int,
    tile: Tile,
) -> Launch:
    """x, projected and the states behind all segments -> stream [B, T, C], the sum of the four directions' outputs
    times scale, and its statistics [B, T, 2 * C / 64]."""
    args = {
        **_arguments(x, projected, weight, bias, decay, rows, columns, block_rows, block_columns, tile),
        "skip_ptr": skip,
        "states_ptr": states,
        "stream_ptr": stream,
        "sumsq_ptr": sumsq,
        "scale": scale,
        "states_clip_stride": states.stride(0),
        **row_strides("stream", stream),
        **row_strides("sumsq", sumsq),
        "STATISTICS": STATISTICS_TILE,
    }
    grid = _tiles(x, rows, columns, block_rows, block_columns, tile)
    work = _work(x, projected, weight, states, stream)
    return Launch(scan_outputs_kernel, grid, args, tile.warps, tile.stages, ("stream_ptr", "sumsq_ptr"), work)


def _arguments(
    x: Any,
    projected: Any,
    weight: Any,
    bias: Any,
    decay: Any,
    rows: int,
    columns: int,
    block_rows: int,
    block_columns: int,
    tile: Tile,
) -> dict[str, Any]:
    """Arguments that both kernels of tiles have."""
    return {
        "x_ptr": x,
        "projected_ptr": projected,
        "weight_ptr": weight,
        "bias_ptr": bias,
        "decay_ptr": decay,
        "grid_rows": rows,
        "grid_columns": columns,
        "rank": weight.shape[1],
        **row_strides("x", x),
        **row_strides("projected", projected),
        "C": x.shape[2],
        "BLOCK_R": block_rows,
        "BLOCK_C": block_columns,
        "BLOCK_K": tile.k,
    }


def _tiles(x: Any, rows: int, columns: int, block_rows: int, block_columns: int, tile: Tile) -> tuple[int, int, int]:
    tiles = triton.cdiv(rows, block_rows) * triton.cdiv(columns, block_columns)
    return tiles, triton.cdiv(x.shape[2], tile.k), x.shape[0]


def _work(x: Any, projected: Any, weight: Any, *others: Any) -> Work:
    steps = DIRECTIONS * x.numel()
    return Work(
        flops=steps * (2 * weight.shape[1] + 24),
        bytes=sum(a.numel() * a.element_size() for a in (x, projected, weight, *others)),
        exponentials=2 * steps,
    )
