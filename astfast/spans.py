"""Where the parts of a clip lie that a model hears one by one: the shortest part, and the tail that needs none."""

from __future__ import annotations

SHORTEST_WINDOW = 0.025  # seconds: one frame; anything below is another unit, or a slip
IGNORED_TAIL = 0.010  # seconds: one step from frame to frame. A clip so much longer than a window has no second one.


def ignored_tail(rate: int) -> int:
    """IGNORED_TAIL in samples."""
    return int(rate * IGNORED_TAIL)


def starts_of_parts(samples: int, size: int, rate: int) -> list[int]:
    """Starts of the parts of ``size`` samples that cover a clip of ``samples``, side by side.

    The last one is moved back to end with the clip, so that all are full; a clip that is no longer than ``size`` (or
    only by an ignored tail) is one part.
    """
    starts = list(range(0, max(samples - size, 0) + 1, size))
    if samples - (starts[-1] + size) > ignored_tail(rate):
        starts.append(samples - size)
    return starts
