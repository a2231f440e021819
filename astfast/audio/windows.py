"""Long audio -> windows of a fixed length, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.resampling import Rates
from astfast.spans import SHORTEST_WINDOW, ignored_tail

FloatArray = NDArray[np.float32]
LONGEST = 1e9  # seconds: as good as any longer window, which is all of a clip


@dataclass(frozen=True)
class Window:
    """A part of a clip: times in seconds from the clip's start, and its samples."""

    start: float
    end: float
    wave: NDArray[Any]  # [samples]; float32, or int16 where the model takes that
    channel: int | None = None  # number of the one that it is of, where each is read by itself

    @classmethod
    def of_times(cls, start: float, end: float) -> Window:
        """A window without its samples, which can be large."""
        return cls(start, end, np.empty(0, np.float32))

    def without_samples(self) -> Window:
        """The same window without its samples."""
        return Window(self.start, self.end, self.wave[:0].copy(), self.channel)


def windows(blocks: Iterable[FloatArray], rate: int, window: float, hop: float | None = None) -> Iterator[Window]:
    """Blocks of a clip at ``rate`` Hz -> its windows of ``window`` seconds, one every ``hop`` (default: ``window``).

    Windows start at 0, hop, 2 hop, ... The first one that the clip's end would cut off is moved back to end with the
    clip, unless the window before it got that far already, to within a frame (10 ms); so every window of a clip that
    is long enough is full, and no longer tail is left out. A clip shorter than a window is one window, as short as it
    is. At most one window and one block are held at a time.

    Raises ValueError for a window or hop that is not a number of seconds, or shorter than a frame (25 ms).
    """
    size, step = window_samples(rate, window, hop)
    return _windows(blocks, size, step, rate)


def is_number(x: Any) -> bool:
    """Whether an option is a finite real number."""
    if not isinstance(x, Real) or isinstance(x, bool):
        return False
    try:
        return math.isfinite(x)
    except OverflowError:  # an integer beyond any float
        return False


def is_whole(x: Any) -> bool:
    """Whether an option is a whole number of at least 1."""
    return isinstance(x, Integral) and not isinstance(x, bool) and int(x) >= 1


def window_samples(rate: int, window: float, hop: float | None = None) -> tuple[int, int]:
    """(window, hop) in samples; raises ValueError for one that is not finite, or shorter than a frame."""
    hop = window if hop is None else hop
    for what, seconds in (("window", window), ("hop", hop)):
        if not (is_number(seconds) and seconds >= SHORTEST_WINDOW):
            raise ValueError(f"{what} is {seconds!r}: it must be a number of seconds, {SHORTEST_WINDOW} or more")
    return round(min(window, LONGEST) * rate), round(min(hop, LONGEST) * rate)


def _windows(blocks: Iterable[FloatArray], size: int, step: int, rate: int) -> Iterator[Window]:
    parts: list[FloatArray] = []  # samples [first, end) of the clip
    first = end = 0
    spare = int(isinstance(rate, Rates))
    start = reached = 0  # where the next window starts, where the last one ended
    for block in blocks:
        parts.append(block)
        end += len(block)
        if end < start + size:
            continue
        held = np.concatenate(parts)
        while start + size <= end:
            yield Window(start / rate, (start + size) / rate, held[start - first : start - first + size].copy())
            reached = start + size
            start += step
        keep = min(start, max(0, end - size - spare))  # a last window that is moved back may begin this early
        parts, first = [held[keep - first :].copy()], keep
    if not reached or max(start, reached) < end - ignored_tail(rate):
        begin = max(0, end - size)
        held = np.concatenate(parts)
        last = rate.last(held, size) if isinstance(rate, Rates) else held[begin - first :]
        yield Window(begin / rate, end / rate, last)
