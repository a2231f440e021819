"""Every op of the CPU backend at real shapes: accuracy, then speed, and its share of the instruction peak.

python -m benchmarks.run_ops [--geometry ast-base] [--precision bfloat16] [--op attention]

The op, PyTorch's own op in the same dtype (for int8 in bfloat16) and the peak are interleaved. ASTFAST_CPU_TIER forces
a tier.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from astfast.backends.cpu.ops import CpuOps
from astfast.benchmarking.timing import speedup, spread, time_interleaved
from benchmarks import arguments, op_calls
from benchmarks.op_calls import OpCase
from benchmarks.peaks import INSTRUCTIONS, InstructionPeak, tier_of
from benchmarks.rows import Rows


def main(argv: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    with Rows("ops", options.out, threads=options.threads) as rows:
        for geometry in options.geometry or ("ast-base", "speech-commands"):
            for precision in options.precision or op_calls.PRECISIONS:
                for case in op_calls.cases(op_calls.GEOMETRIES[geometry], precision):
                    if not options.op or case.name in options.op:
                        one_op(case, geometry, precision, options, rows)


def one_op(case: OpCase, geometry: str, precision: str, options: argparse.Namespace, rows: Rows) -> None:
    """Writes a row for one op."""
    sizes = op_calls.GEOMETRIES[geometry]
    engine = CpuOps(sizes.heads, precision, options.threads)
    call = op_calls.native_call(case, engine)
    error, torch_error = op_calls.errors(case, sizes, engine, call)
    peak = InstructionPeak(INSTRUCTIONS[tier_of(engine.hardware), precision], options.threads, options.cache)
    runs = [call, op_calls.torch_call(case, sizes, precision), peak]
    own, by_torch, _ = time_interleaved(runs, options.turns, options.seconds)
    row: dict[str, Any] = {
        "geometry": geometry,
        "op": case.name,
        "engine": "astfast",
        "dtype": precision,
        "isa": engine.hardware,
        "shape": [sizes.clips, sizes.tokens, sizes.hidden, sizes.mlp],
        "max_error": error,
        "torch_max_error": torch_error,
        "torch_dtype": op_calls.TORCH_DTYPE[precision],
        "seconds": spread(own),
        "torch_seconds": spread(by_torch),
        "over_torch": speedup(by_torch, own),
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
    parser = arguments.parser(__doc__, turns=7, seconds=0.1)
    parser.add_argument("--geometry", action="append", choices=op_calls.GEOMETRIES, help="default: both published ones")
    parser.add_argument("--precision", action="append", choices=op_calls.PRECISIONS, help="default: all")
    parser.add_argument("--op", action="append", metavar="NAME", help="of op_calls.cases (default: all)")
    return parser


if __name__ == "__main__":
    main()
