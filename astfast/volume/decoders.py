"""What decodes the inputs of a run: a thread, or a process (``processes.py``).

A thread of the reader drives each: it hands over inputs by ``begin`` and gets a slice of the first by ``take``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from astfast.audio.prefetch import Part
from astfast.volume.inputs import Stream


class Slice(NamedTuple):
    """The next windows of an input."""

    stream: Stream
    parts: list[Part]
    is_first: bool
    is_last: bool
    seconds: float  # that decoding them took


class Decoder(Protocol):
    """Decodes slices of inputs, one after the other."""

    depth: int  # inputs that may be handed over before the first is taken

    @property
    def waiting(self) -> int:
        """Inputs that were handed over and not taken yet."""
        ...

    def owns(self, stream: Stream, /) -> bool:
        """Whether this decoder can go on with an input."""
        ...

    def begin(self, stream: Stream) -> None:
        """Hands over an input for its next slice."""
        ...

    def take(self) -> Slice:
        """Waits for the slice of the input that was handed over first."""
        ...

    def stop(self) -> None:
        """Lets go of all inputs, from another thread; ``take`` returns soon."""
        ...

    def close(self) -> None:
        """Frees what the decoder holds."""
        ...


class InThread:
    """Decodes on the thread that calls ``take``."""

    depth = 1

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped
        self._begun: list[Stream] = []

    @property
    def waiting(self) -> int:
        return len(self._begun)

    def owns(self, _: Stream, /) -> bool:
        return True

    def begin(self, stream: Stream) -> None:
        self._begun.append(stream)

    def take(self) -> Slice:
        return decoded(self._begun.pop(), self._stopped)

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


def decoded(stream: Stream, stopped: Callable[[], bool]) -> Slice:
    """The next slice of an input, decoded here."""
    is_first, start = stream.is_new, time.perf_counter()
    parts, is_last = stream.advance(stopped)
    return Slice(stream, parts, is_first, is_last, time.perf_counter() - start)
