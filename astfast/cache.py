"""JSON files of remembered verdicts in the user's cache folder: updated under a lock, replaced atomically.

They are never in the way: what can't be read counts as empty, and what can't be written only costs the check again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from astfast.environment import cache_folder


def read(name: str) -> dict[str, Any]:
    """What the file holds; {} where there is none, or none that can be read."""
    try:
        content = json.loads((cache_folder() / name).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def update(name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """``change`` applied to what the file holds now, no other process writing between the reading and the writing."""
    path = cache_folder() / name
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = read(name)
            change(content)
            _replace(path, json.dumps(content, indent=1, sort_keys=True))


def _replace(path: Path, text: str) -> None:
    import tempfile  # which takes 2 ms to import, and caches are mostly read

    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)
