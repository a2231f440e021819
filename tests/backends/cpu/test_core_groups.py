"""Groups of cores from folders that look like /sys/devices/system."""

from pathlib import Path

import pytest

from astfast.backends.cpu import core_groups
from astfast.errors import BackendError


def machine(folder: Path, sockets: int, cores: int, cache_of: int = 0) -> Path:
    """Two hardware threads a core, numbered as Linux does; ``cache_of``: cores of a third-level cache, or none."""
    total = sockets * cores
    for cpu in range(2 * total):
        core = cpu % total
        own = folder / f"cpu/cpu{cpu}"
        (own / "topology").mkdir(parents=True)
        (own / "topology/thread_siblings_list").write_text(f"{core},{core + total}\n")
        (own / f"node{core // cores}").mkdir()
        for level in (1, 2, 3) if cache_of else (1, 2):
            (own / f"cache/index{level}").mkdir(parents=True)
            (own / f"cache/index{level}/level").write_text(f"{level}\n")
            first = core // cache_of * cache_of if level == 3 else core
            (own / f"cache/index{level}/shared_cpu_list").write_text(f"{first}-{first + max(cache_of, 1) - 1}\n")
    return folder


@pytest.mark.parametrize(("cache_of", "groups"), [(0, 2), (8, 16), (64, 2)])
def test_a_group_a_cache_or_node(tmp_path: Path, cache_of: int, groups: int) -> None:
    found = core_groups.shared_by_cores(range(256), machine(tmp_path, 2, 64, cache_of))
    assert [group.threads for group in found] == [128 // groups] * groups
    assert sorted(cpu for group in found for cpu in group.cpus) == list(range(256))
    assert found[0].cpus[:2] == (0, 1)
    assert 128 in found[0].cpus  # the other hardware thread of core 0


def test_only_cores_that_are_allowed(tmp_path: Path) -> None:
    found = core_groups.shared_by_cores([1, 2, 129, 64], machine(tmp_path, 2, 64))
    assert [(group.cpus, group.threads) for group in found] == [((1, 2, 129), 2), ((64,), 1)]


def test_any_number_of_parts(tmp_path: Path) -> None:
    system = machine(tmp_path, 2, 4)
    found = core_groups.in_parts(range(16), 3, 8, system)
    assert [(group.cpus, group.threads) for group in found] == [
        ((0, 8, 1, 9), 2),
        ((2, 10, 3, 11, 4, 12), 3),
        ((5, 13, 6, 14, 7, 15), 3),
    ]
    assert [group.threads for group in core_groups.in_parts(range(16), 4, 2, system)] == [1, 1, 1, 1]
    assert [group.threads for group in core_groups.in_parts(range(16), 2, 5, system)] == [2, 3]


def test_nothing_known_is_one_group(tmp_path: Path) -> None:
    assert core_groups.shared_by_cores([0, 1], tmp_path) == [core_groups.CoreGroup((0, 1), 2)]


@pytest.mark.parametrize(
    ("threads", "available", "groups"),
    [(None, 128, [8] * 16), (128, 128, [8] * 16), (64, 128, [64]), (None, 32, [32]), (256, 128, [256])],
)
def test_auto_takes_every_cache_of_a_machine_that_is_all_ours(
    threads: int | None, available: int, groups: list[int], tmp_path: Path
) -> None:
    system = machine(tmp_path, 2, 64, cache_of=8)
    found = core_groups.of_replicas("auto", threads, available, range(256), system)
    assert [group.threads for group in found] == groups
    assert sorted(cpu for group in found for cpu in group.cpus) == list(range(256))


def test_as_many_replicas_as_cores_at_most(tmp_path: Path) -> None:
    system = machine(tmp_path, 2, 4)
    found = core_groups.of_replicas(8, None, 8, range(16), system)
    assert [group.cpus for group in found] == [(core, core + 8) for core in range(8)]
    with pytest.raises(BackendError, match="replicas is 9: this process has 8 cores"):
        core_groups.of_replicas(9, None, 8, range(16), system)
