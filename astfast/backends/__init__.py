"""Backends: implementations of the Ops protocol, and the one place that chooses between them.

A backend is chosen once, when a model is loaded. Each has a module with the functions of ``Backend``; nothing else of a
backend is imported before it is chosen.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from astfast import notes
from astfast.environment import MAX_THREADS, cpu_tier
from astfast.errors import BackendError
from astfast.notes import Note
from astfast.ops import Ops

MODULES = {
    "cpu": "astfast.backends.cpu.backend",
    "cuda": "astfast.backends.cuda.backend",
    "reference": "astfast.backends.reference",
}
NEEDED = {"cpu": {}, "cuda": {"torch": "PyTorch", "triton": "Triton"}, "reference": {"torch": "PyTorch"}}
BACKENDS = tuple(MODULES)


class Backend(Protocol):
    """The functions that every backend's module has."""

    def unavailable(self, device: str | list[str] = "auto") -> str | None:
        """Why the backend can't run on this machine and what to do about it; None if it can."""
        ...

    def precisions(self) -> tuple[str, ...]:
        """Names of all precisions that it computes in."""
        ...

    def fastest_precision(self) -> str:
        """The fastest 16-bit precision that this machine computes natively, else float32."""
        ...

    def describe(self) -> list[str]:
        """Lines of a report on how it runs here; called only where it is available."""
        ...

    def open(self, num_heads: int, precision: str, device: str, threads: int | None, deterministic: bool) -> Ops:
        """The ops for a model with so many attention heads. Raises BackendError for what can't run here."""
        ...


def module_of(backend: str) -> Backend:
    """The module of a backend. Raises ImportError where its packages are missing, see ``unavailable``."""
    return cast(Backend, importlib.import_module(MODULES[backend]))


def autotuning_results() -> list[str]:
    """Lines of a report on which GPU ops run on kernels, found by earlier runs; no GPU and no torch is needed."""
    lines: list[str] = importlib.import_module(MODULES["cuda"]).results()
    return lines


class Choice(NamedTuple):
    """The backend and devices that ``choose`` decided on: enough to open it for any model and precision."""

    backend: str
    device: str | list[str]
    threads: int | None

    @property
    def devices(self) -> list[str]:
        """The devices that share a batch: one, but for a list of GPUs."""
        return [self.device] if isinstance(self.device, str) else list(self.device)

    def precisions(self) -> tuple[str, ...]:
        """Names of all precisions of the backend."""
        return module_of(self.backend).precisions()

    def fastest_precision(self) -> str:
        """The fastest 16-bit precision that this hardware computes natively, else float32."""
        return module_of(self.backend).fastest_precision()

    def open(self, num_heads: int, precision: str, device: str | None = None, deterministic: bool = False) -> Ops:
        """The ops for a model with so many attention heads, on one of ``devices`` (default: the first).

        ``deterministic`` concerns GPUs: no kernel is chosen by its time, and a clip's bits do not depend on its batch;
        the other backends are so anyway. Raises BackendError for a precision that the backend doesn't have.
        """
        if precision not in self.precisions():
            known = ", ".join(self.precisions())
            raise BackendError(
                f"the {self.backend} backend has no precision {precision!r}: use one of {known}, or auto"
            )
        device = device or self.devices[0]
        return module_of(self.backend).open(num_heads, precision, device, self.threads, deterministic)


def gpu_present() -> bool:
    """Whether this machine shows an NVIDIA or AMD GPU; asks no driver, so that it is safe before a fork."""
    return any(Path(node).exists() for node in ("/dev/nvidia0", "/dev/dxg", "/dev/kfd"))


def unavailable(backend: str, device: str | list[str] = "auto") -> str | None:
    """Why a backend can't run on this machine, and what to do about it; None when it can."""
    for package, name in NEEDED[backend].items():
        if importlib.util.find_spec(package) is None:
            return f"{name} is not installed: pip install 'astfast[{backend}]'"
    return module_of(backend).unavailable(device)


def choose(backend: str = "auto", device: str | list[str] = "auto", threads: int | None = None) -> Choice:
    """The backend that the arguments mean on this machine.

    "auto" takes the GPU when there is one that can be used, else the native CPU engine, else (with a warning) the
    reference. Raises BackendError, with the reasons, for one asked for by name that can't run.
    """
    names = list(device) if isinstance(device, (list, tuple)) else [device]
    if not names or not all(isinstance(name, str) for name in names):
        raise BackendError(f"device is {device!r}: use auto, cpu, cuda, cuda:N, or a list of cuda devices")
    for name in names:
        if not re.fullmatch(r"cuda(:\d+)?" if len(names) > 1 else r"auto|cpu|cuda(:\d+)?", name):
            raise BackendError(f"device {name!r} is unknown: use auto, cpu, cuda, cuda:N, or a list of cuda devices")
    device_type = names[0].split(":")[0]
    if backend not in ("auto", *BACKENDS):
        raise BackendError(f"backend {backend!r} is unknown: use auto, {', '.join(BACKENDS)}")
    if {"cpu": "cuda", "cuda": "cpu"}.get(backend) == device_type:
        raise BackendError(f"the {backend} backend does not run on device {device!r}: leave one of the two at auto")
    if len(names) > 1 and backend not in ("auto", "cuda"):
        raise BackendError(f"the {backend} backend runs on one device, not on {len(names)}: only cuda shares a batch")
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MAX_THREADS):
        raise BackendError(
            f"threads is {threads!r}: it must be a whole number from 1 to {MAX_THREADS}, or None for all cores"
        )

    if backend == "auto":
        backend = _automatic(device_type)
    reason = unavailable(backend, device)
    if reason is not None:
        raise BackendError(f"the {backend} backend can't run here: {reason}")
    if device == "auto":
        device = "cuda" if backend == "cuda" else "cpu"
    return Choice(backend, device, threads)


def _automatic(device_type: str) -> str:
    """The backend for device "auto", "cpu" or "cuda". Warns if a faster backend exists but can't run, unless that is
    for a wish of ASTFAST_CPU_TIER, which then is an error."""
    if device_type == "cuda":
        return "cuda"
    if device_type == "auto" and gpu_present():
        reason = unavailable("cuda")
        if reason is None:
            return "cuda"
        notes.show(Note(f"GPU found but not used: {reason}; running on the CPU"))
    reason = unavailable("cpu")
    if reason is None:
        return "cpu"
    if cpu_tier() is None and unavailable("reference") is None:
        notes.show(Note(f"using the slow PyTorch reference, since the native CPU engine can't run: {reason}"))
        return "reference"
    return "cpu"
