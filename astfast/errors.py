"""What astfast raises. Every message names the input, what is wrong with it and what to do."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sized
from functools import cache
from typing import Literal, TypeAlias


def brief(value: object) -> str:
    """repr of a value for a message: of bounded length and depth, whatever a file put there."""
    try:
        text = _bounded().repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}…"


@cache
def _bounded() -> reprlib.Repr:
    limits = reprlib.Repr()
    limits.maxstring = limits.maxother = 120  # characters
    return limits


def brief_name(name: str) -> str:
    """A name that a file gives, for a message: control characters escaped, cut where it is long."""
    return brief(name)[1:-1]


def listed(names: Iterable[str], count: int = 4) -> str:
    """The first ``count`` names that a file gives, for a message."""
    known = [*names]
    return ", ".join(map(brief_name, known[:count])) + (", …" if len(known) > count else "")


def counted(names: Sized, noun: str) -> str:
    """Their number with the noun: "1 tensor", "2 tensors"."""
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"


class AstfastError(Exception):
    """Base class of every error that astfast raises on purpose."""


ErrorKind: TypeAlias = Literal[
    "missing",  # there is no such file
    "unreadable",  # no permission, a folder, an archive or connection that broke
    "empty",  # no bytes or no samples
    "undecodable",  # no audio, or nothing of it decodes
    "unsupported",  # needs a package or an option that the message names
    "damaged",  # in part, and on_damage="error"
    "too_long",  # more than max_duration
    "not_finite",  # NaN, infinity or beyond any audio
    "invalid",  # another type, shape, sampling rate, channel or part than an input can have
    "killed",  # the process that tagged it ended
]


class AudioError(AstfastError, ValueError):
    """An audio input can't be used. ``kind`` says in one word why: one of ``ErrorKind``."""

    def __init__(self, message: str, *, kind: ErrorKind = "invalid") -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind


class CheckpointError(AstfastError):
    """A checkpoint can't be found, read or mapped to a model."""


class BackendError(AstfastError):
    """A backend, device or precision that was asked for can't run on this machine."""


class UnsupportedModel(BackendError):
    """A backend has no code for a kind of model that another one runs."""


class OutputError(AstfastError):
    """An output folder can't be written, or belongs to another run."""
