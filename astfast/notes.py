"""Warnings of a call, shown at the caller's own line.

Inputs are read on other threads, whose stacks don't lead to the caller. So a warning travels as a Note, and is shown on
the thread of the call, at the first line outside of astfast.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

PACKAGE = __name__.split(".")[0]

_shown: set[Note] = set()
_gathered: dict[Note, None] | None = None
_shown_at: dict[tuple[str, int, str], object] = {}  # file, line and kind -> the warning filters of that time


class Note(NamedTuple):
    """A warning that is to be shown.

    - ``once``: only once a process, whatever the warning filters.
    - ``kind``: only the first one of its kind at each line of the caller, until the warning filters are changed.
    """

    message: str
    once: bool = False
    kind: str = ""


@contextmanager
def gathered() -> Iterator[dict[Note, None]]:
    """Context in which notes of a kind are collected, each once, in the place of being shown."""
    global _gathered  # noqa: PLW0603
    before, _gathered = _gathered, {}
    try:
        yield _gathered
    finally:
        _gathered = before


def show(note: Note, category: type[Warning] = UserWarning) -> None:
    """Issues a warning at the line outside of astfast that the current call came from."""
    if note.kind and _gathered is not None:
        _gathered[note] = None
        return
    if note.once:
        if note in _shown:
            return
        _shown.add(note)
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] == PACKAGE:
        frame = frame.f_back
    if note.kind:
        place = (frame.f_code.co_filename, frame.f_lineno, note.kind)
        if _shown_at.get(place) is warnings.filters:
            return
        _shown_at[place] = warnings.filters
    warnings.warn_explicit(
        f"{note.message} (shown for the first such input of a calling line)" if note.kind else note.message,
        category,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=frame.f_globals.get("__name__"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )
