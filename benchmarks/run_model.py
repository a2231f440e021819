"""Whole models against other engines: features in, logits out, engines interleaved in one run.

python -m benchmarks.run_model [--geometry ast-base] [--batch 1] [--precision bfloat16] [--peer "openvino int8"]

The logits of every engine are compared with those of PyTorch in float32 before anything is timed; an engine that does
not agree is reported and not timed. The peak rate of the multiply-add instruction behind each precision is measured in
the same turns, so that shares of it hold whatever the clock of the machine does.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from astfast.benchmarking.compare import Checked, astfast_engines, check, precisions_of, time_engines
from astfast.benchmarking.peers import EngineUnderTest, torch_engine, transformers_model
from astfast.benchmarking.timing import speedup, spread
from benchmarks import arguments, models, peers
from benchmarks.peaks import INSTRUCTIONS, InstructionPeak, tier_of
from benchmarks.rows import Rows

PRECISIONS = precisions_of("cpu")


def main(argv: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    with Rows("model", options.out, threads=options.threads) as rows:
        for geometry in options.geometry or ("ast-base", "speech-commands"):
            for batch in options.batch or (1, 8):
                compare_engines(geometry, batch, options, rows)


def compare_engines(geometry: str, batch: int, options: argparse.Namespace, rows: Rows) -> None:
    """Writes a row for each engine, and one for each instruction peak."""
    config = models.GEOMETRIES[geometry].model_config()
    folder = models.checkpoint(geometry, options.cache, options.outliers)
    setup = peers.Setup(folder, config, batch, options.threads, options.cache)
    precisions = options.precision or PRECISIONS
    ours = list(astfast_engines(folder, precisions, options.threads, print))
    names = [name for name in options.peer or peers.PEERS if name.split()[-1] in precisions or options.peer]
    features = models.features(batch, config)
    exact = torch_engine("exact", transformers_model(folder), "float32", options.threads).run(features)
    checked = check([*ours, *peers.make(names, setup)], features, exact)
    shape = {
        "geometry": geometry,
        "weights": "outliers" if options.outliers else "plain",
        "batch": batch,
        "tokens": config.num_tokens,
        "shape": [*features.shape],
    }
    for entry in checked:
        if options.verify_only or not entry.agrees:
            _print(rows.write(**shape, **_engine_fields(entry)))
    if options.verify_only:
        return

    peaks = _peaks(ours, options)
    times = time_engines(checked, features, options.turns, options.seconds, alongside=list(peaks.values()))
    for precision, peak in peaks.items():
        rate = spread(peak.rates)
        rows.write(**shape, engine="instruction", dtype=precision, isa=peak.instruction, operations_per_second=rate)
    operations = models.operations(config)
    for entry in checked:
        if entry.agrees:
            own = times[entry.engine.name]
            row: dict[str, Any] = {
                **shape,
                **_engine_fields(entry),
                "turns": options.turns,
                "seconds": spread(own),
                "clips_per_second": spread([batch / t for t in own]),
                "operations_per_second": spread([batch * operations / t for t in own]),
            }
            if entry.engine.engine == "astfast":
                row |= _astfast_fields(entry.engine, row, times, peaks)
            _print(rows.write(**row))


def _engine_fields(entry: Checked) -> dict[str, Any]:
    return {
        "engine": entry.engine.engine,
        "dtype": entry.engine.precision,
        "isa": entry.engine.isa,
        "version": entry.engine.version,
        "relative_error": entry.error.relative,
        "max_error": entry.error.largest,
        "largest_logit": entry.error.largest_logit,
        "agrees": entry.agrees,
    }


def _astfast_fields(
    engine: EngineUnderTest,
    row: dict[str, Any],
    times: dict[str, list[float]],
    peaks: dict[str, InstructionPeak],
) -> dict[str, Any]:
    """Speed-up over each other engine, and the share of the instruction peak."""
    own, others = times[engine.name], {name: t for name, t in times.items() if not name.startswith("astfast ")}
    fields: dict[str, Any] = {"speedup": {name: speedup(theirs, own) for name, theirs in others.items()}}
    if engine.precision in peaks:
        peak = peaks[engine.precision]
        fields |= {
            "peak": peak.instruction,
            "share_of_peak": row["operations_per_second"].p50 / spread(peak.rates).p50,
        }
    return fields


def _peaks(ours: Sequence[EngineUnderTest], options: argparse.Namespace) -> dict[str, InstructionPeak]:
    """Precision -> the instruction that astfast computes it with; none for the reference backend."""
    instructions = {engine.precision: INSTRUCTIONS.get((tier_of(engine.isa), engine.precision)) for engine in ours}
    return {
        precision: InstructionPeak(instruction, options.threads, options.cache)
        for precision, instruction in instructions.items()
        if instruction is not None
    }


def _print(row: dict[str, Any]) -> None:
    name = f"{row['geometry']:<16} batch {row['batch']:<3} {row['engine']:<20} {row['dtype']:<9}"
    if "clips_per_second" not in row:
        note = "" if row["agrees"] else ": does not agree, not timed"
        print(f"{name} relative error {row['relative_error']:.1e}{note}", flush=True)
        return
    rate = row["clips_per_second"]
    line = f"{name} {rate[1]:8.3f} clips/s ({rate[0]:.3f} to {rate[2]:.3f}), relative error {row['relative_error']:.1e}"
    if "share_of_peak" in row:
        line += f", {row['share_of_peak']:.0%} of the {row['peak']} peak"
    print(line, flush=True)
    for peer, ratio in row.get("speedup", {}).items():
        print(f"{'':<20} {ratio[1]:6.2f}x {peer} ({ratio[0]:.2f} to {ratio[2]:.2f})", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = arguments.parser(__doc__, turns=7, seconds=0.5)
    parser.add_argument("--geometry", action="append", choices=models.GEOMETRIES, help="default: both published ones")
    parser.add_argument("--batch", action="append", type=int, metavar="N", help="clips per call (default: 1 and 8)")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="default: all of the CPU backend")
    parser.add_argument("--peer", action="append", choices=peers.PEERS, help="default: all in those precisions")
    parser.add_argument("--outliers", action="store_true", help="weights with outlier channels")
    parser.add_argument("--verify-only", action="store_true", help="compare the logits and time nothing")
    return parser


if __name__ == "__main__":
    main()
