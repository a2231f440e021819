"""Files that are there whole or not at all, whatever moment the machine stops at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".unfinished"  # ending of a file that is being written


@contextmanager
def replacing(path: Path, on_disk: bool = True) -> Iterator[Path]:
    """A path to write to; afterwards it takes the place of ``path`` in one step, and ``on_disk`` says whether it is on
    the disk then; else a later ``sync_all`` puts it there."""
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        yield unfinished
        if on_disk:
            sync(unfinished)
        unfinished.replace(path)
        if on_disk:
            sync(path.parent)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all() -> None:
    """Waits until everything that was written is on the disk: in one step, where many files were."""
    os.sync()


def sweep(folder: Path) -> None:
    """Removes what a run that was killed had begun to write in a folder and below."""
    for path in folder.rglob(f"*{UNFINISHED}"):
        path.unlink(missing_ok=True)
