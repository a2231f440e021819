"""Parts of a file that are decoded one after the other, and what is said of a file that is not as it should be."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Generator
from typing import NamedTuple, TypeAlias

from astfast.audio.descriptors import BYTES_PER_READ, OpenFile, memory_file, write
from astfast.errors import AudioError
from astfast.notes import Note

VALUES_PER_BLOCK = 1 << 20  # samples times channels that are decoded at a time: 4 MiB of float32
SECONDS_PER_BLOCK = 12.0  # at most; a model's input is one block, each of which waits for the interpreter's lock
LARGEST_COPY = 1 << 25  # bytes of a part that go to memory, where the decoder calls no Python to read them


class Part(NamedTuple):
    """Bytes of a file that a decoder takes for a file of their own."""

    start: int = 0
    end: int | None = None  # None: the file's
    prefix: bytes = b""  # in the place of what stood before ``start``: a header that is right
    skip: int = 0  # samples that were decoded before
    gap: int = 0  # samples of silence in the place of what is lost before it
    is_all: bool = True  # whether it is as long as the whole file, and its header says so
    embeds: bool = False  # whether its decoder reads from a descriptor's position on


class Ended(NamedTuple):
    """How the decoding of a part ended."""

    position: int  # bytes of the file that the decoder has read
    samples: int  # that it gave, those that were skipped included
    declared: int | None  # samples that its header counts
    rate: int  # Hz
    error: str = ""  # why it stopped before its end
    refused: bool = False  # whether it can't be opened


Parts: TypeAlias = Generator[Part, Ended, None]


def samples_per_block(rate: int, channels: int, seconds: float = SECONDS_PER_BLOCK) -> int:
    """Samples of each channel that are decoded at a time, ``seconds`` at most."""
    return max(1, min(VALUES_PER_BLOCK // channels, math.ceil(min(seconds, SECONDS_PER_BLOCK) * rate)))


class Refused(Exception):
    """A decoder can't read a file; the message is its reason."""

    def __init__(self, reason: str, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.seconds = seconds  # that the header counts, if that could be read


class Findings:
    """What is odd about a file: at most one note on what was mended, and one on what is lost.

    With ``strict`` a loss is an AudioError.
    """

    def __init__(self, name: str, notes: list[Note], strict: bool) -> None:
        self.name = name  # of the file, in messages
        self.strict = strict
        self.notes = notes  # for the caller
        self._said: set[str] = set()

    def mended(self, what: str) -> None:
        self._say("mended", what)

    def lost(self, what: str) -> None:
        if self.strict:
            raise AudioError(
                f"{self.name}: {what}: repair it, or pass on_damage='warn' to keep what decodes", kind="damaged"
            )
        self._say("lost", what)

    def _say(self, kind: str, what: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self.notes.append(Note(f"{self.name}: {what}"))


class View(io.RawIOBase):
    """A part of a file as a file object."""

    def __init__(self, file: OpenFile, part: Part) -> None:
        super().__init__()
        self._file, self._prefix = file, part.prefix
        self._start = part.start - len(part.prefix)  # of the file, as if the prefix stood in it
        self._size = (file.size if part.end is None else part.end) - self._start
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._at < len(self._prefix):
            data = self._prefix[self._at : self._at + len(buffer)]
        else:
            count = min(len(buffer), self._size - self._at)
            data = os.pread(self._file.fd, count, self._start + self._at) if count > 0 else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class Source:
    """A part, open for a decoder: ``stream`` is a descriptor or a file object at its beginning."""

    def __init__(self, file: OpenFile, part: Part) -> None:
        end = file.size if part.end is None else part.end
        self.stream: int | View = file.fd
        self._first = part.start - len(part.prefix)  # position in the file of the first byte
        self._copy: OpenFile | None = None
        if end == file.size and not part.prefix and (part.embeds or part.start == 0):
            os.lseek(file.fd, part.start, os.SEEK_SET)
            self._first = 0
        elif end - part.start > LARGEST_COPY:
            self.stream = View(file, part)
        else:
            self._copy = memory_file(file.name)
            self.stream = self._copy.fd
            write(self.stream, part.prefix)
            for at in range(part.start, end, BYTES_PER_READ):
                write(self.stream, os.pread(file.fd, min(BYTES_PER_READ, end - at), at))
            os.lseek(self.stream, 0, os.SEEK_SET)

    def position(self) -> int:
        """Bytes of the file up to which the decoder has read."""
        at = os.lseek(self.stream, 0, os.SEEK_CUR) if isinstance(self.stream, int) else self.stream.tell()
        return self._first + at

    def close(self) -> None:
        if self._copy is not None:
            self._copy.close()
