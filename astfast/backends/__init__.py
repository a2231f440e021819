"""Backends: one Ops protocol, one reference, and here the one place that chooses.

A backend is chosen once, at load, never per call. Each backend module has ``unavailable(device) -> str | None``: why it
can't run here and what to do about it, or None.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from astfast.errors import BackendError
from astfast.ops import Ops

BACKENDS = ("cpu", "cuda", "reference")
PRECISIONS = {
    "cpu": ("float32", "bfloat16", "int8"),
    "cuda": ("float32", "float16", "bfloat16", "float8"),
    "reference": ("float32",),
}
NEEDED = {"cpu": {}, "cuda": {"torch": "PyTorch", "triton": "Triton"}, "reference": {"torch": "PyTorch"}}


@dataclass(frozen=True)
class Choice:
    """What ``choose`` decided: enough to make the backend for any model and precision."""

    backend: str
    device: str | list[str]
    threads: int | None

    @property
    def devices(self) -> list[str]:
        """The devices that share a batch: one, but for a list of GPUs."""
        return [self.device] if isinstance(self.device, str) else list(self.device)

    def make(self, heads: int, precision: str, device: str | None = None, deterministic: bool = False) -> Ops:
        """The backend for a model with so many heads, on one of ``devices`` (default: the first).

        ``deterministic`` concerns GPUs: nothing is chosen by its time there, and a clip's bits do not depend on its
        batch; the other backends are so anyway. Raises BackendError for a precision that the backend doesn't have.
        """
        device = device or self.devices[0]
        if precision not in PRECISIONS[self.backend]:
            known = ", ".join(PRECISIONS[self.backend])
            raise BackendError(
                f"the {self.backend} backend has no precision {precision!r}: use one of {known}, or auto"
            )
        if self.backend == "cpu":
            from astfast.backends.cpu.ops import CpuOps

            return CpuOps(heads, precision, self.threads)
        if self.backend == "cuda":
            from astfast.backends.cuda import backend

            return backend.open(heads, precision, device, self.threads, deterministic)
        from astfast.backends.reference import ReferenceOps

        return ReferenceOps(heads, device=device)

    def fastest_precision(self) -> str:
        """The fastest 16-bit precision that this hardware computes natively, else float32."""
        if self.backend == "reference":
            return "float32"
        module = _module(self.backend)
        return str(module.fastest_precision())


def _module(backend: str) -> ModuleType:
    """The module that has a backend's ``unavailable`` and ``fastest_precision``; imports what it is made of."""
    names = {"cpu": "cpu.ops", "cuda": "cuda.backend", "reference": "reference"}
    return importlib.import_module(f"astfast.backends.{names[backend]}")


def gpu_present() -> bool:
    """Whether this machine shows an NVIDIA or AMD GPU; asks no driver, so that it is safe before a fork."""
    return any(Path(node).exists() for node in ("/dev/nvidia0", "/dev/dxg", "/dev/kfd"))


def unavailable(backend: str, device: str | list[str] = "auto") -> str | None:
    """Why a backend can't run on this machine, and what to do about it; None when it can."""
    for package, name in NEEDED[backend].items():
        if importlib.util.find_spec(package) is None:
            return f"{name} is not installed: pip install 'astfast[{backend}]'"
    module = _module(backend)
    reason: str | None = module.unavailable(device)
    return reason


def choose(backend: str = "auto", device: str | list[str] = "auto", threads: int | None = None) -> Choice:
    """The backend that the arguments mean on this machine.

    "auto" takes the GPU when there is one that can be used, else the native CPU engine, else (with a warning) the
    reference. Raises BackendError, with the reasons, for one asked for by name that can't run.
    """
    names = [device] if isinstance(device, str) else list(device)
    for name in names:
        if not re.fullmatch(r"cuda(:\d+)?" if len(names) > 1 else r"auto|cpu|cuda(:\d+)?", name):
            raise BackendError(f"device {name!r} is unknown: use auto, cpu, cuda, cuda:N, or a list of cuda devices")
    kind = names[0].split(":")[0] if names else "auto"
    if backend not in ("auto", *BACKENDS):
        raise BackendError(f"backend {backend!r} is unknown: use auto, {', '.join(BACKENDS)}")
    if {"cpu": "cuda", "cuda": "cpu"}.get(backend) == kind:
        raise BackendError(f"the {backend} backend does not run on device {device!r}: leave one of the two at auto")
    if len(names) > 1 and backend not in ("auto", "cuda"):
        raise BackendError(f"the {backend} backend runs on one device, not on {len(names)}: only cuda shares a batch")
    if threads is not None and threads < 1:
        raise BackendError(f"threads is {threads}: it must be at least 1, or None for all cores")

    if backend == "auto":
        backend = _best(kind)
    reason = unavailable(backend, device)
    if reason is not None:
        raise BackendError(f"the {backend} backend can't run here: {reason}")
    if device == "auto":
        device = "cuda" if backend == "cuda" else "cpu"
    return Choice(backend, device, threads)


def _best(kind: str) -> str:
    """The backend for device "auto", "cpu" or "cuda"; says so where it is not the one that the hardware deserves."""
    if kind == "cuda":
        return "cuda"
    if kind == "auto" and gpu_present():
        reason = unavailable("cuda")
        if reason is None:
            return "cuda"
        warnings.warn(f"this machine's GPU goes unused: {reason}", stacklevel=4)
    reason = unavailable("cpu")
    if reason is None:
        return "cpu"
    if unavailable("reference") is None:
        warnings.warn(
            f"using the slow PyTorch reference, since the native CPU engine can't run: {reason}", stacklevel=4
        )
        return "reference"
    return "cpu"
