"""Command ``astfast doctor``: backends that can run on this machine, and for the others the reason and the cure."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from astfast.commands.terminal import print_text
from astfast.errors import AstfastError
from astfast.version import __version__

PACKAGES = (
    "numpy",
    "soundfile",
    "soxr",
    "huggingface_hub",
    "torch",
    "torchaudio",
    "triton",
    "av",
    "transformers",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's description and arguments."""
    parser.description = (
        "Show the backends that can run on this machine, the reason why others can't, and the versions of packages. "
        "Please attach it to bug reports."
    )


def run(options: argparse.Namespace) -> bool:
    """Prints the report; whether at least one backend can run a model."""
    del options
    text, usable = report()
    print_text(text)
    return usable


def report() -> tuple[str, bool]:
    """The report as text, and whether at least one backend can run a model."""
    from astfast import backends

    reasons = {name: backends.unavailable(name) for name in backends.BACKENDS}
    return "\n".join(_lines(reasons)), None in reasons.values()


def _lines(reasons: dict[str, str | None]) -> Iterator[str]:
    """``reasons``: backend -> why it can't run here, or None."""
    import platform

    from astfast.backends import autotuning_results, module_of

    yield f"astfast {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield ""
    yield "backends"
    for name, reason in reasons.items():
        yield f"  {name:<10} {'ok: ' + ', '.join(module_of(name).precisions()) if reason is None else 'no: ' + reason}"
        if reason is None:
            yield from (f"  {'':<10} {line}" for line in _told(module_of(name).describe))
    for line in _told(_automatic) if None in reasons.values() else ["no backend can run"]:
        yield f"  {'auto':<10} {line}"
    for line in autotuning_results():
        yield from (line,) if line.startswith(" ") else ("", line)
    yield ""
    yield from _told(lambda: list(_cached()))
    yield "packages"
    for name in PACKAGES:
        yield f"  {name:<16} {_version(name)}"
    yield ""
    yield f"built-in model   {_built_in()}"


def _told(tell: Callable[[], list[str]]) -> list[str]:
    """Lines of a report, or why there are none, such as an environment variable that can't be."""
    try:
        return tell()
    except AstfastError as error:
        return [f"no: {error}"]


def _automatic() -> list[str]:
    """The backend and precision of ``load()`` without arguments."""
    from astfast import backends
    from astfast.engines.auto_precision import TOLERANCE

    choice = backends.choose()
    precision = choice.fastest_precision()
    fallback = "" if precision == "float32" else f" (float32 if scores differ by more than {TOLERANCE:g})"
    return [f"backend {choice.backend}, precision {precision}{fallback}"]


def _cached() -> Iterator[str]:
    """What was seen of precisions on this machine, and the packed weights; nothing where there is neither."""
    from astfast import cache_files
    from astfast.engines import auto_precision
    from astfast.environment import packed_cache_bytes

    if seen := auto_precision.known():
        yield from ("precisions of models here", *(f"  {line}" for line in seen), "")
    limit = packed_cache_bytes() / 1e6  # an error where the variable is none
    if entries := cache_files.entries():
        listed = (f"  {entry.about}: {entry.size / 1e6:.0f} MB" for entry in entries)
        yield from (f"packed weights (at most {limit:.0f} MB)", *listed, "")


def _version(name: str) -> str:
    import importlib.metadata  # 20 ms, which other commands would pay too

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _built_in() -> str:
    from astfast.models import recognise

    try:
        config = recognise.load(None).config
    except AstfastError as error:
        return f"no: {error}"
    rate = config.front_end.sampling_rate
    return f"ok: {config.num_labels} labels, {config.front_end.input_samples / rate:.1f} s of audio at {rate} Hz"
