"""Command ``astfast tag``: audio files in, tags on standard output or in a folder (``tag_volume``)."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from astfast.commands import arguments
from astfast.commands.terminal import (
    FORMATS,
    ResultPrinter,
    library_messages_hidden,
    print_cut,
    print_warning,
    progress,
)
from astfast.pcm import RAW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

    from astfast import Tagger

STANDARD_INPUT = "-"
# Of which each makes a run, also of a single file.
VOLUME_OPTIONS = (
    *("out", "list", "labels", "thresholds", "merge", "shortest", "shard", "urls", "scores", "embeddings", "decoders"),
    *("decoding", "retry", "overwrite", "max_failures", "fail_fast", "order"),
    *("ray", "workers", "worker_cpus", "worker_gpus"),
)
OUT_FORMATS = (
    *("jsonl", "csv", "parquet", "parquet-long", "raven", "audacity", "kaleidoscope"),
    *("audacity-beside", "raven-beside", "kaleidoscope-beside", "csv-beside", "jsonl-beside"),
)


class _StandardInput:
    """Standard input as a file object, whose errors are those of an input."""

    name = STANDARD_INPUT  # which messages use

    def read(self, size: int = -1) -> bytes:
        return self._buffer().read(size)

    def read1(self) -> bytes:
        from astfast.errors import AudioError

        try:
            return self._buffer().read1()
        except OSError as error:  # one that is open for writing only, a folder
            raise AudioError(
                f"{self.name}: reading failed ({error}): pipe the samples in", kind="unreadable"
            ) from error

    @staticmethod
    def _buffer() -> BufferedReader:
        if sys.stdin is None:
            raise OSError("standard input is closed")
        return cast("BufferedReader", sys.stdin.buffer)

    def seekable(self) -> bool:
        return False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's description and arguments."""
    parser.description = (
        "Tag audio files. Results go to standard output, errors to standard error, each at once; or into a folder, in "
        "which the same command goes on where it was stopped."
    )
    parser.epilog = (
        "Exit status: 0 all files tagged, 1 some could not be read, 2 nothing was tagged, 74 the output can't be "
        "written, 130 interrupted, 143 terminated."
    )
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="audio file, folder, glob, manifest (.jsonl, .csv, .tsv), tar, Parquet or Arrow file; - reads an audio "
        "file from standard input",
    )
    parser.add_argument("--model", help=arguments.MODEL_HELP)
    parser.add_argument(
        "--top-k", type=arguments.count, default=5, metavar="K", help="tags per file or window (default: 5)"
    )
    parser.add_argument(
        "--threshold", type=arguments.score, metavar="SCORE", help="leave out tags with a lower score, 0 to 1"
    )
    parser.add_argument(
        "--activation",
        choices=("auto", "sigmoid", "softmax", "none"),
        default="auto",
        help="what makes scores of the model's outputs (default: auto, what it was trained with, if its files say it)",
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
        "--channel",
        type=arguments.channel,
        default="mean",
        metavar="CHANNEL",
        help="mean of the channels, max (the loudest), each by itself, or the number of one, from 0 (default: mean)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse damaged and cut files, instead of tagging what decodes"
    )
    parser.add_argument(
        "--max-duration",
        type=arguments.number,
        metavar="SECONDS",
        help="refuse a file once more of it would be decoded (default: a day)",
    )
    parser.add_argument("--raw", choices=tuple(RAW), help="- is PCM without an end, tagged as it comes: %(choices)s")
    parser.add_argument("--rate", type=arguments.count, metavar="HZ", help="sampling rate of --raw")
    parser.add_argument("--channels", type=arguments.count, default=1, metavar="N", help="of --raw (default: 1)")
    parser.add_argument(
        "--format",
        type=arguments.names,
        action="extend",
        metavar="FORMAT",
        help=f"output: {', '.join(FORMATS)} (default: text); with --out one or more of {', '.join(OUT_FORMATS)}, "
        "with commas between (default: jsonl)",
    )
    arguments.add_device_and_precision(parser)
    parser.add_argument(
        "--token-merging",
        type=arguments.merging,
        default=0.0,
        metavar="SHARE",
        help="merge similar tokens, which spares the layers this share of them, up to 0.75: faster, and approximate",
    )
    arguments.add_threads_and_replicas(parser)
    _add_volume_arguments(parser)
    parser.set_defaults(usage_error=parser.error)


def _add_volume_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("many files").add_argument
    add("--out", metavar="DIR", help="write results into this folder, and go on with what is there")
    add("--from", dest="list", metavar="LIST", help="file with a name a line, or a manifest; - is standard input")
    add("-0", "--null", action="store_true", help="names in LIST end with NUL bytes instead of lines")
    add("--root", default="", metavar="DIR", help="folder that relative names in lists and manifests are relative to")
    add("--urls", type=arguments.number, metavar="MB", help="fetch URLs, up to this size each; needs fsspec")
    add("--shard", metavar="I/N", help="tag one of N shares of the files, I from 0, in a folder of its own")
    add("--labels", metavar="LIST", help="file of the labels that may be tags, one a line")
    add("--thresholds", metavar="LIST", help="file of thresholds of single labels: JSON, or lines label,threshold")
    add("--merge", type=arguments.duration, metavar="SECONDS", help="join tags of windows no further apart than this")
    add("--shortest", type=arguments.duration, metavar="SECONDS", help="leave out joined tags that are shorter")
    add("--scores", action="store_true", help="also write the scores of all labels (Parquet)")
    add("--embeddings", choices=("parquet", "npy"), help="also write embeddings: %(choices)s")
    add("--order", action="store_true", help="keep the order of the files in --out")
    add("--retry", action="store_true", help="try again what failed in earlier runs")
    add("--overwrite", action="store_true", help="begin anew in DIR")
    add("--max-failures", type=arguments.whole, metavar="N", help="stop once more than N files have failed")
    add("--fail-fast", action="store_true", help="stop at the first file that fails")
    add("--decoders", type=arguments.count, metavar="N", help="threads or processes that decode")
    add("--decoding", choices=("auto", "threads", "processes"), help="by %(choices)s (default: processes with a GPU)")
    add("--ray", metavar="ADDRESS", help="tag on a Ray cluster; local is one on this machine; needs astfast[ray]")
    add("--workers", type=arguments.count, metavar="N", help="of --ray (default: one a GPU, or else one a node)")
    add("--worker-cpus", type=arguments.count, metavar="N", help="of each (default: its part of the node)")
    add("--worker-gpus", type=arguments.duration, metavar="N", help="of each, also a fraction (default: 1, if any)")
    add("--progress", choices=("auto", "json", "off"), default="auto", help="%(choices)s: a line, or JSON on stderr")


def run(options: argparse.Namespace) -> bool:
    """Tags the files; whether all of them could be read."""
    with library_messages_hidden():
        return _tag(options)


def _tag(options: argparse.Namespace) -> bool:
    if options.hop is not None and options.window is None:
        options.usage_error("--hop needs --window")
    if not options.files and options.list is None:
        options.usage_error("name a FILE, or a list of them with --from")
    if options.raw is not None and (options.files != [STANDARD_INPUT] or options.rate is None):
        options.usage_error("--raw needs --rate, and - as the only FILE")
    if options.raw is None and (options.rate is not None or options.channels != 1):
        options.usage_error("--rate and --channels need --raw: files say their own")
    _check_formats(options)
    if options.files.count(STANDARD_INPUT) > 1:
        options.usage_error("standard input (-) can be read once only")

    from astfast import environment

    environment.without_blas_threads()

    import astfast
    from astfast import notes
    from astfast.volume import names

    if any(getattr(options, name) not in (None, False) for name in VOLUME_OPTIONS) or any(
        map(names.is_many, options.files)
    ):
        from astfast.commands import tag_volume

        return tag_volume.run(options)
    tagger = astfast.load(options.model, **arguments.loading(options))
    printer = ResultPrinter(
        options.format[0],
        options.window is not None or options.raw is not None,
        options.channel == "each",
        partial(arguments.in_options, options=options),
    )
    try:
        results = _results(tagger, options)
    except ValueError as error:  # a window that is too short, and what else is checked before anything is read
        raise astfast.AstfastError(str(error)) from error
    with notes.gathered() as truncated:
        try:
            for number, result in progress(results, len(options.files)):
                printer.print_result(number, options.files[number], result)
            printer.finish()
        finally:
            if len(truncated) == 1:
                print_warning(arguments.in_options(next(iter(truncated)).message, options))
            else:
                print_cut(len(truncated))
    return not printer.errors


def _check_formats(options: argparse.Namespace) -> None:
    """Sets the formats that are not given, and ends with a usage error for one that is unknown."""
    known = FORMATS if options.out is None else OUT_FORMATS
    options.format = options.format or [known[0]]
    for name in options.format:
        if name not in known:
            needs = " needs --out" if name in OUT_FORMATS else f" is not one of {', '.join(known)}"
            options.usage_error(f"--format {name}{needs}")
    if options.out is None and len(options.format) > 1:
        options.usage_error("--format: one at a time, unless into a folder (--out)")


def _results(tagger: Tagger, options: argparse.Namespace) -> Iterator[tuple[int, Any]]:
    """(number of the file, its tags, one of its segments, or its error), each as soon as it is there."""
    inputs = [_StandardInput() if file == STANDARD_INPUT else file for file in options.files]
    if options.raw is not None:
        return ((0, segment) for segment in _live(tagger, options))
    shared = {"top_k": options.top_k, "threshold": options.threshold, "activation": options.activation}
    shared |= {"on_error": "return", **arguments.reading(options)}
    if options.window is None:
        return _of_channels(enumerate(tagger.stream(inputs, **shared)), options.channel == "each")
    return tagger.stream_segments(inputs, window=options.window, hop=options.hop, **shared)


def _of_channels(results: Iterator[tuple[int, Any]], each: bool) -> Iterator[tuple[int, Any]]:
    """The same results; where they are lists of the tags of every channel, one at a time with the channel's number."""
    for number, result in results:
        if each and isinstance(result, list):
            yield from ((number, {"channel": channel, "tags": tags}) for channel, tags in enumerate(result))
        else:
            yield number, result


def _live(tagger: Tagger, options: argparse.Namespace) -> Iterator[Any]:
    from astfast.audio.live import raw_chunks

    chunks = raw_chunks(_StandardInput(), options.raw, options.channels)
    return tagger.live(
        chunks,
        sampling_rate=options.rate,
        top_k=options.top_k,
        threshold=options.threshold,
        activation=options.activation,
        window=options.window,
        hop=options.hop,
    )
