"""Parser and exit status of the command line: ``astfast COMMAND``, see COMMANDS.

Exit status: 0 everything succeeded; 1 something failed that was named on standard error (``tag``: some inputs, the
others are tagged; ``doctor``: no backend can run; ``verify``: a result does not agree); 2 the command could not start
(usage, checkpoint or backend); 70 something unexpected (no memory left, or a bug); 74 standard output or the output
folder can't be written to, such as on a full disk, and what came before is there; 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from astfast.commands import terminal
from astfast.commands.arguments import in_options
from astfast.errors import AstfastError, OutputError
from astfast.version import __version__

COMMANDS = {
    "tag": "tag audio files",
    "plot": "draw a recording's spectrogram with its tags below",
    "bench": "measure a model's speed on this CPU, beside transformers and OpenVINO if they are installed",
    "doctor": "show what this machine can run, and why not",
    "models": "list the published models that load by name",
    "verify": "compare a model's results on every backend and in every precision with float32's",
    "convert": "write a checkpoint as a Hugging Face folder",
    "warmup": "load a model and check, compile and time what it needs on this machine, before it is used",
    "cache": "show or clear the packed weights that processes share",
}
SUCCESS, FAILURE, NOT_STARTED, UNEXPECTED, OUTPUT_FAILED, SIGNALLED, INTERRUPTED = 0, 1, 2, 70, 74, 128, 130


def entry() -> NoReturn:
    """Runs the command of this process and ends it, without taking the interpreter apart first: that takes 20 ms."""
    gc.set_threshold(100_000, 50, 50)  # what is imported and loaded stays: looking through it for garbage takes 10 ms
    status = main()
    atexit._run_exitfuncs()
    os._exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; ``arguments`` default to those of the process.

    Raises SystemExit with status 2, after a message on standard error, for wrong usage; with 0 for ``--help``.
    """
    terminal.prepare_streams()
    words = sys.argv[1:] if arguments is None else arguments
    command = next((word for word in words if not word.startswith("-")), "")
    options = parser(command).parse_args(words)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)  # also where warnings are errors by PYTHONWARNINGS
        warnings.showwarning = lambda message, *_, **__: terminal.print_warning(in_options(message, options))
        try:
            return SUCCESS if options.run(options) else FAILURE
        except KeyboardInterrupt as error:  # with the number of the signal where it was another one
            return SIGNALLED + error.args[0] if error.args else INTERRUPTED
        except BrokenPipeError:  # the reader of our output, such as `head`, has stopped: not an error
            terminal.discard_output()
            return SUCCESS
        except Exception as error:
            return _told(error, options)


def _told(error: Exception, options: argparse.Namespace) -> int:
    """Prints an error; the exit status that it stands for."""
    if isinstance(error, AstfastError):
        terminal.print_error(in_options(error, options))
        full_disk = isinstance(error, OutputError) and isinstance(error.__cause__, OSError)
        return OUTPUT_FAILED if full_disk else NOT_STARTED
    if isinstance(error, terminal.OutputError):
        terminal.discard_output()
        terminal.print_error(f"standard output can't be written to ({error}): results from here on are lost")
        return OUTPUT_FAILED
    if isinstance(error, MemoryError):
        terminal.print_error("no memory left: close other programs, or take a smaller model or shorter windows")
    else:
        import traceback

        terminal.print_bug("".join(traceback.format_exception(error)))
    return UNEXPECTED


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line. Parsed options have ``run``: options -> whether everything succeeded.

    ``command``: the one whose arguments are wanted, so that no other's module is imported; None for all of them.
    """
    result = argparse.ArgumentParser(
        prog="astfast", description="Tag audio with Audio Spectrogram Transformers.", allow_abbrev=False
    )
    result.add_argument("--version", action="version", version=f"astfast {__version__}")
    commands = result.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        below = commands.add_parser(name, help=summary, allow_abbrev=False)
        if command in (None, name):
            module = _module(name)
            module.add_arguments(below)
            below.set_defaults(run=module.run)
    return result


def _module(command: str) -> ModuleType:
    """Module of a command: ``add_arguments`` (of a parser) and ``run`` (of parsed options)."""
    return importlib.import_module(f"astfast.commands.{command}")
