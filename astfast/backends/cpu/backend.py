"""The CPU backend: whether it can run here, its precisions, and how it is opened. Imports no torch."""

from __future__ import annotations

from astfast import environment
from astfast.backends.cpu.ops import PRECISIONS, CpuOps
from astfast.backends.cpu.tiers import choose_tier, native
from astfast.errors import BackendError

TIERS_WITH_BFLOAT16 = ("avx512_bf16", "amx")  # tiers that have an instruction for it


def unavailable(device: str | list[str] = "auto") -> str | None:
    """Why the CPU backend can't run here and what to do about it, or None. ``device`` is ignored."""
    try:
        choose_tier()
    except BackendError as error:
        return str(error)
    return None


def precisions() -> tuple[str, ...]:
    """Names of the precisions that this backend computes in, on every tier."""
    return PRECISIONS


def fastest_precision() -> str:
    """bfloat16 where the tier in use has an instruction for it, else float32."""
    return "bfloat16" if choose_tier() in TIERS_WITH_BFLOAT16 else "float32"


def describe() -> list[str]:
    """Lines for ``astfast doctor``: the tier in use, threads, and what the machine lacks for the others."""
    lines = [f"tier {choose_tier()}, {environment.num_threads() or native().available_threads()} threads"]
    lines += [f"no {name}: {missing}" for name, missing in native().tiers() if missing]
    return lines


def open(num_heads: int, precision: str, device: str, threads: int | None, deterministic: bool) -> CpuOps:
    """The ops for one model.

    Args:
        num_heads: attention heads of the model.
        precision: one of ``precisions()``.
        device: ignored: there is one CPU.
        threads: default ASTFAST_NUM_THREADS, then the physical cores that the process may use.
        deterministic: ignored: a clip's bits depend on nothing but the clip.

    Raises:
        BackendError: unknown precision, or no tier that can run here.
    """
    return CpuOps(num_heads, precision, threads)
