"""One model on several groups of cores, with one copy of its weights: where they are, and how many threads each has."""

from __future__ import annotations

import os
from functools import partial

from astfast import environment
from astfast.backends.cpu import core_groups
from astfast.backends.cpu.core_groups import CoreGroup
from astfast.backends.cpu.ops import CpuOps
from astfast.backends.cpu.tiers import native
from astfast.engines.base import Engine
from astfast.engines.eager import EagerEngine
from astfast.engines.replicas import Replicas
from astfast.errors import BackendError


def on_core_groups(engine: EagerEngine, replicas: int | str, threads: int | None) -> Engine:
    """Engines of the same weights on so many groups of cores; the engine itself where that is one.

    "auto": a group for each third-level cache or NUMA node; one, if ``threads``, ASTFAST_NUM_THREADS or a quota is less
    than the cores, since no group is known to be free then. Raises BackendError for more replicas than cores.
    """
    groups = _groups(replicas, threads or environment.num_threads())
    if len(groups) == 1:
        return engine
    assert isinstance(engine.ops, CpuOps)
    ops = engine.ops
    engines = [engine.replica(CpuOps(ops.heads, ops.precision, group.threads, ops.tier)) for group in groups]
    return Replicas(engines, [partial(native().own_pool, group.cpus) for group in groups])


def _groups(replicas: int | str, threads: int | None) -> list[CoreGroup]:
    cpus, available = os.sched_getaffinity(0), int(native().available_threads())
    cores = len(core_groups.cores(cpus))
    if replicas == "auto":
        whole = available == cores and threads in (None, cores)
        return core_groups.shared_by_cores(cpus) if whole else [CoreGroup(tuple(cpus), threads or available)]
    if int(replicas) > cores:
        raise BackendError(f"replicas is {replicas}: this process has {cores} cores, and each replica needs one")
    return core_groups.in_parts(cpus, int(replicas), threads or available)
