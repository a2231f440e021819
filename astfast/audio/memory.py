"""Memory of samples that is used again once nobody holds it: fresh pages cost as much as decoding some formats."""

from __future__ import annotations

import sys
import threading

import numpy as np
from numpy.typing import NDArray

KEPT = 2  # arrays of a thread: a block of a file's channels, and their mean
HELD_BY_US = 3  # references to an array that is free: the list's, a local name, that of the count itself


class _Arrays(threading.local):
    def __init__(self) -> None:
        self.kept: list[NDArray[np.float32]] = []


_arrays = _Arrays()


def empty(values: int) -> NDArray[np.float32]:
    """So many values of undefined content; the array below them is at most twice as large, however long it is held."""
    for array in _arrays.kept:
        if values <= len(array) <= 2 * values and sys.getrefcount(array) <= HELD_BY_US:
            return array[:values]
    array = np.empty(values, np.float32)
    _arrays.kept = [*_arrays.kept, array][-KEPT:]
    return array[:values]
