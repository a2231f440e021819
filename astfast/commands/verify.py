"""Command ``astfast verify``: results of a model on every backend and in every precision against float32's."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from astfast.backends import BACKENDS
from astfast.commands import arguments
from astfast.commands.terminal import print_error, print_text, print_warning, table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from astfast.benchmarking.verification import Agreement
    from astfast.catalogue import PublishedModel

COLUMNS = (
    *("backend", "precision", "agrees", "error", "max logit", "max score", "top 1", "top 5", "tags that differ"),
    *("from published logits", "hardware"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's description and arguments."""
    parser.description = (
        "Compare a model's logits on every backend and in every precision that run here with those of the reference in "
        "float32; for a published AST also with the published logits of its anchor clip, which comes from the model "
        "hub or --anchor. Exit status 1 where one does not agree."
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=arguments.MODEL_HELP)
    parser.add_argument(
        "--audio", nargs="+", default=[], metavar="FILE", help="files to compare on (default: three synthetic clips)"
    )
    parser.add_argument(
        "--backend",
        action="append",
        choices=BACKENDS,
        metavar="BACKEND",
        help="%(choices)s; repeatable (default: all that run here)",
    )
    parser.add_argument(
        "--precision",
        action="append",
        choices=arguments.Precisions("cpu", "cuda"),
        metavar="PRECISION",
        help="%(choices)s; repeatable (default: all that run here)",
    )
    parser.add_argument(
        "--threshold",
        type=arguments.score,
        default=0.5,
        metavar="SCORE",
        help="score from which a label is a tag (default: 0.5)",
    )
    parser.add_argument("--published", metavar="NAME", help="the published model that MODEL is a copy of")
    parser.add_argument("--anchor", metavar="FILE", help="a copy of the anchor clip, sample_audio.flac")
    parser.add_argument("--threads", type=arguments.count, metavar="N", help="threads on the CPU (default: all cores)")
    parser.add_argument("--json", action="store_true", help="one JSON object a backend and precision")


def run(options: argparse.Namespace) -> bool:
    """Compares, and prints a row a backend and precision; whether all agree."""
    from astfast.benchmarking import verification
    from astfast.errors import BackendError

    exact = verification.reference(options.model, options.threads)
    if "reference" not in exact.backend:
        print_warning("compared with the CPU backend in float32: the reference backend needs PyTorch, which is missing")
    clips = verification.clips_of(exact, options.audio)
    rows = list(
        verification.verify(
            options.model,
            exact,
            clips,
            wanted_backends=options.backend,
            precisions=options.precision,
            threshold=options.threshold,
            threads=options.threads,
            anchor=_anchor(options, exact.config.front_end.sampling_rate),
            report=print_warning,
        )
    )
    if not rows:
        raise BackendError(
            f"no backend that was asked for runs in {' or '.join(options.precision)} here: leave out --backend or "
            "--precision"
        )
    if options.json:
        for row in rows:
            print_text(json.dumps({**row._asdict(), "clips": len(clips)}))
    else:
        print_text(table(COLUMNS, map(_cells, rows)))
    for row in rows:
        if row.problem is not None:
            print_error(f"{row.backend} {row.precision}: {row.problem}")
    return all(row.agrees for row in rows)


def _anchor(options: argparse.Namespace, rate: int) -> tuple[PublishedModel, NDArray[np.float32]] | None:
    """The published model that this is one of, and its anchor clip; None, with a warning, where one can't be had."""
    from astfast.benchmarking import verification
    from astfast.catalogue import published
    from astfast.errors import AstfastError, CheckpointError

    name = options.published or options.model or ""
    model = published(name)
    if options.published and model is None:
        raise CheckpointError(f"{name} is no published model: pass a name that `astfast models` lists to --published.")
    if model is None:
        if options.anchor:
            raise CheckpointError(f"{name} is no published model: name with --published the one that it is a copy of.")
        return None
    if not model.first_logits:
        print_warning(f"{model.name}: its authors publish no logits: compared with the reference alone")
        return None
    try:
        return model, verification.anchor_clip(options.anchor, rate)
    except AstfastError as error:
        if options.anchor:
            raise
        print_warning(f"{error}; compared with the reference alone")
        return None


def _cells(row: Agreement) -> tuple[str, ...]:
    return (
        row.backend,
        row.precision,
        "yes" if row.agrees else "NO",
        _number(row.relative_error),
        _number(row.logit_difference),
        _number(row.score_difference),
        _share(row.top_1),
        _share(row.top_5),
        "-" if row.crossings is None else str(row.crossings),
        _number(row.published_difference),
        row.hardware,
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
