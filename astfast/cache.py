"""JSON files of remembered verdicts in the user's cache folder: updated under a lock, replaced atomically.

They are never in the way: what can't be read counts as empty, and what can't be written only costs the check again.
They are the user's alone, since a verdict decides what is computed: a link, a pipe, or a file or folder of another user
is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from astfast.environment import cache_folder

MAX_BYTES = 1 << 20  # of a file; a larger one counts as empty
LOCK_SECONDS = 1.0  # that an update waits for another one, before it goes ahead without the lock
OPEN_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def read(name: str) -> dict[str, Any]:
    """What the file holds; {} where there is none, or none that can be read."""
    try:
        folder = cache_folder()
        if not own(folder.stat()):
            return {}
        with opened(folder / name, os.O_RDONLY) as file:
            text = os.read(file, MAX_BYTES + 1)
        content = json.loads(text) if len(text) <= MAX_BYTES else {}
    except Exception:  # no home, no folder, no JSON, too deep, no memory
        return {}
    return content if isinstance(content, dict) else {}


def update(name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """``change`` applied to what the file holds now, no other process writing between the reading and the writing."""
    with contextlib.suppress(Exception):
        path = cache_folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not own(path.parent.stat()):
            return
        with opened(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT) as lock:
            _wait_for(lock)
            content = read(name)
            change(content)
            _replace(path, json.dumps(content, indent=1, sort_keys=True))


def own(status: os.stat_result) -> bool:
    """Whether a file or folder is this user's."""
    return status.st_uid == os.geteuid()


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """Descriptor of a regular file of this user. Raises OSError for anything else, and waits for nothing."""
    descriptor = os.open(path, flags | OPEN_FLAGS, 0o600)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not own(status):
            raise PermissionError(f"{path} is not a regular file of this user")
        yield descriptor
    finally:
        os.close(descriptor)


def _wait_for(lock: int) -> None:
    end = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.002)


def _replace(path: Path, text: str) -> None:
    import tempfile  # which takes 2 ms to import, and caches are mostly read

    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
