"""The program of a process that decodes for a run (``processes.py`` is its other end)."""

from __future__ import annotations

import ctypes
import mmap
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from astfast.audio.prefetch import ReadOptions
from astfast.audio.windows import Window
from astfast.errors import AudioError, ErrorKind
from astfast.volume.inputs import Input, Stream
from astfast.volume.items import Item

SLOTS = 2  # slices that may wait to be taken
SLOT_BYTES = 16 << 20  # of a slice's samples; a window that doesn't fit goes through the connection
MAIN = f"import sys; fds = map(int, sys.argv[1:3]); sys.path[:] = sys.argv[3:]; import {__name__} as it; it.main(*fds)"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
KEPT_BYTES = 64 << 20  # of freed memory, for the next file: mapping it anew takes a third of the time of decoding a WAV


class Request(NamedTuple):
    """An input for its next slice."""

    number: int
    item: Item | None  # None: the process has it open
    taken: int  # windows of it that the run has already


class Placed(NamedTuple):
    """A window and where its samples are."""

    start: float
    end: float
    channel: int | None
    shape: tuple[int, ...]  # of the samples
    wave: Any  # the samples, or None where they are in the slot, behind those of the window before


class Reply(NamedTuple):
    """A slice of an input, or its error."""

    windows: list[Placed]
    error: tuple[str, ErrorKind] | None
    is_last: bool
    seconds: float  # that it took
    state: tuple[float, float, bool, list[str]]  # seconds, duration, cut and warnings of the Input


def main(connection_fd: int, memory_fd: int) -> None:
    """Answers requests until the connection closes."""
    connection = Connection(connection_fd)
    memory = mmap.mmap(memory_fd, SLOTS * SLOT_BYTES)
    _keep_freed_memory()
    try:
        connection.send(None)  # it is up
        _serve(connection, memory)
    except (EOFError, OSError):  # the run has ended
        return


def _serve(connection: Connection, memory: mmap.mmap) -> None:
    options: ReadOptions = connection.recv()
    streams: dict[int, Stream] = {}
    slot = 0
    while True:
        request: Request = connection.recv()
        start = time.perf_counter()
        if request.item is not None:
            streams[request.number] = Stream(Input(request.number, request.item), options, request.taken)
        stream = streams[request.number]
        parts, is_last = stream.advance(lambda: False)
        samples = np.frombuffer(memory, np.float32, SLOT_BYTES // 4, slot * SLOT_BYTES)
        slot = (slot + 1) % SLOTS
        placed = _placed([part.window for part in parts if isinstance(part.window, Window)], samples)
        error = next(((str(p.window), p.window.kind) for p in parts if isinstance(p.window, AudioError)), None)
        if is_last:
            del streams[request.number]
        input_ = stream.input
        state = input_.seconds, input_.duration, input_.cut, input_.warnings
        connection.send(Reply(placed, error, is_last, time.perf_counter() - start, state))


def _placed(windows: list[Window], samples: Any) -> list[Placed]:
    """The windows, with their samples written to a slot as far as it has room."""
    found, at = [], 0
    for window in windows:
        length = window.wave.size
        fits = at + length <= len(samples)
        if fits:
            samples[at : at + length] = window.wave.ravel()
            at += length
        found.append(Placed(window.start, window.end, window.channel, window.wave.shape, None if fits else window.wave))
    return found


def _keep_freed_memory() -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES // 2)  # 32 MB, the largest that it takes
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
