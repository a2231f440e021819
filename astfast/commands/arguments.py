"""Command-line arguments: types and choices that commands share, and the library's messages in words of options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterator
from typing import Any

from astfast.pcm import LIVE

MODEL_HELP = (
    "name that `astfast models` lists, hub id, folder, .safetensors, .pt or .pth file (default: the built-in model)"
)

OTHER_MEANINGS = {"labels"}  # options that are not the keyword of the same name: tag --labels chooses among labels
OTHER_WORDS = {"on_damage='warn'": "no --strict"}
PYTHON_ONLY = (  # keywords of ``load`` and ``convert`` in the cures of messages
    *("labels", "num_attention_heads", "mean", "std", "frequency_stride", "time_stride", "max_length", "batch_size"),
    *("threads", "replicas", "backend", "dtype", "sampling_rate", "hop_length", "problem_type"),
)


def number(text: str) -> float:
    """A positive, finite number, for ``type=`` of an argument."""
    value = _parsed(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def count(text: str) -> int:
    """A whole number of at least 1, for ``type=`` of an argument."""
    if not _is_whole(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def whole(text: str) -> int:
    """A whole number of at least 0, for ``type=`` of an argument."""
    if not _is_whole(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def duration(text: str) -> float:
    """A finite number of at least 0, for ``type=`` of an argument."""
    value = _parsed(text)
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def channel(text: str) -> str | int:
    """A channel of ``Tagger.classify``, for ``type=`` of an argument."""
    if text in ("mean", "max", "each"):
        return text
    if not _is_whole(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not mean, max, each or the number of a channel from 0")
    return int(text)


def reading(options: argparse.Namespace) -> dict[str, Any]:
    """Keywords of ``Tagger.classify`` for --channel, --strict and --max-duration."""
    keywords = {"channel": options.channel, "on_damage": "error" if options.strict else "warn"}
    return keywords if options.max_duration is None else keywords | {"max_duration": options.max_duration}


def names(text: str) -> list[str]:
    """Names with commas between, for ``type=`` of an argument."""
    return [name.strip() for name in text.split(",")]


def score(text: str, most: float = 1) -> float:
    """A number from 0 to ``most``, for ``type=`` of an argument."""
    value = _parsed(text)
    if not 0.0 <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {most}")
    return value


def merging(text: str) -> float:
    """``token_merging`` of ``load``, for ``type=`` of an argument."""
    from astfast.models.token_merging import MOST  # with the models, which a command line without it waits for later

    return score(text, MOST)


def replicas(text: str) -> int | str:
    """Replicas of ``load``, for ``type=`` of an argument."""
    return text if text == "auto" else count(text)


def device(text: str) -> str | list[str]:
    """A device, or several with commas between, for ``type=`` of an argument."""
    return names(text) if "," in text else text


def _is_whole(text: str) -> bool:
    """Digits of a number that 64 bits hold."""
    return text.isascii() and text.isdecimal() and len(text) <= 18


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


def add_device_and_precision(parser: argparse.ArgumentParser) -> None:
    """Adds ``--device`` and ``--precision``, as ``load`` takes them."""
    parser.add_argument(
        "--device",
        type=device,
        default="auto",
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:N, or several GPUs with commas between (default: auto)",
    )
    parser.add_argument(
        "--precision",
        choices=Precisions("cpu", "cuda", extra=("auto",)),
        default="auto",
        metavar="PRECISION",
        help="%(choices)s; a backend has some of these, see astfast doctor (default: auto)",
    )


def add_threads_and_replicas(parser: argparse.ArgumentParser) -> None:
    """Adds ``--threads`` and ``--replicas``, as ``load`` takes them."""
    parser.add_argument(
        "--threads", type=count, metavar="N", help="on a CPU (default: ASTFAST_NUM_THREADS, else one a physical core)"
    )
    parser.add_argument(
        "--replicas",
        type=replicas,
        metavar="N",
        help="engines on a CPU that share a batch and the weights, on cores of their own; auto: one a third-level "
        "cache or NUMA node (default: one engine on all cores)",
    )


def loading(options: argparse.Namespace) -> dict[str, Any]:
    """Keywords of ``load`` for --device, --precision, --token-merging, --threads and --replicas."""
    return {name: getattr(options, name) for name in ("device", "precision", "token_merging", "threads", "replicas")}


def in_options(message: object, options: argparse.Namespace) -> str:
    """A message of the library in words of this command: ``window=`` is ``--window``. Names that were given stay.

    A keyword that is no option of this command is said to be one of the Python function.
    """
    given = [word for value in vars(options).values() for word in (value if isinstance(value, list) else [value])]
    kept = "|".join(re.escape(word) for word in given if isinstance(word, str) and "=" in word)
    text = str(message).replace(LIVE, "-", 1)  # which --raw reads
    parts = re.split(f"({kept})", text) if kept else [text]
    known = vars(options).keys() - OTHER_MEANINGS
    parts[::2] = [_keywords_as_options(part, known) for part in parts[::2]]
    return "".join(parts)


def _keywords_as_options(message: str, known: Collection[str]) -> str:
    def option(match: re.Match[str]) -> str:
        keyword, value = match.groups()
        if match[0] in OTHER_WORDS:
            return OTHER_WORDS[match[0]]
        if keyword not in known:
            return f"{match[0]} (in Python)" if keyword in PYTHON_ONLY else match[0]
        return f"--{keyword.replace('_', '-')}" + ("" if value in ("", "True") else f" {value.strip(chr(39))}")

    words = re.sub(r"(?<![^\s(])([a-z]\w*)=('[^']*'|\w*)", option, message)
    name, separator, rest = words.partition(" is ")  # "window is 0: it must be ..."
    return f"--{name.replace('_', '-')} is {rest}" if separator and name in known else words
