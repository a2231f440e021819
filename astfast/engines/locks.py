"""Locks whose holders may be gone: those of a forked child's parent, and of threads that end with the interpreter."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Protocol


class Locked(Protocol):
    """What has a lock of its own."""

    lock: threading.Lock

    def unlock(self) -> None:
        """Takes a fresh lock, and leaves what the holder of the old one may be writing to."""


_all: weakref.WeakSet[Locked] = weakref.WeakSet()
_left_behind: set[int] = set()  # threads that were there when the interpreter began to exit, but for the one it runs on


def watch(locked: Locked) -> None:
    """Has ``unlock`` called in the child of a fork, which copies locks as they are, and when the interpreter exits:
    daemon threads that are inside of a call by then never come back from it, and other exit handlers may call it."""
    _all.add(locked)


@contextlib.contextmanager
def turn(locked: Locked) -> Iterator[None]:
    """Context in which this thread has the lock.

    A thread that is left behind when the interpreter exits waits for ever: it would not come back from its next kernel,
    and would hold the lock that exit handlers need.
    """
    while True:
        lock = locked.lock
        with lock:
            if lock is not locked.lock:  # taken anew meanwhile
                continue
            if threading.get_ident() not in _left_behind:
                yield
                return
        threading.Event().wait()


def _unlock() -> None:
    for locked in list(_all):
        locked.unlock()


def _leave_behind() -> None:
    _left_behind.update(sys._current_frames().keys() - {threading.get_ident()})
    _unlock()


os.register_at_fork(after_in_child=_unlock)
atexit.register(_leave_behind)
