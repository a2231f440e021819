"""``astfast doctor``: what this machine can run, and for what it can't, why not and what to do."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator

from astfast import backends
from astfast.backends.cuda import backend as cuda_backend
from astfast.errors import AstfastError
from astfast.models import recognise as checkpoint
from astfast.version import __version__

PACKAGES = (
    "numpy",
    "soundfile",
    "soxr",
    "safetensors",
    "huggingface_hub",
    "torch",
    "torchaudio",
    "triton",
    "torchcodec",
)


def report() -> tuple[str, bool]:
    """(the report as text, whether at least one backend can run a model)."""
    usable = [name for name in backends.BACKENDS if backends.unavailable(name) is None]
    return "\n".join(_lines(usable)), bool(usable)


def _lines(usable: list[str]) -> Iterator[str]:
    yield f"astfast {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield ""
    yield "backends"
    for name in backends.BACKENDS:
        reason = backends.unavailable(name)
        yield f"  {name:<10} {'ok' if reason is None else 'no: ' + reason}"
        if name == "cpu" and reason is None:
            from astfast.backends.cpu.backend import describe

            yield from (f"  {'':<10} {line}" for line in describe())
    yield f"  auto takes  {_automatic() if usable else 'nothing: no backend can run'}"
    for line in cuda_backend.describe():
        if not line.startswith(" "):
            yield ""
        yield line
    yield ""
    yield "packages"
    for name in PACKAGES:
        yield f"  {name:<16} {_version(name)}"
    yield ""
    yield f"built-in model   {_built_in()}"


def _automatic() -> str:
    choice = backends.choose()
    return f"{choice.backend}, at most as imprecise as {choice.fastest_precision()}"


def _version(name: str) -> str:
    if name in sys.modules and hasattr(sys.modules[name], "__version__"):
        return str(sys.modules[name].__version__)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _built_in() -> str:
    try:
        config = checkpoint.load(None).config
    except AstfastError as error:
        return f"no: {error}"
    seconds = config.front_end.input_samples / config.front_end.sampling_rate
    return f"ok: {config.num_labels} labels, {config.num_tokens} tokens, {seconds:.1f} s at a time"
