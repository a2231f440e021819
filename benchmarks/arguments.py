"""Command-line options that the benchmark scripts share."""

from __future__ import annotations

import argparse
from pathlib import Path

CACHE = Path.home() / ".cache" / "astfast-benchmarks"


def parser(description: str | None, turns: int | None = None, seconds: float | None = None) -> argparse.ArgumentParser:
    """A parser with the options of every script.

    - ``description``: the script's docstring, shown as it is.
    - ``turns``: default of ``--turns``; None for a script that has none.
    - ``seconds``: default of ``--seconds``; None for a script that times processes, which has no ``--threads`` either.
    """
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if turns is not None:
        made.add_argument(
            "--turns", type=int, default=turns, metavar="N", help=f"measurements of each (default: {turns})"
        )
    if seconds is not None:
        made.add_argument(
            "--seconds", type=float, default=seconds, metavar="S", help=f"at least, of each turn (default: {seconds})"
        )
        made.add_argument("--threads", type=int, default=2, metavar="N", help="threads of each engine (default: 2)")
    made.add_argument(
        "--cache", type=Path, default=CACHE, metavar="DIR", help=f"checkpoints and exported models (default: {CACHE})"
    )
    made.add_argument("--out", type=Path, metavar="FILE", help="results (default: one file per machine in results/)")
    return made


def clips(text: str) -> int:
    """Type of ``--clips``, of scripts that compare what tells clips apart: a number of at least two."""
    if (number := int(text)) < 2:
        raise argparse.ArgumentTypeError(f"{number} clips: errors are given against the spread between clips")
    return number
