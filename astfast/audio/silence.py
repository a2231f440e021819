"""Keeps what libsndfile's MP3 decoder prints about damaged files off the process's standard error.

libmpg123, inside libsndfile, prints lines about each damaged frame, and nothing in libsndfile's interface asks it not
to. Redirecting descriptor 2 meanwhile would lose lines of other threads. Instead the library's own references to
``stderr`` and ``stdout``, in its global offset table, are pointed once at a C stream that discards what is written and
has no descriptor. The process's streams are as they were, for every other library too.

ELF on 64-bit little-endian processors, with ``fopencookie``: Linux with glibc or musl. Elsewhere the lines appear.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np

LIBRARIES = ("libsndfile", "libmpg123")  # soundfile's wheels have the latter in the former
STREAMS = (b"stderr", b"stdout")
BY_SYMBOL = (6, 1025)  # GLOB_DAT of x86-64 and AArch64: relocations that are the address of a symbol
DYNAMIC, RELRO = 2, 0x6474E552  # types of program headers
STRINGS, SYMBOLS, RELOCATIONS, RELOCATION_BYTES = 5, 6, 7, 8  # tags of the dynamic section
SYMBOL_SIZE = 24  # bytes
HEADERS_AT, HEADER_COUNT_AT = 32, 56  # places in the ELF header
HEADER = np.dtype(
    [("type", "u4"), ("flags", "u4"), ("at", "u8"), ("address", "u8"), ("_", "u8"), ("size", "u8"), ("__", "2u8")]
)
RELOCATION = np.dtype([("address", "u8"), ("type", "u4"), ("symbol", "u4"), ("addend", "i8")])

_streams: list[Any] = []  # variables like ``stderr``, which libraries read as long as the process lives


@functools.cache
def silence_decoders() -> int:
    """The number of references of loaded LIBRARIES to a standard stream, which are redirected at the first call."""
    if not sys.platform.startswith("linux") or sys.maxsize < 1 << 32 or sys.byteorder != "little":
        return 0
    try:
        slots = [slot for base in _loaded() for slot in _slots(base)]
    except OSError:  # no /proc
        return 0
    nowhere = _discarding_stream() if slots else None
    if nowhere is None:
        return 0
    _streams.append(nowhere)
    for address, protected in slots:
        _point(address, ctypes.addressof(nowhere), protected)
    return len(slots)


def _discarding_stream() -> ctypes.c_void_p | None:
    """A variable that holds a C stream without functions: what is written to it is discarded."""

    class Functions(ctypes.Structure):
        _fields_ = [(name, ctypes.c_void_p) for name in ("read", "write", "seek", "close")]

    make = getattr(ctypes.CDLL(None), "fopencookie", None)
    if make is None:
        return None
    make.argtypes, make.restype = [ctypes.c_void_p, ctypes.c_char_p, Functions], ctypes.c_void_p
    stream = make(None, b"w", Functions())
    return ctypes.c_void_p(stream) if stream else None


def _loaded() -> list[int]:
    """Where LIBRARIES are in memory."""
    bases = []
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        addresses, _, offset, _, _, *path = line.split(maxsplit=5)
        if path and path[0].rpartition("/")[2].startswith(LIBRARIES) and int(offset, 16) == 0:
            bases.append(int(addresses.partition("-")[0], 16))
    return bases


def _slots(base: int) -> list[tuple[int, bool]]:
    """(address, whether it is read-only since loading) of every reference of the ELF file at ``base`` to STREAMS."""
    elf = ctypes.string_at(base, 64)
    if not elf.startswith(b"\x7fELF\2\1"):
        return []
    at, count = int.from_bytes(elf[HEADERS_AT:][:8], "little"), int.from_bytes(elf[HEADER_COUNT_AT:][:2], "little")
    headers = _table(base + at, HEADER, count)
    dynamic, protected = (headers[headers["type"] == kind] for kind in (DYNAMIC, RELRO))
    if not len(dynamic):
        return []
    entries = dict(_table(base + int(dynamic["address"][0]), np.dtype("2u8"), int(dynamic["size"][0]) // 16).tolist())
    strings, symbols, table = (
        address if address >= base else base + address  # which glibc has made absolute, and musl has not
        for address in (entries.get(tag, 0) for tag in (STRINGS, SYMBOLS, RELOCATIONS))
    )
    relocations = _table(table, RELOCATION, entries.get(RELOCATION_BYTES, 0) // RELOCATION.itemsize)
    found = []
    for relocation in relocations[np.isin(relocations["type"], BY_SYMBOL)]:
        name = ctypes.c_uint32.from_address(symbols + SYMBOL_SIZE * int(relocation["symbol"])).value
        if ctypes.string_at(strings + name) in STREAMS:
            place = int(relocation["address"])
            inside = (protected["address"] <= place) & (place < protected["address"] + protected["size"])
            found.append((base + place, bool(inside.any())))
    return found


def _table(address: int, dtype: np.dtype[Any], count: int) -> Any:
    return np.frombuffer(ctypes.string_at(address, dtype.itemsize * count), dtype, count)


def _point(slot: int, target: int, protected: bool) -> None:
    """Writes an address into a slot of the global offset table, in one store."""
    page = ctypes.c_void_p(slot // mmap.PAGESIZE * mmap.PAGESIZE)
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if protected and protect(page, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE):
        return
    ctypes.c_uint64.from_address(slot).value = target
    if protected:
        protect(page, mmap.PAGESIZE, mmap.PROT_READ)
