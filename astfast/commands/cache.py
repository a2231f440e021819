"""Command ``astfast cache``: the packed weights in the user's cache folder."""

from __future__ import annotations

import argparse
import time

from astfast import cache_files
from astfast.commands.terminal import print_text, table
from astfast.environment import cache_folder, packed_cache_bytes
from astfast.errors import OutputError

ACTIONS = {
    "list": "what is in it (the default)",
    "path": "where it is (ASTFAST_CACHE moves it)",
    "clear": "remove packed weights; processes that use them go on, and the next ones pack again",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's description and arguments."""
    parser.description = (
        "Show or clear the packed weights of large models in the cache folder. The first process that loads a model "
        "writes them, later ones map them: they start without packing and share one copy in memory. "
        "ASTFAST_PACKED_CACHE_MB limits their size in all (default 2000; 0 turns them off)."
    )
    actions = "; ".join(f"{name}: {what}" for name, what in ACTIONS.items())
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", help=actions)


def run(options: argparse.Namespace) -> bool:
    """Prints or clears."""
    if options.action == "path":
        print_text(str(cache_folder()))
    elif options.action == "clear":
        try:
            freed = cache_files.clear()
        except OSError as error:
            raise OutputError(f"{error.filename} can't be removed: {error.strerror}") from error
        print_text(f"{_megabytes(freed)} freed")
    else:
        entries = cache_files.entries()
        rows = [(_megabytes(entry.size), _ago(entry.used), entry.about) for entry in entries]
        if rows:
            print_text(table(("size", "last used", "packed weights"), rows))
        total, limit = sum(entry.size for entry in entries), packed_cache_bytes()
        print_text(f"{_megabytes(total)} of at most {_megabytes(limit)} in {cache_folder()}")
    return True


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _ago(moment: float) -> str:
    hours = max(0.0, time.time() - moment) / 3600
    return "in the last hour" if hours < 1 else f"{hours:.0f} h ago" if hours < 48 else f"{hours / 24:.0f} days ago"
