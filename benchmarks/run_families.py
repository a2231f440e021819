"""Models of all families beside AST-base and beside PyTorch, interleaved in one run: features in, logits out.

python -m benchmarks.run_families [--model ced-mini] [--batch 1] [--precision int8]

Rows have the clips per second of each engine; those of astfast also the ratio to AST-base in the same precision and the
speed-up over PyTorch, turn by turn. Front ends are timed in the same way, on 10 s of audio, one clip on one thread. The
logits of each model are compared with PyTorch's in float32 before anything is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import astfast
from astfast.benchmarking.compare import Checked, astfast_engine, check, precisions_of
from astfast.benchmarking.peers import PRECISIONS as PEER_PRECISIONS
from astfast.benchmarking.timing import speedup, spread, time_interleaved
from astfast.engines.base import FloatArray
from astfast.tagging.tagger import Tagger
from benchmarks import arguments, family_models, models
from benchmarks.rows import Rows

PRECISIONS = precisions_of("cpu")
BASE = "ast-base"


def main(argv: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    base = models.checkpoint(options.base, options.cache)
    with Rows("families", options.out, threads=options.threads) as rows:
        for name in options.model or ("ced-mini", "passt-s-10", "dass-small"):
            for precision in options.precision or PRECISIONS:
                ours = _load(family_models.checkpoint(name, options.cache), precision, options.threads)
                beside = _load(base, precision, options.threads)
                for batch in options.batch or (1, 8):
                    compare(name, precision, batch, ours, beside, options, rows)
            front_ends(name, base, options, rows)


def compare(
    name: str, precision: str, batch: int, ours: Tagger, base: Tagger, options: argparse.Namespace, rows: Rows
) -> None:
    """Writes a row for astfast, for AST-base and for PyTorch."""
    features, base_features = _features(ours, batch, family_models.MODELS[name].seconds), _features(base, batch, 10.24)
    exact = family_models.torch_peer(name, "float32", options.threads).run(features)
    engines = [astfast_engine(ours)]
    if precision in PEER_PRECISIONS:
        engines.append(family_models.torch_peer(name, precision, options.threads))
    checked = check(engines, features, exact)
    shape = {"model": name, "batch": batch, "dtype": precision, "shape": [*features.shape]}
    timed = [entry for entry in checked if entry.agrees]
    if not checked[0].agrees or options.verify_only:
        for entry in checked:
            _print(rows.write(**shape, **_about(entry)))
        return
    runs: list[Callable[[], object]] = [_bound(entry.engine.run, features) for entry in timed]
    runs.append(_bound(base.forward, base_features))
    *times, base_times = time_interleaved(runs, options.turns, options.seconds)
    peers = {entry.engine.engine: t for entry, t in zip(timed, times, strict=True)}
    own = peers["astfast"]
    for entry in checked:
        row: dict[str, Any] = {**shape, **_about(entry)}
        if entry.agrees:
            row["clips_per_second"] = spread([batch / t for t in peers[entry.engine.engine]])
        if entry.engine.engine == "astfast":
            row["over_base"] = speedup(base_times, own)
            row["speedup"] = {peer: speedup(t, own) for peer, t in peers.items() if peer != "astfast"}
        _print(rows.write(**row))
    rate = spread([batch / t for t in base_times])
    _print(rows.write(**shape | {"model": options.base}, engine="astfast", isa=base.hardware, clips_per_second=rate))


def front_ends(name: str, base: Any, options: argparse.Namespace, rows: Rows) -> None:
    """Writes a row for the front end of a model, with its time over that of AST-base's."""
    paths = family_models.checkpoint(name, options.cache), base
    runs = []
    for path in paths:
        tagger = astfast.load(path, device="cpu", precision="float32", threads=1)
        rate = tagger.config.front_end.sampling_rate
        runs.append(_bound(_features_of(tagger), models.waves(1, tagger.config)[0][: 10 * rate]))
    own, theirs = time_interleaved(runs, options.turns, options.seconds)
    _print(
        rows.write(
            model=name,
            batch=1,
            dtype="float32",
            engine="front end",
            seconds=spread(own),
            over_base=speedup(own, theirs),
        )
    )


def _load(path: Any, precision: str, threads: int) -> Tagger:
    return astfast.load(path, device="cpu", precision=precision, threads=threads)


def _features(tagger: Tagger, batch: int, seconds: float) -> FloatArray:
    """Of synthetic clips of so many seconds."""
    rate = tagger.config.front_end.sampling_rate
    clips = [wave[: round(seconds * rate)] for wave in models.waves(batch, tagger.config)]
    return tagger.features(clips, sampling_rate=rate)


def _features_of(tagger: Tagger) -> Callable[[FloatArray], FloatArray]:
    rate = tagger.config.front_end.sampling_rate
    return lambda wave: tagger.features(wave, sampling_rate=rate)


def _bound(run: Callable[[FloatArray], object], x: FloatArray) -> Callable[[], object]:
    return lambda: run(x)


def _about(entry: Checked) -> dict[str, Any]:
    engine, error = entry.engine, entry.error
    return {"engine": engine.engine, "isa": engine.isa, "version": engine.version, "agrees": entry.agrees} | {
        "relative_error": error.relative
    }


def _print(row: dict[str, Any]) -> None:
    line = f"{row['model']:<12} batch {row['batch']:<3} {row['engine']:<10} {row['dtype']:<9}"
    if "seconds" in row:
        line += f" {1e3 * row['seconds'][1]:8.2f} ms"
    if "clips_per_second" in row:
        line += f" {row['clips_per_second'][1]:8.2f} clips/s"
    if "relative_error" in row:
        line += f", relative error {row['relative_error']:.1e}{'' if row['agrees'] else ': does not agree'}"
    if "over_base" in row:
        low, middle, high = row["over_base"]
        line += f", {middle:.2f}x {BASE}'s ({low:.2f} to {high:.2f})"
    for peer, (low, middle, high) in row.get("speedup", {}).items():
        line += f", {middle:.2f}x {peer} ({low:.2f} to {high:.2f})"
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = arguments.parser(__doc__, turns=7, seconds=0.5)
    parser.add_argument(
        "--model", action="append", choices=family_models.MODELS, help="default: ced-mini, passt-s-10, dass-small"
    )
    parser.add_argument(
        "--base", default=BASE, choices=models.GEOMETRIES, help="model of the ratios (default: ast-base)"
    )
    parser.add_argument("--batch", action="append", type=int, metavar="N", help="clips per call (default: 1 and 8)")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="default: all of the CPU backend")
    parser.add_argument("--verify-only", action="store_true", help="compare the logits and time nothing")
    return parser


if __name__ == "__main__":
    main()
