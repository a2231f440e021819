"""Persistent, warp-specialised products for Hopper (sm_90) in Gluon: one tile's epilogue runs under the next one's
products.

A program stays on its multiprocessor and walks over tiles of the output. One producer warp copies tiles of x and w
into a ring of stages in shared memory (TMA); two consumer warpgroups take turns: each multiplies a whole tile with
wgmma, and while it is in its epilogue the other has the tensor cores. Stage i of the ring is guarded by two mbarriers:
``full`` completes when both copies of the stage have landed, ``empty`` when its products are done. A wait tells a
phase from the next one only, so that a warpgroup must not wait for stages of its tile before the other's tile has been
multiplied: ``turns`` see to that.

The formulas are those of ``linear.py``; x, the stream and the results have rows at one stride, without clips.
"""

from __future__ import annotations

from typing import Any

import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from astfast.kernels import linear, statistics
from astfast.kernels.launch import Launch, Work
from astfast.kernels.tuning import Tile

CONSUMER_REGISTERS = gl.constexpr(232)  # a thread; with a warpgroup of the producer's, the whole register file
PRODUCER_REGISTERS = gl.constexpr(40)
FIRST, SECOND = gl.constexpr(0), gl.constexpr(1)  # consumer warpgroups

gelu = gluon.jit(linear.gelu.fn)
tile_position = gluon.jit(linear.tile_position.fn)


@gluon.jit
def produce(
    x_desc,
    w_desc,
    stream_desc,
    ring,  # see the kernel
    rows,
    N: gl.constexpr,
    K: gl.constexpr,
    RESIDUAL: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr,
    STAGES: gl.constexpr,
    GROUP_M: gl.constexpr,
):
    """The producer warp: copies the tiles of x and w that this program multiplies, in order."""
    x_ring, w_ring, full, empty, _, residual, residual_full, residual_empty = ring
    tiles = (rows + BLOCK_M - 1) // BLOCK_M * ((N + BLOCK_N - 1) // BLOCK_N)
    step = 0
    turn = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        tile_m, tile_n = tile_position(tile, rows, N, BLOCK_M, BLOCK_N, GROUP_M)
        for k in range(0, K, BLOCK_K):
            stage = step % STAGES
            mbarrier.wait(empty.index(stage), (step // STAGES & 1) ^ 1)
            ready = full.index(stage)
            mbarrier.expect(ready, x_desc.block_type.nbytes + w_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(x_desc, [tile_m * BLOCK_M, k], ready, x_ring.index(stage))
            tma.async_copy_global_to_shared(w_desc, [tile_n * BLOCK_N, k], ready, w_ring.index(stage))
            step += 1
        if RESIDUAL:  # last, so that it waits for no epilogue
            mbarrier.wait(residual_empty.index(turn % 2), (turn // 2 & 1) ^ 1)
            ready = residual_full.index(turn % 2)
            mbarrier.expect(ready, stream_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(
                stream_desc, [tile_m * BLOCK_M, tile_n * BLOCK_N], ready, residual.index(turn % 2)
            )
            turn += 1


@gluon.jit
def consume(
    ring,  # see the kernel
    results,
    N: gl.constexpr,
    K: gl.constexpr,
    RESIDUAL: gl.constexpr,
    GELU: gl.constexpr,
    STATISTICS: gl.constexpr,
    PADDED_PARTS: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr,
    STAGES: gl.constexpr,
    GROUP_M: gl.constexpr,
    WARPGROUP: gl.constexpr,
):
    """A consumer warpgroup: every second tile of this program's."""
    x_ring, w_ring, full, empty, turns, residual, residual_full, residual_empty = ring
    rows = results[5]
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    k_tiles: gl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    tiles = (rows + BLOCK_M - 1) // BLOCK_M * ((N + BLOCK_N - 1) // BLOCK_N)
    step = WARPGROUP * k_tiles
    turn = 0
    for tile in range(gl.program_id(0) + WARPGROUP * gl.num_programs(0), tiles, 2 * gl.num_programs(0)):
        acc = gl.zeros((BLOCK_M, BLOCK_N), gl.float32, layout)
        mbarrier.wait(turns.index(WARPGROUP), turn & 1 ^ (1 - WARPGROUP))
        for k in range(k_tiles):
            stage = step % STAGES
            mbarrier.wait(full.index(stage), step // STAGES & 1)
            acc = warpgroup_mma(
                x_ring.index(stage), w_ring.index(stage).permute((1, 0)), acc, use_acc=k > 0, is_async=True
            )
            acc = warpgroup_mma_wait(1, deps=[acc])
            mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1, pred=k > 0)
            step += 1
        mbarrier.arrive(turns.index(1 - WARPGROUP), count=1)
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1)
        step += k_tiles  # the other warpgroup's

        tile_m, tile_n = tile_position(tile, rows, N, BLOCK_M, BLOCK_N, GROUP_M)
        if RESIDUAL:
            mbarrier.wait(residual_full.index(WARPGROUP), turn & 1)
            before = residual.index(WARPGROUP).load(layout)
            mbarrier.arrive(residual_empty.index(WARPGROUP), count=1)
            store_stream(acc, before, results, tile_m, tile_n, layout, N, STATISTICS, BLOCK_M, BLOCK_N)
        else:
            store_normed(acc, results, tile_m, tile_n, layout, N, K, GELU, STATISTICS, PADDED_PARTS, BLOCK_M, BLOCK_N)
        turn += 1  # noqa: SIM113


@gluon.jit
def store_normed(
    acc,
    results,
    tile_m,
    tile_n,
    layout: gl.constexpr,
    N: gl.constexpr,
    K: gl.constexpr,
    GELU: gl.constexpr,
    STATISTICS: gl.constexpr,
    PADDED_PARTS: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
):
    """Epilogue of norm_linear: out = act(rstd acc + bias)."""
    sumsq_ptr, bias_ptr, out_ptr, eps, _, rows, sumsq_row_stride, out_row_stride = results
    TYPE: gl.constexpr = out_ptr.dtype.element_ty
    parts_layout: gl.constexpr = gl.BlockedLayout([1, 4], [8, 4], [4, 1], [1, 0])
    row = gl.minimum(tile_m * BLOCK_M + gl.arange(0, BLOCK_M, gl.SliceLayout(1, parts_layout)), rows - 1)
    part = gl.arange(0, PADDED_PARTS, gl.SliceLayout(0, parts_layout))
    sums = gl.load(
        sumsq_ptr + row.to(gl.int64)[:, None] * sumsq_row_stride + part[None, :],
        mask=(part < (K + STATISTICS - 1) // STATISTICS)[None, :],
        other=0.0,
    )
    rstd = 1.0 / gl.sqrt(gl.sum(sums, axis=1) / K + eps)
    column = gl.minimum(tile_n * BLOCK_N + gl.arange(0, BLOCK_N, gl.SliceLayout(0, layout)), N - 1)
    y = acc * gl.convert_layout(rstd, gl.SliceLayout(1, layout))[:, None] + gl.load(bias_ptr + column)[None, :]
    if GELU:
        y = gelu(y, TYPE)
    store_tile(y.to(TYPE), out_ptr, rows, out_row_stride, tile_m, tile_n, N, BLOCK_M, BLOCK_N)


@gluon.jit
def store_tile(
    y, out_ptr, rows, row_stride, tile_m, tile_n, N: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr
):
    """Stores a 16-bit tile, 16 bytes a thread."""
    by_rows: gl.constexpr = gl.BlockedLayout([1, 8], [256 // BLOCK_N, BLOCK_N // 8], [4, 1], [1, 0])
    m = tile_m * BLOCK_M + gl.arange(0, BLOCK_M, gl.SliceLayout(1, by_rows))
    n = tile_n * BLOCK_N + gl.arange(0, BLOCK_N, gl.SliceLayout(0, by_rows))
    gl.store(
        out_ptr + m.to(gl.int64)[:, None] * row_stride + n[None, :],
        gl.convert_layout(y, by_rows),
        mask=(m < rows)[:, None] & (n < N)[None, :],
    )


@gluon.jit
def store_stream(
    acc,
    residual,  # the stream's tile, in the layout of acc
    results,
    tile_m,
    tile_n,
    layout: gl.constexpr,
    N: gl.constexpr,
    STATISTICS: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
):
    """Epilogue of linear_residual: stream = residual + scale acc + bias, and the rounded rows' sums of squares."""
    sumsq_ptr, bias_ptr, stream_ptr, _, scale, rows, sumsq_row_stride, stream_row_stride = results
    n = tile_n * BLOCK_N + gl.arange(0, BLOCK_N, gl.SliceLayout(0, layout))
    y = residual.to(gl.float32) + (acc * scale + gl.load(bias_ptr + gl.minimum(n, N - 1))[None, :])
    stored = y.to(stream_ptr.dtype.element_ty)
    square = stored.to(gl.float32)
    square = gl.where((n < N)[None, :], square * square, 0.0)
    sums = gl.sum(gl.reshape(square, (BLOCK_M, BLOCK_N // STATISTICS, STATISTICS)), axis=2)
    parts_layout: gl.constexpr = gl.BlockedLayout([1, BLOCK_N // STATISTICS], [32, 1], [4, 1], [1, 0])
    row = tile_m * BLOCK_M + gl.arange(0, BLOCK_M, gl.SliceLayout(1, parts_layout))
    part = tile_n * (BLOCK_N // STATISTICS) + gl.arange(0, BLOCK_N // STATISTICS, gl.SliceLayout(0, parts_layout))
    gl.store(
        sumsq_ptr + row.to(gl.int64)[:, None] * sumsq_row_stride + part[None, :],
        gl.convert_layout(sums, parts_layout),
        mask=(row < rows)[:, None] & (part < (N + STATISTICS - 1) // STATISTICS)[None, :],
    )
    store_tile(stored, stream_ptr, rows, stream_row_stride, tile_m, tile_n, N, BLOCK_M, BLOCK_N)


@gluon.jit(do_not_specialize=["rows"])
def persistent_linear_kernel(
    x_desc,  # [rows, K] in tiles of [BLOCK_M, BLOCK_K]
    w_desc,  # [N, K] in tiles of [BLOCK_N, BLOCK_K]
    stream_desc,  # [rows, N] in tiles of [BLOCK_M, BLOCK_N]; None without RESIDUAL
    sumsq_ptr,  # [rows, PARTS] float32: of x, or of the new stream with RESIDUAL
    bias_ptr,  # [N] float32
    out_ptr,  # [rows, N]; with RESIDUAL the stream, read and written
    eps,
    scale,  # of the stream
    rows,
    sumsq_row_stride,
    out_row_stride,
    N: gl.constexpr,
    K: gl.constexpr,
    RESIDUAL: gl.constexpr,
    GELU: gl.constexpr,
    STATISTICS: gl.constexpr,
    PADDED_PARTS: gl.constexpr,  # K / STATISTICS, rounded up to a power of two
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr,
    STAGES: gl.constexpr,
    GROUP_M: gl.constexpr,
):
    """norm_linear, or with RESIDUAL linear_residual, of the tiles program_id, program_id + num_programs, .."""
    x_ring = gl.allocate_shared_memory(x_desc.dtype, [STAGES, BLOCK_M, BLOCK_K], x_desc.layout)
    w_ring = gl.allocate_shared_memory(w_desc.dtype, [STAGES, BLOCK_N, BLOCK_K], w_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=1)
    turns = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for warpgroup in gl.static_range(2):
        mbarrier.init(turns.index(warpgroup), count=1)
    residual_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    residual_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    residual = residual_full  # unused
    if RESIDUAL:
        residual = gl.allocate_shared_memory(stream_desc.dtype, [2, BLOCK_M, BLOCK_N], stream_desc.layout)
        for warpgroup in gl.static_range(2):
            mbarrier.init(residual_full.index(warpgroup), count=1)
            mbarrier.init(residual_empty.index(warpgroup), count=1)
    fence_async_shared()
    ring = (x_ring, w_ring, full, empty, turns, residual, residual_full, residual_empty)
    results = (sumsq_ptr, bias_ptr, out_ptr, eps, scale, rows, sumsq_row_stride, out_row_stride)
    # fmt: off
    gl.warp_specialize(
        [
            (consume, (ring, results, N, K, RESIDUAL, GELU, STATISTICS, PADDED_PARTS, BLOCK_M, BLOCK_N, BLOCK_K, STAGES,
                       GROUP_M, FIRST)),
            (consume, (ring, results, N, K, RESIDUAL, GELU, STATISTICS, PADDED_PARTS, BLOCK_M, BLOCK_N, BLOCK_K, STAGES,
                       GROUP_M, SECOND)),
            (produce, (x_desc, w_desc, stream_desc, ring, rows, N, K, RESIDUAL, BLOCK_M, BLOCK_N, BLOCK_K, STAGES,
                       GROUP_M)),
        ],
        [4, 1],
        [CONSUMER_REGISTERS, PRODUCER_REGISTERS],
    )
    # fmt: on


def norm_linear(
    x: Any,
    sumsq: Any,
    weight: Any,
    bias: Any,
    eps: float,
    out: Any,
    *,
    activation: str | None,
    gain: float = 1.0,
    tile: Tile,
    programs: int,
) -> Launch:
    """``linear.norm_linear`` of tensors without gaps between clips (``fits``), by so many programs at most."""
    assert gain == 1.0, "of float8 outputs"
    args = {
        "stream_desc": None,
        "sumsq_ptr": sumsq,
        "out_ptr": out,
        "eps": eps,
        "scale": 1.0,
        "GELU": activation == "gelu",
    }
    return _launch(x, weight, bias, out, sumsq, args, tile, programs, ("out_ptr",))


def linear_residual(
    x: Any,
    weight: Any,
    bias: Any,
    scale: float,
    stream: Any,
    sumsq: Any,
    *,
    tile: Tile,
    programs: int,
) -> Launch:
    """``linear.linear_residual`` of tensors without gaps between clips (``fits``), by so many programs at most."""
    args = {
        "stream_desc": descriptor(stream.flatten(0, 1), (tile.m, tile.n)),
        "sumsq_ptr": sumsq,
        "out_ptr": stream,
        "eps": 0.0,
        "scale": scale,
        "GELU": False,
    }
    return _launch(x, weight, bias, stream, sumsq, args, tile, programs, ("sumsq_ptr",))


def fits(*tensors: Any) -> bool:
    """Whether TMA can address the rows of all matrices among the tensors: of 16-bit elements, 16 bytes or multiples
    apart, without gaps between clips."""
    return all(
        x.element_size() == 2 and x.is_contiguous() and x.shape[-1] % 8 == 0 and x.data_ptr() % 16 == 0
        for x in tensors
        if x.dim() > 1
    )


def descriptor(matrix: Any, block: tuple[int, int]) -> TensorDescriptor:
    """TMA descriptor, made on the host, of a contiguous matrix [rows, columns] of 16-bit elements."""
    element = gl.bfloat16 if str(matrix.dtype) == "torch.bfloat16" else gl.float16
    return TensorDescriptor.from_tensor(matrix, list(block), gl.NVMMASharedLayout.get_default_for(list(block), element))


def _launch(
    x: Any,
    weight: Any,
    bias: Any,
    out: Any,
    sumsq: Any,
    args: dict[str, Any],
    tile: Tile,
    programs: int,
    outputs: tuple[str, ...],
) -> Launch:
    clips, rows_per_clip, k = x.shape
    rows, n = clips * rows_per_clip, weight.shape[0]
    residual = args["stream_desc"] is not None
    every = {
        "x_desc": descriptor(x.flatten(0, 1), (tile.m, tile.k)),
        "w_desc": descriptor(weight, (tile.n, tile.k)),
        "bias_ptr": bias,
        "rows": rows,
        "sumsq_row_stride": sumsq.stride(1),
        "out_row_stride": out.stride(1),
        "N": n,
        "K": k,
        "RESIDUAL": residual,
        "STATISTICS": statistics.STATISTICS_TILE,
        "PADDED_PARTS": triton.next_power_of_2(statistics.statistics_parts(k)),
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "BLOCK_K": tile.k,
        "STAGES": tile.stages,
        "GROUP_M": linear.GROUP,
        **args,
    }
    traffic = (x, weight, out, out) if residual else (x, weight, out)
    work = Work(flops=2 * rows * n * k, bytes=sum(a.numel() * a.element_size() for a in traffic))
    grid = (min(programs, triton.cdiv(rows, tile.m) * triton.cdiv(n, tile.n)), 1, 1)
    ordered = {name: every[name] for name in persistent_linear_kernel.arg_names}
    return Launch(persistent_linear_kernel, grid, ordered, tile.warps, tile.stages, outputs, work)
