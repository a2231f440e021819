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
    files and folders and files that are not audio by their name are counted in ``passed_over``. A folder that can't be
    read is an item with an error.
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
                names = sorted((entry.name, _is_folder(entry)) for entry in entries)
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
        for name, is_folder in names:
            if name.startswith("."):
                passed_over["hidden"] += 1
            elif is_folder:
                subfolders.append(current / name)
            elif is_audio(name):
                path = f"{current}{os.sep}{name}"
                yield Item(path, path, path)
            else:
                passed_over["not audio"] += 1
        folders += reversed(subfolders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
