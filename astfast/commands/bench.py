"""Command ``astfast bench``: clips per second of a model on this CPU, beside transformers and OpenVINO."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from astfast.commands import arguments
from astfast.commands.terminal import print_text, print_warning, table

if TYPE_CHECKING:
    from astfast.benchmarking.compare import Row
    from astfast.benchmarking.timing import Spread

BATCHES = (1, 8)
COLUMNS = ("batch", "engine", "precision", "clips/s", "ms/clip", "speed-up over this engine", "error", "kernel / ISA")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's description and arguments."""
    parser.description = (
        "Measure clips per second on this CPU, from spectrograms to logits. Engines take turns, after their logits "
        "have been compared with those of astfast in float32."
    )
    parser.add_argument("--model", help=arguments.MODEL_HELP)
    parser.add_argument(
        "--precision",
        action="append",
        choices=arguments.Precisions("cpu"),
        metavar="PRECISION",
        help="%(choices)s; repeatable (default: all that run here)",
    )
    parser.add_argument(
        "--batch", type=arguments.count, action="append", metavar="N", help="clips per call; repeatable (default: 1, 8)"
    )
    parser.add_argument(
        "--threads", type=arguments.count, metavar="N", help="threads of every engine (default: all cores)"
    )
    parser.add_argument(
        "--seconds", type=arguments.number, default=5.0, metavar="SECONDS", help="for each engine (default: 5)"
    )
    parser.add_argument(
        "--format",
        choices=("text", "jsonl"),
        default="text",
        metavar="FORMAT",
        help="output: %(choices)s (default: text)",
    )


def run(options: argparse.Namespace) -> bool:
    """Measures and prints a row an engine, precision and batch size."""
    from astfast.benchmarking import speeds
    from astfast.benchmarking.compare import as_record, measure

    rows = measure(
        options.model,
        options.precision,
        options.batch or BATCHES,
        options.threads,
        options.seconds,
        print_warning,
    )
    measured = []
    for row in rows:
        measured.append(row)
        if row.engine == "astfast":
            speeds.remember(options.model or "", row.precision, row.clips_per_second.p50)
        if options.format == "jsonl":
            print_text(json.dumps(as_record(row)))
    if options.format == "text":
        print_text(table_of(measured))
    return True


def table_of(rows: Iterable[Row]) -> str:
    """Measurements as an aligned table: medians, with the 20th and 80th percentile in brackets."""
    return table(COLUMNS, map(_cells, rows))


def _cells(row: Row) -> tuple[str, ...]:
    speedup = row.astfast_speedup
    return (
        str(row.batch),
        row.engine,
        row.precision,
        _with_range(row.clips_per_second, ".3g"),
        f"{1e3 / row.clips_per_second.p50:.3g}",
        "" if speedup is None else _with_range(speedup, ".2f", "x"),
        f"{row.error:.1e}",
        row.isa,
    )


def _with_range(spread: Spread, form: str, unit: str = "") -> str:
    return f"{spread.p50:{form}}{unit} ({spread.p20:{form}} to {spread.p80:{form}})"
