"""Whole models against the peers: features in, logits out, engines taking turns in one run.

python benchmarks/run_model.py [--geometry ast-base] [--batch 1] [--precision bfloat16] [--peer "openvino int8"]

Every engine's logits are compared with PyTorch's in float32 before anything is timed; one that does not agree is
reported and not timed. The peak of the multiply-add instruction behind each precision takes its turn like an engine, so
that shares of it hold whatever the machine's clock does.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import astfast
from astfast.benchmarking.compare import (
    AGREEMENT,
    Contender,
    FloatArray,
    astfast_contender,
    relative_error,
    spread,
    take_turns,
    torch_contender,
    transformers_model,
)
from astfast.errors import BackendError
from benchmarks import models, peers
from benchmarks.peaks import INSTRUCTIONS, InstructionPeak, tier_of
from benchmarks.rows import Rows

CACHE = Path.home() / ".cache" / "astfast-benchmarks"
PRECISIONS = ("float32", "bfloat16", "int8")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    with Rows("model", options.out, threads=options.threads) as rows:
        for geometry in options.geometry or ("ast-base", "speech-commands"):
            for batch in options.batch or (1, 8):
                compare(geometry, batch, options, rows)


def compare(geometry: str, batch: int, options: argparse.Namespace, rows: Rows) -> None:
    """Writes a row for every engine and one for every instruction's peak."""
    config = models.GEOMETRIES[geometry].model_config()
    folder = models.checkpoint(geometry, options.cache, options.outliers)
    setup = peers.Setup(folder, config, batch, options.threads, options.cache)
    precisions = options.precision or PRECISIONS
    ours = _ours(folder, precisions, options.threads)
    names = [name for name in options.peer or peers.PEERS if name.split()[-1] in precisions or options.peer]
    contenders = [*ours, *peers.make(names, setup)]

    features = models.features(batch, config)
    exact = torch_contender("exact", transformers_model(folder), "float32", options.threads).run(features)
    shape = {
        "geometry": geometry,
        "weights": "outliers" if options.outliers else "plain",
        "batch": batch,
        "tokens": config.num_tokens,
        "shape": [*features.shape],
    }
    errors = {c.name: _errors(c, features, exact) for c in contenders}
    agreeing = []
    for contender in contenders:
        if errors[contender.name]["relative_error"] <= AGREEMENT[contender.precision]:
            agreeing.append(contender)
        else:
            _print(rows.write(**shape, **_who(contender), **errors[contender.name], agrees=False))
    if options.verify_only:
        for contender in agreeing:
            _print(rows.write(**shape, **_who(contender), **errors[contender.name], agrees=True))
        return

    peaks = _peaks(ours, options)
    runs = [lambda c=c: c.run(features) for c in agreeing]  # type: ignore[misc]
    times = take_turns([*runs, *peaks.values()], options.turns, options.seconds)
    seconds = dict(zip((c.name for c in agreeing), times, strict=False))
    for precision, peak in peaks.items():
        rate = spread(peak.rates)
        rows.write(**shape, engine="instruction", dtype=precision, isa=peak.instruction, operations_per_second=rate)
    operations = models.operations(config)
    for contender in agreeing:
        own = seconds[contender.name]
        row: dict[str, Any] = {
            **shape,
            **_who(contender),
            **errors[contender.name],
            "agrees": True,
            "turns": options.turns,
            "seconds": spread(own),
            "clips_per_second": spread([batch / t for t in own]),
            "operations_per_second": spread([batch * operations / t for t in own]),
        }
        if contender.engine == "astfast":
            row["speedup"] = {
                peer.name: spread([theirs / t for theirs, t in zip(seconds[peer.name], own, strict=True)])
                for peer in agreeing
                if peer.engine != "astfast"
            }
            if contender.precision in peaks:
                peak_rate = spread(peaks[contender.precision].rates).p50
                row["peak"] = peaks[contender.precision].instruction
                row["share_of_peak"] = row["operations_per_second"].p50 / peak_rate
        _print(rows.write(**row))


def _ours(folder: Path, precisions: Sequence[str], threads: int) -> list[Contender]:
    """astfast in every precision of these that this machine runs."""
    contenders = []
    for precision in precisions:
        try:
            tagger = astfast.load(folder, device="cpu", precision=precision, threads=threads)
        except BackendError as error:
            print(f"astfast {precision} left out: {error}")
            continue
        contenders.append(astfast_contender(tagger))
    return contenders


def _peaks(ours: Sequence[Contender], options: argparse.Namespace) -> dict[str, InstructionPeak]:
    """precision -> the instruction that astfast computes it with; none for the reference backend."""
    instructions = {c.precision: INSTRUCTIONS.get((tier_of(c.isa), c.precision)) for c in ours}
    return {
        precision: InstructionPeak(instruction, options.threads, options.cache)
        for precision, instruction in instructions.items()
        if instruction is not None
    }


def _who(contender: Contender) -> dict[str, str]:
    return {
        "engine": contender.engine,
        "dtype": contender.precision,
        "isa": contender.isa,
        "version": contender.version,
    }


def _errors(contender: Contender, features: FloatArray, exact: FloatArray) -> dict[str, float]:
    """Of the logits, against float32."""
    logits = contender.run(features)
    return {
        "relative_error": relative_error(logits, exact),
        "max_error": float(abs(logits - exact).max()),
        "largest_logit": float(abs(exact).max()),
    }


def _print(row: dict[str, Any]) -> None:
    name = f"{row['geometry']:<16} batch {row['batch']:<3} {row['engine']:<20} {row['dtype']:<9}"
    if "clips_per_second" not in row:
        print(
            f"{name} relative error {row['relative_error']:.1e}{'' if row['agrees'] else ': does not agree'}",
            flush=True,
        )
        return
    rate = row["clips_per_second"]
    line = f"{name} {rate[1]:8.3f} clips/s ({rate[0]:.3f} to {rate[2]:.3f}), relative error {row['relative_error']:.1e}"
    if "share_of_peak" in row:
        line += f", {row['share_of_peak']:.0%} of {row['peak']}"
    print(line, flush=True)
    for peer, ratio in row.get("speedup", {}).items():
        print(f"{'':<20} {ratio[1]:6.2f}x {peer} ({ratio[0]:.2f} to {ratio[2]:.2f})", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", action="append", choices=models.GEOMETRIES, help="default: both published ones")
    parser.add_argument("--batch", action="append", type=int, metavar="N", help="clips a call (default: 1 and 8)")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="default: all three")
    parser.add_argument("--peer", action="append", choices=peers.PEERS, help="default: all in those precisions")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of every engine (default: 2)")
    parser.add_argument("--turns", type=int, default=7, metavar="N", help="of every engine (default: 7)")
    parser.add_argument(
        "--seconds", type=float, default=0.5, metavar="S", help="at least, of every turn (default: 0.5)"
    )
    parser.add_argument("--outliers", action="store_true", help="weights with outlier channels")
    parser.add_argument("--verify-only", action="store_true", help="compare the logits and time nothing")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=f"exported models (default: {CACHE})")
    parser.add_argument("--out", type=Path, metavar="FILE", help="results (default: one file a machine in results/)")
    return parser


if __name__ == "__main__":
    main()
