"""The states between the segments of a selective scan: the recurrence over what each segment does, see scan.py.

A segment is the part of a row or column that lies in one tile of the image. Those of all directions are in one list:
rows, columns, rows reversed, columns reversed; a reversed direction goes through its segments from the last to the
first.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from astfast.kernels.launch import Launch, Work, await_grid
from astfast.kernels.tuning import Tile

DIRECTIONS = 4
STATES_AT_ONCE = 64  # segments that ``scan_states`` reads at a time
CHANNELS_OF_STATES = 16


@triton.jit
def then(factor, addend, next_factor, next_addend):
    """Two steps h -> factor h + addend, one after the other, as one."""
    return factor * next_factor, addend * next_factor + next_addend


@triton.jit
def first_segment(direction, grid_rows, grid_columns, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Index of a direction's first segment among those of all directions."""
    across = grid_rows * tl.cdiv(grid_columns, BLOCK_C)  # of the segments of rows
    down = grid_columns * tl.cdiv(grid_rows, BLOCK_R)
    return (direction + 1) // 2 * across + direction // 2 * down


@triton.jit(do_not_specialize=["grid_rows", "grid_columns"])
def scan_states_kernel(
    factors_ptr,  # [clips, segments, C] float32
    states_ptr,  # [clips, segments, C] float32, addends of segments, which become the states behind them
    grid_rows,
    grid_columns,
    factors_clip_stride,
    states_clip_stride,
    C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """The states behind all segments of a direction. Grid: channel tiles, directions, clips."""
    await_grid(DEPENDENT)
    direction = tl.program_id(1)
    clip = tl.program_id(2).to(tl.int64)
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    first = first_segment(direction, grid_rows, grid_columns, BLOCK_R, BLOCK_C)
    count = first_segment(direction + 1, grid_rows, grid_columns, BLOCK_R, BLOCK_C) - first
    i = tl.arange(0, BLOCK_S)
    carried = tl.zeros((BLOCK_K,), dtype=tl.float32)
    for start in range(0, count, BLOCK_S):
        order = start + i
        segment = first + tl.where(direction < 2, order, count - 1 - order)
        place = segment[:, None].to(tl.int64) * C + k[None, :]
        mask = (order < count)[:, None] & (k < C)[None, :]
        factor = tl.load(factors_ptr + clip * factors_clip_stride + place, mask=mask, other=1.0)
        target = states_ptr + clip * states_clip_stride + place
        factor, state = tl.associative_scan((factor, tl.load(target, mask=mask, other=0.0)), 0, then)
        state += factor * carried[None, :]
        tl.store(target, state, mask=mask)
        carried = tl.sum(tl.where((i == BLOCK_S - 1)[:, None], state, 0.0), axis=0)


def blocks(rows: int, columns: int, tile: Tile) -> tuple[int, int]:
    """(rows, columns) of a tile of an image: those of the table, fewer for a small image, 16 positions at least."""
    return (
        max(4, min(tile.m, triton.next_power_of_2(rows))),
        max(4, min(tile.n, triton.next_power_of_2(columns))),
    )


def segments(rows: int, columns: int, block_rows: int, block_columns: int) -> int:
    """Number of segments of all directions."""
    return 2 * (rows * triton.cdiv(columns, block_columns) + columns * triton.cdiv(rows, block_rows))


def scan_states(factors: Any, states: Any, *, rows: int, columns: int, block_rows: int, block_columns: int) -> Launch:
    """states [B, segments, C] of each segment by itself -> of all segments up to it, in place."""
    clips, _, c = states.shape
    args = {
        "factors_ptr": factors,
        "states_ptr": states,
        "grid_rows": rows,
        "grid_columns": columns,
        "factors_clip_stride": factors.stride(0),
        "states_clip_stride": states.stride(0),
        "C": c,
        "BLOCK_R": block_rows,
        "BLOCK_C": block_columns,
        "BLOCK_S": STATES_AT_ONCE,
        "BLOCK_K": CHANNELS_OF_STATES,
    }
    work = Work(flops=3 * states.numel(), bytes=3 * states.numel() * 4)
    grid = (triton.cdiv(c, CHANNELS_OF_STATES), DIRECTIONS, clips)
    return Launch(scan_states_kernel, grid, args, 4, 1, (), work)
