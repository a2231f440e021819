"""Detection of GPUs: compute capability, number of multiprocessors, driver, and why a GPU can't be used."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from astfast import environment
from astfast.kernels.tuning import Arch

OLDEST = (8, 0)  # supported compute capability
DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Target:
    """A GPU as tile sizes are chosen for it: compute capability (or AMD architecture) and number of multiprocessors."""

    arch: Arch
    multiprocessors: int
    name: str


def target_of(device: torch.device) -> Target:
    """Target of a CUDA or ROCm device."""
    properties = torch.cuda.get_device_properties(device)
    arch: Arch = 10 * properties.major + properties.minor
    if torch.version.hip:
        arch = properties.gcnArchName.split(":")[0]
    return Target(arch, properties.multi_processor_count, properties.name)


def unavailable(device: str | list[str] = "auto") -> str | None:
    """Why the GPU backend can't run here and what to do about it, or None when it can."""
    if torch.cuda._is_in_bad_fork():
        return "CUDA can't be used in a forked process that inherited it: start workers with the 'spawn' method"
    if not torch.cuda.is_available():
        built = "CUDA" if torch.version.cuda else "ROCm" if torch.version.hip else None
        if built is None:
            return f"this PyTorch ({torch.__version__}) is a CPU build: install one with CUDA from pytorch.org"
        return f"PyTorch ({torch.__version__}, built for {built}) sees no GPU: check the driver with nvidia-smi"
    for name in [device] if isinstance(device, str) else device:
        index = int(name.split(":")[1]) if ":" in name else 0
        if index >= torch.cuda.device_count():
            return f"there is no {name}: this machine has {torch.cuda.device_count()} GPUs, numbered from cuda:0"
        if torch.version.cuda and torch.cuda.get_device_capability(index) < OLDEST:
            return f"{torch.cuda.get_device_name(index)} is older than compute capability 8.0: use device='cpu'"
    return None


def has_float8(arch: Arch) -> bool:
    """Whether a GPU multiplies float8 (e4m3) matrices; AMD's gfx942 has another float8."""
    return isinstance(arch, int) and arch >= 89


def persistent_kernels(arch: Arch) -> ModuleType | None:
    """The persistent kernels of a GPU: of Hopper, where Triton has the Gluon that they are in (3.6 and newer), and the
    environment lets them be."""
    if arch != 90 or _triton_version() < (3, 6) or not environment.persistent_kernels():
        return None
    return importlib.import_module("astfast.kernels.persistent")


def has_dependent_launches(arch: Arch) -> bool:
    """Whether a kernel may start while the one before ends: compute capability 9.0, Triton 3.6 and newer."""
    return isinstance(arch, int) and arch >= 90 and _triton_version() >= (3, 6)


def dependent_launches(arch: Arch) -> bool:
    """Whether kernels of a GPU are launched so: where it can, and the environment asks for it."""
    return has_dependent_launches(arch) and environment.dependent_launches()


def _triton_version() -> tuple[int, ...]:
    import triton

    return tuple(int(part) for part in triton.__version__.split(".")[:2])


def driver_version() -> str:
    """The version of NVIDIA's kernel driver, or "unknown"."""
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", DRIVER.read_text())
    except OSError:
        return "unknown"
    return found.group() if found else "unknown"
