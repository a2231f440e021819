"""Decoding in processes, which share memory with this one: their Python doesn't hold up the model's."""

from __future__ import annotations

import math
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from astfast.audio.descriptors import memory_file
from astfast.audio.prefetch import Part, ReadOptions
from astfast.audio.windows import Window
from astfast.errors import AudioError, BackendError
from astfast.volume.decoder_process import MAIN, SLOT_BYTES, SLOTS, Reply, Request
from astfast.volume.decoders import Slice, decoded
from astfast.volume.inputs import Stream
from astfast.volume.remote import Remote

DEATHS = 2  # of processes over one input, which fails then
SENT_AHEAD = 1 << 15  # bytes of an input; a larger one is sent when the process waits for it, so that none blocks
ENDING = 1.0  # seconds that a process has to end by itself


class Running(NamedTuple):
    """A process, and what it shares with this one."""

    process: subprocess.Popen[bytes]
    connection: Connection
    memory: mmap.mmap

    def end(self) -> str:
        """Ends it; how it ended."""
        self.connection.close()
        try:
            status = self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"


class InProcess:
    """A decoder in a process of its own, which goes on to the next input while a slice of the last one is taken.

    The memory that they share has no name, so that nothing of it is left however either ends. A process that dies (a
    crash in a decoder, the system for lack of memory) is started anew, and goes on behind the windows that were taken;
    an input over which two have died without getting on fails. It ends when this process does, however that ends: its
    connection closes.
    """

    depth = SLOTS

    def __init__(self, options: ReadOptions, stopped: Callable[[], bool]) -> None:
        self._options, self._stopped = options, stopped
        self._running: Running | None = None
        self._slot = 0  # of the next reply
        self._begun: deque[Stream] = deque()
        self._sent = 0  # of those, how many the process has
        self._open: set[int] = set()  # numbers of inputs that the process has open
        self._owned: set[int] = set()  # of inputs that were begun here and have not ended
        self._deaths: dict[int, int] = {}  # of processes, by number of the input

    @property
    def waiting(self) -> int:
        return len(self._begun)

    def owns(self, stream: Stream, /) -> bool:
        return stream.input.number in self._owned

    def begin(self, stream: Stream) -> None:
        self._owned.add(stream.input.number)
        self._begun.append(stream)
        self._send()

    def take(self) -> Slice:
        found = None
        while found is None and not self._stopped():
            found = self._taken(self._begun[0])
        if found is None:
            return Slice(self._begun.popleft(), [], False, True, 0.0)
        self._begun.popleft()
        number = found.stream.input.number
        self._deaths.pop(number, None)  # it got on
        if found.is_last:
            self._owned.discard(number)
            self._open.discard(number)
        self._send()
        return found

    def stop(self) -> None:
        running = self._running
        if running is not None:
            running.process.kill()

    def close(self) -> None:
        if self._running is not None:
            self._running.end()
            self._running = None

    def _taken(self, stream: Stream) -> Slice | None:
        """The next slice of the first input; None to try again with another process."""
        if not _can_be_sent(stream):
            return decoded(stream, self._stopped)
        self._send()
        if self._running is None:  # stopped
            return None
        try:
            reply: Reply = self._running.connection.recv()
        except (EOFError, OSError):
            return None if self._stopped() else self._after_death(stream)
        self._sent -= 1
        return self._slice(stream, reply, self._running.memory)

    def _send(self) -> None:
        """Hands over what the process can take without blocking this one."""
        while self._sent < len(self._begun) and not self._stopped():
            stream = self._begun[self._sent]
            if not _can_be_sent(stream) or (self._sent and _is_large(stream)):
                return
            if self._running is None:
                self._start()
                continue
            number = stream.input.number
            request = Request(number, None if number in self._open else stream.input.item, stream.taken)
            self._open.add(number)
            self._sent += 1
            try:
                self._running.connection.send(request)
            except OSError:  # it has died, which ``take`` finds out
                return

    def _start(self) -> None:
        """Starts the process. Raises BackendError if it can't be started."""
        reason = ""
        for _ in range(DEATHS):
            try:
                self._running = running = _started()
            except OSError as error:
                reason = str(error)
                continue
            try:
                running.connection.recv()
                running.connection.send(self._options)
            except (EOFError, OSError):
                reason = running.end()
                self._running = None
                if self._stopped():
                    return
                continue
            self._slot = 0
            return
        raise BackendError(f"a process that decodes can't be started ({reason}): pass decoding='threads'")

    def _after_death(self, stream: Stream) -> Slice | None:
        """Forgets a process that has died; the failure of the input that it was at, if that is given up."""
        assert self._running is not None
        reason = self._running.end()
        self._running = None
        self._sent = 0
        self._open.clear()
        number = stream.input.number
        deaths = self._deaths[number] = self._deaths.get(number, 0) + 1
        if deaths < DEATHS:
            return None
        error = AudioError(
            f"{stream.input.item.file}: {DEATHS} processes that decoded it died, one after the other ({reason}): look "
            "at it by itself",
            kind="killed",
        )
        return Slice(stream, [Part(number, error, True)], False, True, 0.0)

    def _slice(self, stream: Stream, reply: Reply, memory: mmap.mmap) -> Slice:
        input_ = stream.input
        input_.seconds, input_.duration, input_.cut, input_.warnings = reply.state
        at = self._slot * SLOT_BYTES
        self._slot = (self._slot + 1) % SLOTS
        parts: list[Part] = []
        for start, end, channel, shape, sent in reply.windows:
            wave = sent
            if sent is None:
                wave = np.frombuffer(memory, np.float32, math.prod(shape), at).reshape(shape).copy()
                at += wave.nbytes
            parts.append(Part(input_.number, Window(start, end, wave, channel), False))
        if reply.error is not None:
            message, kind = reply.error
            parts.append(Part(input_.number, AudioError(message, kind=kind), True))
        elif reply.is_last:
            parts[-1] = parts[-1]._replace(is_last=True)
        is_first = stream.is_new
        stream.taken += len(reply.windows)
        return Slice(stream, parts, is_first, reply.is_last, reply.seconds)


def _can_be_sent(stream: Stream) -> bool:
    """Whether another process can read an input: no open file, decoder or array of this one."""
    return isinstance(stream.input.item.audio, str | bytes | Remote)


def _is_large(stream: Stream) -> bool:
    audio = stream.input.item.audio
    return isinstance(audio, bytes) and len(audio) > SENT_AHEAD


def _started() -> Running:
    """A process that decodes. It imports this package from where this process did, and nothing of the main program."""
    file = memory_file("<shared memory>")
    ours, theirs = socket.socketpair()
    try:
        os.ftruncate(file.fd, SLOTS * SLOT_BYTES)
        fds = theirs.fileno(), file.fd
        # In a session of its own: Ctrl-C is for the process that runs the model, with which this one ends.
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *map(str, fds), *sys.path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=fds,
            start_new_session=True,
        )
        return Running(process, Connection(ours.detach()), mmap.mmap(file.fd, SLOTS * SLOT_BYTES))
    finally:
        ours.close()
        theirs.close()
        file.close()
