"""The command line: ``astfast tag | bench | doctor | convert``.

Exit status: 0 all done; 1 some inputs could not be tagged (each is named on standard error, the others are tagged);
2 the command could not start (usage, checkpoint or backend); 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from astfast.errors import AstfastError
from astfast.version import __version__

DONE, SOME_FAILED, NOT_STARTED, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _run(options)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"astfast: {message}", file=sys.stderr)


def _run(options: argparse.Namespace) -> int:
    try:
        return int(options.run(options))
    except AstfastError as error:
        print(f"astfast: {error}", file=sys.stderr)
        return NOT_STARTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader, `head` say, has had enough: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="astfast", description="Tags audio with Audio Spectrogram Transformers.")
    parser.add_argument("--version", action="version", version=f"astfast {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    tag = commands.add_parser("tag", help="tag audio files", description="Tags audio files.")
    tag.add_argument("files", nargs="+", metavar="FILE", help="audio files; - reads one from standard input")
    tag.add_argument("--model", help="hub id, folder, .safetensors or .pth (default: the built-in model)")
    tag.add_argument("--top-k", type=_positive_int, default=5, metavar="K", help="tags a clip or window (default: 5)")
    tag.add_argument("--threshold", type=float, metavar="P", help="only tags with at least this score")
    tag.add_argument("--window", type=_positive, metavar="S", help="tag windows of S seconds, not only the beginning")
    tag.add_argument("--hop", type=_positive, metavar="S", help="seconds from window to window (default: the window)")
    tag.add_argument("--format", choices=("text", "jsonl", "csv"), default="text", help="output (default: text)")
    tag.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    tag.add_argument("--precision", default="auto", help="auto, float32, bfloat16, int8 (CPU) or float16 (GPU)")
    tag.set_defaults(run=_tag)

    bench = commands.add_parser(
        "bench",
        help="measure a model's speed here, against transformers and OpenVINO where they are installed",
        description="Measures clips a second on this CPU: features in, logits out, engines taking turns.",
    )
    bench.add_argument("--model", help="hub id, folder, .safetensors or .pth (default: the built-in model)")
    bench.add_argument(
        "--precision",
        action="append",
        choices=("float32", "bfloat16", "int8"),
        help="repeatable (default: all that run here)",
    )
    bench.add_argument(
        "--batch", type=_positive_int, action="append", metavar="N", help="clips a call, repeatable (default: 1 and 8)"
    )
    bench.add_argument(
        "--threads", type=_positive_int, metavar="N", help="threads of every engine (default: all cores)"
    )
    bench.add_argument("--seconds", type=_positive, default=5.0, metavar="S", help="for each engine (default: 5)")
    bench.add_argument("--format", choices=("text", "jsonl"), default="text", help="output (default: text)")
    bench.set_defaults(run=_bench)

    doctor = commands.add_parser("doctor", help="what this machine can run, and why not")
    doctor.set_defaults(run=_doctor)

    convert = commands.add_parser("convert", help="write a checkpoint as a Hugging Face folder")
    convert.add_argument("source", help="an original .pth, or any other checkpoint that astfast reads")
    convert.add_argument("folder", type=Path, help="where to write config.json, preprocessor_config.json, weights")
    convert.add_argument("--force", action="store_true", help="write into a folder that is not empty")
    convert.set_defaults(run=_convert)
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _tag(options: argparse.Namespace) -> int:
    import astfast
    from astfast.commands.terminal import Printer, complain, progress

    if options.hop is not None and options.window is None:
        print("astfast: --hop needs --window", file=sys.stderr)
        return NOT_STARTED
    tagger = astfast.load(options.model, device=options.device, precision=options.precision)
    shared = {"top_k": options.top_k, "threshold": options.threshold, "on_error": "return"}
    printer = Printer(options.format, windows=options.window is not None)
    failed = 0
    inputs = [sys.stdin.buffer.read() if file == "-" else file for file in options.files]
    if options.window is None:
        results = tagger.stream(inputs, **shared)
    else:
        results = (tagger.segments(x, window=options.window, hop=options.hop, **shared) for x in inputs)
    for file, result in zip(options.files, progress(results, len(inputs)), strict=True):
        if isinstance(result, dict):
            failed += 1
            complain(result["error"])
        else:
            printer.result(file, result)
    return SOME_FAILED if failed else DONE


def _bench(options: argparse.Namespace) -> int:
    from astfast.benchmarking.compare import as_record, measure, table
    from astfast.commands.terminal import complain

    rows = measure(
        options.model, options.precision, options.batch or [1, 8], options.threads, options.seconds, complain
    )
    if options.format == "jsonl":
        for row in rows:
            print(json.dumps(as_record(row)), flush=True)
    else:
        print(table(list(rows)))
    return DONE


def _doctor(_: argparse.Namespace) -> int:
    from astfast.commands.doctor import report

    text, usable = report()
    print(text)
    return DONE if usable else SOME_FAILED


def _convert(options: argparse.Namespace) -> int:
    from astfast.models.export import convert

    for note in convert(options.source, options.folder, force=options.force):
        print(f"astfast: {note}", file=sys.stderr)
    print(options.folder)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
