"""One model on several groups of cores, with one copy of its weights: where they are, and how many threads each has."""

from __future__ import annotations

import os
from functools import partial

from astfast import environment
from astfast.backends.cpu import core_groups
from astfast.backends.cpu.ops import CpuOps
from astfast.backends.cpu.tiers import native
from astfast.engines.base import Engine
from astfast.engines.eager import EagerEngine
from astfast.engines.replicas import Replicas


def on_core_groups(engine: EagerEngine, replicas: int | str, threads: int | None) -> Engine:
    """Engines of the same weights on so many groups of cores; the engine itself where that is one.

    Raises BackendError for more replicas than cores.
    """
    available = int(native().available_threads())
    groups = core_groups.of_replicas(replicas, threads or environment.num_threads(), available, os.sched_getaffinity(0))
    if len(groups) == 1:
        return engine
    assert isinstance(engine.ops, CpuOps)
    ops = engine.ops
    engines = [engine.replica(CpuOps(ops.heads, ops.precision, group.threads, ops.tier)) for group in groups]
    return Replicas(engines, [partial(native().own_pool, group.cpus) for group in groups], "groups of cores")
