"""Locks whose holders may be gone: those of a forked child's parent, and of threads that end with the interpreter."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol


class Locked(Protocol):
    """What has a lock of its own."""

    def unlock(self) -> None:
        """Takes a fresh lock, and leaves what the holder of the old one may be writing to."""


_all: weakref.WeakSet[Locked] = weakref.WeakSet()


def watch(locked: Locked) -> None:
    """Has ``unlock`` called in the child of a fork, which copies locks as they are, and when the interpreter exits:
    daemon threads that are inside of a call by then never come back from it, and other exit handlers may call it."""
    _all.add(locked)


def _unlock() -> None:
    for locked in list(_all):
        locked.unlock()


os.register_at_fork(after_in_child=_unlock)
atexit.register(_unlock)
