"""Every op of the CPU engine at real shapes: its result judged, then its rate, and its share of the instruction's peak.

python benchmarks/run_ops.py [--geometry ast-base] [--precision bfloat16] [--op attention]

The op, torch's own op in the same dtype and the peak take turns. ASTFAST_CPU_TIER forces a tier.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from astfast.backends.cpu.ops import CpuOps
from astfast.benchmarking.compare import spread, take_turns
from benchmarks import op_calls
from benchmarks.op_calls import op_cases
from benchmarks.peaks import INSTRUCTIONS, InstructionPeak, tier_of
from benchmarks.rows import Rows
from benchmarks.run_model import CACHE


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    with Rows("ops", options.out, threads=options.threads) as rows:
        for geometry in options.geometry or ("ast-base", "speech-commands"):
            for precision in options.precision or ("float32", "bfloat16"):
                for case in op_cases.cases(op_calls.GEOMETRIES[geometry], precision):
                    if not options.op or case.name in options.op:
                        one_op(case, geometry, precision, options, rows)


def one_op(case: op_cases.OpCase, geometry: str, precision: str, options: argparse.Namespace, rows: Rows) -> None:
    """A row."""
    sizes = op_calls.GEOMETRIES[geometry]
    engine = CpuOps(sizes.heads, precision, options.threads)
    call = op_calls.native_call(case, engine)
    error, torch_error = op_calls.errors(case, sizes, precision, call)
    peak = InstructionPeak(INSTRUCTIONS[tier_of(engine.hardware), precision], options.threads, options.cache)
    runs = [call, op_calls.torch_call(case, sizes, precision), peak]
    own, by_torch, _ = take_turns(runs, options.turns, options.seconds)
    row: dict[str, Any] = {
        "geometry": geometry,
        "op": case.name,
        "engine": "astfast",
        "dtype": precision,
        "isa": engine.hardware,
        "shape": [sizes.clips, sizes.tokens, sizes.hidden, sizes.mlp],
        "max_error": error,
        "torch_max_error": torch_error,
        "seconds": spread(own),
        "torch_seconds": spread(by_torch),
        "over_torch": spread([theirs / t for theirs, t in zip(by_torch, own, strict=True)]),
        "operations": case.flops,
    }
    share = ""
    if case.flops:
        rate = spread([case.flops / t for t in own])
        peak_rate = spread(peak.rates)
        row |= {
            "operations_per_second": rate,
            "peak": peak.instruction,
            "peak_operations_per_second": peak_rate,
            "share_of_peak": rate.p50 / peak_rate.p50,
        }
        share = f"{rate.p50 / 1e9:8.1f} GFLOP/s, {row['share_of_peak']:4.0%} of {peak.instruction}"
    rows.write(**row)
    print(
        f"{geometry:<16} {precision:<9} {case.name:<15} {1e3 * row['seconds'].p50:9.3f} ms, "
        f"{row['over_torch'].p50:6.2f}x torch, error {error:.1e} (torch's {torch_error:.1e}) {share}",
        flush=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", action="append", choices=op_calls.GEOMETRIES, help="default: both published ones")
    parser.add_argument("--precision", action="append", choices=("float32", "bfloat16"), help="default: both")
    parser.add_argument("--op", action="append", metavar="NAME", help="of tests/op_cases.py (default: all)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="(default: 2)")
    parser.add_argument("--turns", type=int, default=7, metavar="N", help="of every op (default: 7)")
    parser.add_argument(
        "--seconds", type=float, default=0.1, metavar="S", help="at least, of every turn (default: 0.1)"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=f"(default: {CACHE})")
    parser.add_argument("--out", type=Path, metavar="FILE", help="results (default: one file a machine in results/)")
    return parser


if __name__ == "__main__":
    main()
