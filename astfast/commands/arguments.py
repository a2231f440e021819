"""Types and choices of command-line arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

MODEL_HELP = "hub id, folder, .safetensors or .pth file (default: the built-in model)"


def number(text: str) -> float:
    """A positive, finite number, for ``type=`` of an argument."""
    value = _parsed(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def count(text: str) -> int:
    """A whole number of at least 1, for ``type=`` of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def whole(text: str) -> int:
    """A whole number of at least 0, for ``type=`` of an argument."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def duration(text: str) -> float:
    """A finite number of at least 0, for ``type=`` of an argument."""
    value = _parsed(text)
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def names(text: str) -> list[str]:
    """Names with commas between, for ``type=`` of an argument."""
    return [name.strip() for name in text.split(",")]


def score(text: str) -> float:
    """A number from 0 to 1, for ``type=`` of an argument."""
    value = _parsed(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def _parsed(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


class Precisions:
    """Precisions of some backends, for ``choices=`` of an argument; ``extra`` comes before them.

    The backends are imported when a value is checked or help is shown, which keeps ``astfast --version`` quick. Such
    an argument needs a ``metavar``, else argparse reads the choices at once.
    """

    def __init__(self, *backends: str, extra: tuple[str, ...] = ()) -> None:
        self._backends = backends
        self._extra = extra

    def __iter__(self) -> Iterator[str]:
        from astfast.backends import module_of

        found = [precision for backend in self._backends for precision in module_of(backend).precisions()]
        return iter(dict.fromkeys((*self._extra, *found)))
