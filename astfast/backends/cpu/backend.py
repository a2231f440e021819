"""The CPU backend: whether it can run here, its precisions, and how it is opened. Imports no torch."""

from __future__ import annotations

import os

from astfast import environment
from astfast.backends.cpu import core_groups
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
    """Lines for ``astfast doctor``: the tier in use, threads, and replicas, and what the machine lacks for others."""
    asked, available, cpus = environment.num_threads(), int(native().available_threads()), os.sched_getaffinity(0)
    physical = len(core_groups.cores(cpus))
    why = "ASTFAST_NUM_THREADS" if asked else "one a physical core" if available == physical else "quota of the cgroup"
    lines = [f"tier {choose_tier()}, {asked or available} threads ({why})"]
    groups = core_groups.of_replicas("auto", asked, available, cpus)
    if len(groups) > 1:
        lines.append(f"replicas auto: {len(groups)} engines, one a third-level cache or NUMA node")
    else:
        lines.append("replicas auto: one engine (one third-level cache or NUMA node, or threads for not all cores)")
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
