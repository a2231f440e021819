"""Command ``astfast tag``: audio files in, tags on standard output."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from astfast.commands import arguments
from astfast.commands.terminal import FORMATS, ResultPrinter, progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from astfast import Tagger

STANDARD_INPUT = "-"


class _StandardInput:
    """Standard input as a file object, whose errors are those of an input."""

    name = STANDARD_INPUT  # which messages use

    def read(self, size: int = -1) -> bytes:
        if sys.stdin is None:
            raise OSError("standard input is closed")
        return sys.stdin.buffer.read(size)

    def seekable(self) -> bool:
        return False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's description and arguments."""
    parser.description = "Tag audio files. Results go to standard output, errors to standard error, each at once."
    parser.epilog = (
        "Exit status: 0 all files tagged, 1 some could not be read, 2 nothing was tagged, 74 the output can't be "
        "written, 130 interrupted."
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio file; - reads one from standard input")
    parser.add_argument("--model", help=arguments.MODEL_HELP)
    parser.add_argument(
        "--top-k", type=arguments.count, default=5, metavar="K", help="tags per file or window (default: 5)"
    )
    parser.add_argument(
        "--threshold", type=arguments.score, metavar="SCORE", help="leave out tags with a lower score, 0 to 1"
    )
    parser.add_argument(
        "--window",
        type=arguments.number,
        metavar="SECONDS",
        help="tag the whole file in windows of this length, instead of its beginning only",
    )
    parser.add_argument(
        "--hop",
        type=arguments.number,
        metavar="SECONDS",
        help="from the start of a window to the next; needs --window (default: its length)",
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="text", metavar="FORMAT", help="output: %(choices)s (default: text)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--precision",
        choices=arguments.Precisions("cpu", "cuda", extra=("auto",)),
        default="auto",
        metavar="PRECISION",
        help="%(choices)s; a backend has some of these, see astfast doctor (default: auto)",
    )
    parser.set_defaults(usage_error=parser.error)


def run(options: argparse.Namespace) -> bool:
    """Tags the files; whether all of them could be read."""
    if options.hop is not None and options.window is None:
        options.usage_error("--hop needs --window")
    if options.files.count(STANDARD_INPUT) > 1:
        options.usage_error("standard input (-) can be read once only")

    from astfast import environment

    environment.without_blas_threads()

    import astfast

    tagger = astfast.load(options.model, device=options.device, precision=options.precision)
    printer = ResultPrinter(options.format, windows=options.window is not None)
    for number, result in progress(_results(tagger, options), len(options.files)):
        printer.print_result(number, options.files[number], result)
    printer.finish()
    return not printer.errors


def _results(tagger: Tagger, options: argparse.Namespace) -> Iterator[tuple[int, Any]]:
    """(number of the file, its tags, one of its segments, or its error), each as soon as it is there."""
    inputs = [_StandardInput() if file == STANDARD_INPUT else file for file in options.files]
    shared = {"top_k": options.top_k, "threshold": options.threshold, "on_error": "return"}
    if options.window is None:
        return enumerate(tagger.stream(inputs, **shared))
    return tagger.stream_segments(inputs, window=options.window, hop=options.hop, **shared)
