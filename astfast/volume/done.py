"""Which inputs a run is done with: the index of each part of the journal, and all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from astfast.volume.items import digest

# One input of a part: digests of its id and of id and stamp, as two numbers each; whether it failed or has warnings.
ENTRY = np.dtype([("id", "<u8", 2), ("key", "<u8", 2), ("failed", "u1"), ("warned", "u1")])
Entries = NDArray[np.void]


def entry(id: str, stamp: str, failed: bool, warned: bool) -> bytes:
    """The entry of an input in the index of its part."""
    return digest(id) + key(id, stamp) + bytes([failed, warned])


def key(id: str, stamp: str) -> bytes:
    """Stands for an input with this content."""
    return digest(f"{id}\0{stamp}")


class Done:
    """The inputs of some entries: 16 bytes each, for there may be a hundred million."""

    def __init__(self, entries: Entries) -> None:
        keys = entries["key"]
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        self._first, self._second = keys[order, 0], keys[order, 1]

    def __contains__(self, wanted: bytes) -> bool:
        first, second = np.frombuffer(wanted, "<u8")
        at = int(self._first.searchsorted(first))
        while at < len(self._first) and self._first[at] == first:
            if self._second[at] == second:
                return True
            at += 1
        return False


def superseded(parts: Sequence[Entries]) -> list[NDArray[np.bool_]]:
    """For each part, in the order in which they were written, which entries a later one of the same id replaces."""
    lengths = [len(part) for part in parts]
    if not sum(lengths):
        return [np.zeros(length, bool) for length in lengths]
    ids = np.concatenate([part["id"] for part in parts])
    newest_first = np.ascontiguousarray(ids[::-1]).view("V16")[:, 0]
    _, last = np.unique(_sortable(newest_first), return_index=True)
    old = np.ones(len(ids), bool)
    old[len(ids) - 1 - last] = False
    return np.split(old, np.cumsum(lengths)[:-1])


def _sortable(ids: NDArray[np.void]) -> NDArray[np.void]:
    return ids.view([("first", "<u8"), ("second", "<u8")])


def failed(entries: Entries, newest: int) -> set[bytes]:
    """The ids, as digests, of inputs whose newest entry says that they failed; only the ``newest`` last entries may
    replace others."""
    split = len(entries) - newest
    before, after = entries[:split], entries[split:]
    found = {row.tobytes() for row in before["id"][before["failed"] != 0]}
    for row in after:
        (found.add if row["failed"] else found.discard)(row["id"].tobytes())
    return found


def of_bytes(entries: bytes) -> Entries:
    """Entries that were written one after the other."""
    return np.frombuffer(entries, ENTRY)


def join(parts: Iterable[Entries]) -> Entries:
    """The entries of several parts."""
    return np.concatenate([np.empty(0, ENTRY), *parts])
