"""What astfast raises. Every message names the input, what is wrong with it and what to do."""

from __future__ import annotations

import reprlib


def brief(value: object) -> str:
    """repr of a value for a message: of bounded length and depth, whatever a file put there."""
    limits = reprlib.Repr()
    limits.maxstring = limits.maxother = 120
    try:
        text = limits.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}…"


def brief_name(name: str) -> str:
    """A name that a file gives, for a message: control characters escaped, cut where it is long."""
    return brief(name)[1:-1]


class AstfastError(Exception):
    """Base class of every error that astfast raises on purpose."""


class AudioError(AstfastError, ValueError):
    """An audio input can't be used: not decodable, empty, wrong shape, dtype or rate, not finite."""


class CheckpointError(AstfastError):
    """A checkpoint can't be found, read or mapped to a model."""


class BackendError(AstfastError):
    """A backend, device or precision that was asked for can't run on this machine."""


class UnsupportedModel(BackendError):
    """A backend has no code for a kind of model that another one runs."""


class OutputError(AstfastError):
    """An output folder can't be written, or belongs to another run."""
