"""Cases of every GPU kernel with every tile that its table has for a GPU, at the widths of AST-base and odd lengths."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from astfast.backends.cuda.packing import DTYPES
from astfast.backends.cuda.target import persistent_kernels
from astfast.front_end import KaldiFbank
from astfast.kernels import tuning
from benchmarks.gpu_bench import DRY_TILES, Bench
from tests.cases import float8_cases, gpu_cases, gpu_family_cases, image_cases

PERSISTENT = "persistent"  # in the names of checks of such kernels
PROGRAMS = 8  # which walk over nine tiles or more each

Make = Callable[[], gpu_cases.Case]


def check(bench: Bench, precision: str, name: str) -> dict[str, Any]:
    """Runs a case: the kernel's error against float64 is at most twice that of PyTorch's own op in the same type."""
    case = cases(bench.target.arch, precision, bench.device)[name]()
    bench.launcher(case.launch)
    case.check()
    return {"ok": True}


def check_family(bench: Bench, precision: str, name: str) -> dict[str, Any]:
    """Runs an op of DASS, in the sizes of its first stages, or a front end of another family on their kernels."""
    ops, dtype = bench.kernels(precision), DTYPES[precision]
    if name in gpu_family_cases.FRONT_ENDS:
        front_end = gpu_family_cases.FRONT_ENDS[name]
        gpu_family_cases.check_front_end(gpu_family_cases.short(front_end, 20) if bench.dry_run else front_end, ops)
    else:
        geometry = image_cases.QUICK["row"] if bench.dry_run else image_cases.ImageGeometry(2, 34, 9, 96, 192)
        made = {f"DASS {case.name}": case for case in image_cases.cases(geometry, precision)}
        gpu_family_cases.check_image_op(made[name], geometry, ops, dtype)
    return {"ok": True}


def families() -> list[str]:
    """Names for ``check_family``."""
    images = image_cases.cases(image_cases.QUICK["one_pixel"], "float32")
    return [*gpu_family_cases.FRONT_ENDS, *(f"DASS {case.name}" for case in images)]


def cases(arch: tuning.Arch, precision: str, device: str = "cuda") -> dict[str, Make]:
    """Cases by name, on a GPU; on "meta" to compile their kernels only; or small ones for the interpreter, on "cpu"."""
    return float8(arch, device) if precision == "float8" else of_type(arch, precision, device)


def of_type(arch: tuning.Arch, precision: str, device: str) -> dict[str, Make]:
    clips, tokens, d, m, heads = (2, 161, 768, 3072, 12)
    if precision == "float32":  # narrower: PyTorch's result is made one product after the other
        tokens, d, m, heads = 37, 256, 320, 4
    if device == "cpu":
        clips, tokens, d, m, heads = 1, 9, 64, 128, 2
    dtype = DTYPES[precision]
    tiles = DRY_TILES if device == "cpu" else tuning.tiles_for(arch, dtype.itemsize)
    where: Any = {"device": device, "precision": "tf32x3" if precision == "float32" else "ieee"}
    front_end = KaldiFbank(max_length=8)

    def norm_linear(tile: tuning.Tile) -> gpu_cases.Case:
        return gpu_cases.norm_linear(dtype, (clips, tokens, d), m, tile, "gelu", **where)

    def linear_residual(tile: tuning.Tile) -> gpu_cases.Case:
        return gpu_cases.linear_residual(dtype, (clips, tokens, m), d, tile, **where)

    def persistent(case: Callable[..., gpu_cases.Case], inner: int, n: int, *rest: Any) -> gpu_cases.Case:
        return case(dtype, (clips, tokens, inner), n, *rest, programs=PROGRAMS, **where)

    def attention(queries: int, tile: tuning.Tile) -> gpu_cases.Case:
        return gpu_cases.attention_(dtype, clips, queries, tokens, heads, d // heads, tile, **where)

    def log_mel(integers: bool) -> gpu_cases.Case:
        return gpu_cases.log_mel_(front_end, [1500, 399], tiles.log_mel, integers=integers, device=device)

    def tf32_log_mel(tones: bool) -> gpu_cases.Case:
        tile, products = tiles.tf32_log_mel, "tf32x3"
        return gpu_cases.log_mel_(front_end, [1500, 399], tile, tones=tones, device=device, precision=products)

    wide, residual = tiles.persistent_norm_linear, tiles.persistent_residual
    hopper = {
        f"{PERSISTENT} norm_linear": partial(persistent, gpu_cases.norm_linear, d, m, wide, "gelu"),
        f"{PERSISTENT} linear_residual": partial(persistent, gpu_cases.linear_residual, m, d, residual),
    }
    patches = partial(gpu_cases.patch_embed_, dtype, clips, 96, 64, 16, (10, 10), d, tiles.patch_embed)
    return {
        **{f"norm_linear {tile}": partial(norm_linear, tile) for tile in tiles.norm_linear},
        **{f"linear_residual {tile}": partial(linear_residual, tile) for tile in tiles.residual},
        "attention": partial(attention, tokens, tiles.attention),
        "attention of two queries": partial(attention, 2, tiles.few_queries),
        "patch_embed": partial(patches, **where),
        "pool": partial(gpu_cases.pool, dtype, clips, d, device=device),
        "head": partial(gpu_cases.head_, clips, d, 35, tiles.head, device=device),
        "log_mel": partial(log_mel, False),
        "log_mel of int16": partial(log_mel, True),
        "tf32x3 log_mel": partial(tf32_log_mel, False),
        "tf32x3 log_mel of tones": partial(tf32_log_mel, True),
        **(hopper if wide and persistent_kernels(arch) else {}),
    }


def float8(arch: tuning.Arch, device: str) -> dict[str, Make]:
    """Cases of the kernels that differ in float8: quantisation, the matrix products, and the output of attention."""
    d, m, tiles = 768, 3072, tuning.tiles_for(arch, 1)
    stream, narrow = torch.bfloat16, torch.float8_e4m3fn

    def norm_linear(tile: tuning.Tile) -> gpu_cases.Case:
        return float8_cases.linear_(stream, (2, 161, d), m, tile, "gelu", narrow, device=device)

    def linear_residual(tile: tuning.Tile) -> gpu_cases.Case:
        return float8_cases.linear_residual(stream, (2, 161, m), d, tile, device=device)

    return {
        "quantise_rows": lambda: float8_cases.quantise_rows(stream, (2, 161, d), tiles.quantise_rows, device=device),
        **{f"norm_linear {tile}": partial(norm_linear, tile) for tile in tiles.norm_linear},
        **{f"linear_residual {tile}": partial(linear_residual, tile) for tile in tiles.residual},
        "attention": lambda: float8_cases.attention_(stream, 2, 161, 161, 12, 64, tiles.attention, device=device),
    }
