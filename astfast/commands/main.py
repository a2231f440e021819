"""Parser and exit status of the command line: ``astfast tag | bench | doctor | convert``.

Exit status: 0 everything succeeded; 1 something failed that was named on standard error (``tag``: some inputs, the
others are tagged; ``doctor``: no backend can run); 2 the command could not start (usage, checkpoint or backend);
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from astfast.commands import bench, convert, doctor, tag, terminal
from astfast.errors import AstfastError
from astfast.version import __version__

SUCCESS, FAILURE, NOT_STARTED, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; ``arguments`` default to those of the process.

    Raises SystemExit with status 2, after a message on standard error, for wrong usage; with 0 for ``--help``.
    """
    options = parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: terminal.print_warning(_in_options(message, options))
        try:
            return SUCCESS if options.run(options) else FAILURE
        except AstfastError as error:
            terminal.print_error(_in_options(error, options))
            return NOT_STARTED
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:  # the reader of our output, such as `head`, has stopped: not an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return SUCCESS


def parser() -> argparse.ArgumentParser:
    """The parser of all commands. Parsed options have ``run``: options -> whether everything succeeded."""
    result = argparse.ArgumentParser(
        prog="astfast", description="Tag audio with Audio Spectrogram Transformers.", allow_abbrev=False
    )
    result.add_argument("--version", action="version", version=f"astfast {__version__}")
    commands = result.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (tag, bench, doctor, convert):
        command.add_parser(commands)
    return result


def _in_options(message: object, options: argparse.Namespace) -> str:
    """A message of the library with its keywords as options of this command: ``window=`` as ``--window``."""
    return terminal.keywords_as_options(str(message), vars(options))
