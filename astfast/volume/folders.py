"""Audio files of folders, found as the tree is walked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from astfast.errors import AudioError
from astfast.volume.items import Item
from astfast.volume.names import is_audio


def walk(folder: str, seen: set[tuple[int, int]], passed_over: Counter[str]) -> Iterator[Item]:
    """The audio files of a folder and its subfolders, by name.

    A folder is walked once, however many links lead to it: ``seen`` has the device and inode of those that were. Hidden
    files and folders, pipes and devices, and files that are not audio by their name are counted in ``passed_over``. A
    folder that can't be read is an item with an error.
    """
    folders = [Path(folder)]
    while folders:
        current = folders.pop()
        try:
            status = current.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(current) as entries:
                found = sorted((entry.name, _kind(entry)) for entry in entries)
        except OSError as error:
            name = str(current)
            yield Item(
                name,
                name,
                AudioError(f"{name}: the folder can't be read ({error.strerror})", kind="unreadable"),
                stamp="",
            )
            continue
        subfolders = []
        for name, kind in found:
            if name.startswith("."):
                passed_over["hidden"] += 1
            elif kind == "folder":
                subfolders.append(current / name)
            elif not is_audio(name):
                passed_over["not audio"] += 1
            elif kind == "special":
                passed_over["not a file"] += 1
            else:
                path = f"{current}{os.sep}{name}"
                yield Item(path, path, path)
        folders += reversed(subfolders)


def _kind(entry: os.DirEntry[str]) -> str:
    """ "folder", "file" or "special": a pipe, socket or device, which could keep its reader waiting for ever."""
    try:
        if entry.is_dir():
            return "folder"
        return "special" if not entry.is_file() and is_special(entry.path) else "file"
    except OSError:  # a link that leads to itself
        return "file"


def is_special(path: str) -> bool:
    """Whether a path leads to something that is no regular file; not where it leads nowhere."""
    return Path(path).exists() and not Path(path).is_file()
