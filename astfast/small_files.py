"""Files that are read whole, such as JSON files and label lists: regular files of a bounded size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

LIMIT = 10_000_000  # bytes


def read(path: Path, limit: int = LIMIT) -> bytes:
    """Contents of a file. Raises OSError if it can't be read, is no regular file or has more than ``limit`` bytes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # without waiting for a pipe's other end
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is no regular file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"it has more than {limit} bytes")
    return content
