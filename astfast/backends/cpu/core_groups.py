"""Cores that share a last-level cache or a memory, as Linux tells: where each replica of a model runs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from astfast.errors import BackendError

SYSTEM = Path("/sys/devices/system")


class CoreGroup(NamedTuple):
    """Where one engine runs."""

    cpus: tuple[int, ...]  # hardware threads, by number
    threads: int


def of_replicas(
    replicas: int | str, threads: int | None, available: int, cpus: Collection[int], system: Path = SYSTEM
) -> list[CoreGroup]:
    """Where so many replicas run that have so many threads together; None: the available ones.

    "auto": a group for each third-level cache or NUMA node; one, if the threads (of a quota, or asked for) are not
    as many as the cores, since no group is known to be free then. Raises BackendError for more replicas than cores.
    """
    count = len(cores(cpus, system))
    if replicas == "auto":
        whole = available == count and threads in (None, count)
        return shared_by_cores(cpus, system) if whole else [CoreGroup(tuple(cpus), threads or available)]
    if int(replicas) > count:
        raise BackendError(f"replicas is {replicas}: this process has {count} cores, and each replica needs one")
    return in_parts(cpus, int(replicas), threads or available, system)


def shared_by_cores(cpus: Collection[int], system: Path = SYSTEM) -> list[CoreGroup]:
    """The CPUs in groups that share a third-level cache, or else a NUMA node, each with a thread a physical core."""
    groups: dict[str, list[int]] = {}
    for cpu in sorted(cpus):
        groups.setdefault(_shared(system / f"cpu/cpu{cpu}"), []).append(cpu)
    return [CoreGroup(tuple(group), len(cores(group, system))) for group in groups.values()]


def in_parts(cpus: Collection[int], parts: int, threads: int, system: Path = SYSTEM) -> list[CoreGroup]:
    """So many groups of neighbouring cores, at most one a core, that have so many threads together."""
    together = [core for group in shared_by_cores(cpus, system) for core in cores(group.cpus, system)]
    ends = [[count * i // parts for i in range(parts + 1)] for count in (len(together), max(threads, parts))]
    return [
        CoreGroup(tuple(cpu for core in together[a:b] for cpu in core), end - start)
        for a, b, start, end in zip(ends[0], ends[0][1:], ends[1], ends[1][1:], strict=False)
    ]


def cores(cpus: Collection[int], system: Path = SYSTEM) -> list[tuple[int, ...]]:
    """The CPUs by physical core."""
    found: dict[str, list[int]] = {}
    for cpu in cpus:
        siblings = _text(system / f"cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu)
        found.setdefault(siblings, []).append(cpu)
    return [tuple(core) for core in found.values()]


def _shared(cpu: Path) -> str:
    """What all CPUs of a group have in common."""
    for cache in sorted(cpu.glob("cache/index*")):
        if _text(cache / "level") == "3":
            return "cache of " + _text(cache / "shared_cpu_list")
    return next((node.name for node in sorted(cpu.glob("node[0-9]*"))), "")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
