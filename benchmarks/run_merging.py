"""Token merging: how much faster models become by it, and how far their scores move.

python -m benchmarks.run_merging [--recordings FOLDER] [--precision int8] [--share 0.5]

Speed is that of interleaved turns with the same model unmerged. Scores are compared on the built-in model and on
AST-base made of it (see benchmarks/widened.py), which hears two recordings in a row, as its input is twice as long.
FOLDER has a clips.csv (filename, fold, category), as ESC-50's, beside its audio/; recordings of fold 4, which the
built-in model was not trained on, are heard. Without one, synthetic clips are, and there is no accuracy.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import astfast
from astfast.benchmarking.compare import precisions_of
from astfast.benchmarking.timing import speedup, spread, time_interleaved
from astfast.engines.base import FloatArray
from astfast.tagging.tagger import Tagger
from benchmarks import arguments, models, widened
from benchmarks.rows import Row, Rows
from benchmarks.run_accuracy import BEST, errors

BUILT_IN = "built-in"
FOLD = "4"  # of ESC-50, see recipes/
SHARES = (0.25, 0.5, 0.65)


class Clips(NamedTuple):
    """What the models hear."""

    features: FloatArray  # [clips, frames, mels], normalised
    labels: list[str]  # of each clip; none where there is no right answer


def main(argv: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    shares = (0.0, *(options.share or SHARES))
    with Rows("merging", options.out, threads=options.threads) as rows:
        for model in options.model or (BUILT_IN, widened.FITTING[0]):
            source = None if model == BUILT_IN else widened.checkpoint(model, options.cache)
            clips = None
            for precision in options.precision or precisions_of("cpu"):
                taggers = {
                    share: astfast.load(
                        source, device="cpu", precision=precision, threads=options.threads, token_merging=share
                    )
                    for share in shares
                }
                clips = clips or heard(model, taggers[0.0], options)
                for row in (*speeds(taggers, clips, options), *scores(taggers, clips)):
                    _print(rows.write(model=model, dtype=precision, **row))


def speeds(taggers: dict[float, Tagger], clips: Clips, options: argparse.Namespace) -> list[Row]:
    """A row for each share: seconds of a call of one clip, features to logits, and how many times faster it became."""
    one = clips.features[:1]
    runs = [partial(tagger.forward, one) for tagger in taggers.values()]
    unmerged, *merged = time_interleaved(runs, options.turns, options.seconds)
    found = zip(taggers, (unmerged, *merged), strict=True)
    return [
        {"measure": "speed", "share": share, "seconds": spread(times), "speedup": speedup(unmerged, times)}
        for share, times in found
    ]


def scores(taggers: dict[float, Tagger], clips: Clips) -> list[Row]:
    """A row for each share: errors of the logits against those without merging, and accuracy if labels are known."""
    logits = {
        share: np.concatenate([tagger.forward(clip[None]) for clip in clips.features])
        for share, tagger in taggers.items()
    }
    found = []
    for share, own in logits.items():
        row: Row = {"measure": "scores", "share": share, "clips": len(own), **errors(own, logits[0.0])}
        if clips.labels:
            names = taggers[share].labels
            best = [[names[label] for label in order] for order in np.argsort(-own, axis=1)[:, :BEST]]
            answers = list(zip(best, clips.labels, strict=True))
            row["top_1"] = float(np.mean([label == names[0] for names, label in answers]))
            row["top_5"] = float(np.mean([label in names for names, label in answers]))
        found.append(row)
    return found


def heard(model: str, tagger: Tagger, options: argparse.Namespace) -> Clips:
    """The clips of a model: each recording with its label, or two in a row without one; else synthetic clips."""
    config: Any = tagger.config
    if options.recordings is None:
        return Clips(models.features(options.clips or 8, config), [])
    recordings = labelled(options.recordings)
    if model == BUILT_IN:
        inputs: list[Any] = [path for path, _ in recordings]
        labels = [label for _, label in recordings]
    else:
        rate = config.front_end.sampling_rate
        waves = [astfast.load_audio(path, target_rate=rate) for path, _ in recordings]
        pairs = zip(waves[::2], waves[1::2], strict=False)
        inputs = [{"array": np.concatenate(pair), "sampling_rate": rate} for pair in pairs]
        labels = []
    count = min(options.clips or len(inputs), len(inputs))
    kept = [len(inputs) * i // count for i in range(count)]
    inputs, labels = [inputs[i] for i in kept], [labels[i] for i in kept if labels]
    return Clips(np.concatenate([tagger.features(one) for one in inputs]), labels)


def labelled(folder: Path) -> list[tuple[Path, str]]:
    """Recordings of the fold, and their labels. FileNotFoundError if none of them is there."""
    with (folder / "clips.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["fold"] == FOLD]
    found = [(folder / "audio" / row["filename"], row["category"]) for row in rows]
    found = [(path, label) for path, label in found if path.exists()]
    if not found:
        raise FileNotFoundError(f"{folder / 'audio'}: none of the recordings of fold {FOLD} in clips.csv")
    return found


def _print(row: Row) -> None:
    line = f"{row['model']:<9} {row['dtype']:<9} {row['share']:<5}"
    if row["measure"] == "speed":
        low, middle, high = row["speedup"]
        line += f" {1e3 * row['seconds'][1]:8.1f} ms, {middle:.2f}x the speed ({low:.2f} to {high:.2f})"
    else:
        line += f" {row['clips']} clips: rms error over the spread between clips {row['rms_over_spread']:.3f}, overlap "
        line += f"of the {BEST} best {row['overlap']:.3f}"
    if "top_1" in row:
        line += f", top-1 {row['top_1']:.2%}, top-{BEST} {row['top_5']:.2%}"
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = arguments.parser(__doc__, turns=5, seconds=0.5)
    parser.add_argument(
        "--model", action="append", choices=(BUILT_IN, *widened.FITTING), help="default: built-in and ast-base"
    )
    parser.add_argument("--precision", action="append", choices=precisions_of("cpu"), help="default: all")
    parser.add_argument("--share", action="append", type=float, help=f"of the tokens merged (default: {SHARES})")
    parser.add_argument("--recordings", type=Path, metavar="FOLDER", help="with labels (default: synthetic clips)")
    parser.add_argument(
        "--clips", type=arguments.clips, metavar="N", help="evenly from the recordings (default: all; 8 synthetic)"
    )
    return parser


if __name__ == "__main__":
    main()
