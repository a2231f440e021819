"""Sweep of tile sizes, ``run_gpu --plan tune``: each candidate for kernels/tuning.py is timed on AST-base's layers.

A row is a product or attention at a batch size; it has the time of every candidate whose result is that of the tile in
use. The table at the end is the source of a ``Tiles``, with the speed beside each tile.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from astfast.backends.cuda.packing import DTYPES
from astfast.backends.cuda.target import Target, has_float8
from astfast.kernels import attention, linear, statistics, tuning
from astfast.kernels.launch import Launch
from astfast.kernels.tuning import Tile
from benchmarks import models
from benchmarks.gpu_bench import Bench
from benchmarks.gpu_rows import Found, Row

BATCHES = (32, 8, 1)
PROBLEMS = ("qkv", "fc1", "proj", "fc2", "attention")
SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
ACCUMULATORS = (32, 128)  # registers of a thread that hold the output tile, at least and at most
EARLY_ACCUMULATORS = 64  # at most, beside which the stream's tile has room
HEAD_DIM = 64  # of all published models
SPREAD = 2.0**-6  # of the largest result, that two orders of summation in 16 bits may differ by
Problem = Callable[[Tile], Launch]


def rows(arch: tuning.Arch, dry_run: bool = False) -> list[Row]:
    """A row for each problem, batch size and precision, those that take most of a batch's time first."""
    precisions = ["float32"] if dry_run else ["bfloat16", *(["float8"] if has_float8(arch) else [])]
    made = []
    for precision, batch in itertools.product(precisions, (2,) if dry_run else BATCHES):
        for name in PROBLEMS if precision != "float8" else PROBLEMS[:-1]:
            work = partial(sweep, name=name, precision=precision, batch=batch)
            made.append(Row(f"{precision} batch {batch}", name, 60, work))
    return made


def sweep(bench: Bench, name: str, precision: str, batch: int) -> Found:
    """The time of each candidate, the fastest first."""
    geometry = "tiny" if bench.dry_run else "ast-base"
    make = problem(geometry, name, precision, batch, bench.device)
    found: list[dict[str, Any]] = []
    expected: torch.Tensor | None = None
    for tile in tiles(bench, name, precision):
        row = {"problem": name, "precision": precision, "batch": batch, "tile": [tile.m, tile.n, tile.k]}
        row |= {"warps": tile.warps, "stages": tile.stages, "early": tile.early}
        row |= {"name": f"{name} {precision} batch {batch} {tile}"}
        try:
            launch = make(tile)
            if "stream_ptr" in launch.args:
                launch.args["stream_ptr"].zero_()
            bench.launcher(launch)
            result = launch.args[OUTPUTS[name]].float()
            expected = result.clone() if expected is None else expected
            error = float((result - expected).abs().max() / expected.abs().max())
            assert error <= SPREAD, f"off by {error:.2g} from the tile in use"
            (seconds,) = bench.runtime.compare(partial(bench.launcher, launch))
            found.append({**row, "microseconds": 1e6 * seconds, "tflops": launch.work.flops / seconds / 1e12})
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            found.append({**row, "refused": str(error).strip()[-300:]})
    return sorted(found, key=lambda row: row.get("microseconds", float("inf")))


OUTPUTS = {"qkv": "out_ptr", "fc1": "out_ptr", "proj": "stream_ptr", "fc2": "stream_ptr", "attention": "out_ptr"}


def problem(geometry: str, name: str, precision: str, batch: int, device: str) -> Problem:
    """The launch of a layer's op by its tile, on tensors of one memory; "meta" is a device too."""
    config = models.GEOMETRIES[geometry].model_config()
    d, m, tokens, heads = config.hidden_size, config.intermediate_size, config.num_tokens, config.num_attention_heads
    dtype = DTYPES[precision]
    operand = torch.float8_e4m3fn if precision == "float8" else dtype
    products = "tf32x3" if precision == "float32" and device != "cpu" else "ieee"

    def random(*shape: int, type_: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(shape, device=device).to(type_)

    if name == "attention":
        qkv = random(batch, tokens, 3 * d)
        out = random(batch, tokens, d)
        how: dict[str, Any] = {"heads": heads, "precision": products}
        return lambda tile: attention.attention(qkv[..., :d], qkv[..., d:], out, tile=tile, **how)
    n, k = {"qkv": (3 * d, d), "fc1": (m, d), "proj": (d, d), "fc2": (d, m)}[name]
    weight, bias = random(n, k, type_=operand), random(n, type_=torch.float32)
    scale = {"weight_scale": torch.rand(n, device=device)} if precision == "float8" else {}
    parts = statistics.statistics_parts(d)
    sumsq = torch.full((batch, tokens, parts), d / parts, dtype=torch.float32, device=device)
    if name in ("qkv", "fc1"):
        x = random(batch, tokens, k, type_=operand)
        out = random(batch, tokens, n, type_=operand if name == "fc1" else dtype)
        how = {"activation": "gelu" if name == "fc1" else None, "precision": products, **scale}
        if precision == "float8":  # the stream was quantised before
            return lambda tile: linear.linear(x, weight, bias, out, tile=tile, **how)
        return lambda tile: linear.norm_linear(x, sumsq, weight, bias, 1e-6, out, tile=tile, **how)
    x, stream = random(batch, tokens, k, type_=operand), random(batch, tokens, n)
    how = {"precision": products, **scale}
    return lambda tile: linear.linear_residual(x, weight, bias, 1.0, stream, sumsq, tile=tile, **how)


def tiles(bench: Bench, name: str, precision: str) -> list[Tile]:
    """The tile in use, then the other candidates."""
    if bench.dry_run:
        return [Tile(64, 64, 32, 4, 2), Tile(64, 128, 32, 4, 2)]
    return candidates(bench.target.arch, name, precision)


def candidates(arch: tuning.Arch, name: str, precision: str) -> list[Tile]:
    """Tiles that fit a GPU: those of its table, then all sizes whose accumulators and pipeline have room."""
    size = 1 if precision == "float8" else 2
    table = tuning.tiles_for(arch, size)
    room = SHARED_BYTES.get(arch, 99 << 10) if isinstance(arch, int) else 64 << 10
    warps, stages = (4, 8), (2, 3, 4)
    if name == "attention":
        sizes = itertools.product((64, 128, 256), (32, 64, 128), (0,), warps, stages)
        known: tuple[Tile, ...] = (table.attention,)
    else:
        wide = isinstance(arch, int) and arch >= 90  # whose matrix instructions take operands from shared memory
        depths = (128 // size,) if wide else (64 // size, 128 // size)
        sizes = itertools.product((64, 128, 256), (64, 128, 256), depths, warps, stages)
        known = table.norm_linear if name in ("qkv", "fc1") else table.residual
    fitting = [tile for tile in itertools.starmap(Tile, sizes) if _fits(tile, room, size)]
    if name in ("proj", "fc2"):
        fitting += [replace(tile, early=True) for tile in fitting if _registers(tile) <= EARLY_ACCUMULATORS]
    return list(dict.fromkeys((*known, *fitting)))


def _fits(tile: Tile, room: int, size: int) -> bool:
    """Whether the pipeline has room in shared memory, and the accumulators in registers."""
    stage = (tile.m + tile.n) * tile.k * size
    if tile.k == 0:  # attention: keys and values of 16 bits, HEAD_DIM wide
        stage = 2 * tile.n * HEAD_DIM * 2
    return tile.stages * stage <= room and ACCUMULATORS[0] <= _registers(tile) <= ACCUMULATORS[1]


def _registers(tile: Tile) -> int:
    """Those of a thread that hold the output tile."""
    return tile.m * (tile.n if tile.k else HEAD_DIM) // (32 * tile.warps)


def launches(target: Target) -> list[Callable[[], Launch]]:
    """Launches of all candidates at the first batch size, on tensors without memory: what is compiled beforehand."""
    found: list[Callable[[], Launch]] = []
    for row in rows(target.arch):
        arguments = row.measure.keywords  # type: ignore[attr-defined]
        if arguments["batch"] == BATCHES[0]:
            make = problem("ast-base", arguments["name"], arguments["precision"], arguments["batch"], "meta")
            found += [
                partial(make, tile) for tile in candidates(target.arch, arguments["name"], arguments["precision"])
            ]
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Python source: the fastest tiles of each op by precision, largest batch first, with their speed."""
    return "\n".join(_lines([row for row in found if "tflops" in row]))


def _lines(timed: list[dict[str, Any]]) -> Iterator[str]:
    for precision in dict.fromkeys(row["precision"] for row in timed):
        yield f"# {precision}, timed on {timed[0]['gpu']}"
        for name in PROBLEMS:
            of_name = [row for row in timed if (row["problem"], row["precision"]) == (name, precision)]
            for batch in dict.fromkeys(row["batch"] for row in of_name):
                best = min((row for row in of_name if row["batch"] == batch), key=lambda row: row["microseconds"])
                m, n, k = best["tile"]
                speed = f"{best['tflops']:.0f} TFLOP/s, {best['microseconds']:.1f} us"
                tile = f"{m}, {n}, {k}, {best['warps']}, {best['stages']}{', early=True' * best['early']}"
                yield f"Tile({tile}),  # {name}, batch {batch}: {speed}"
