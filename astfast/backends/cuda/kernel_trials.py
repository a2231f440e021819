"""First runs of further kernels on a GPU, in a JSON cache file: one whose programs wait for each other may never end.

A process writes its name beside a kernel before it tries it, and takes it out afterwards: names that stay are those of
processes that ended in between. One may have been killed for another reason, so that it takes two of them to condemn a
kernel. Processes that still run, and try it at the same time, say nothing. Nothing in this module needs torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from astfast import cache

FILE = "kernel_trials.json"
DEATHS = 2  # while a kernel was tried, after which it is left out
FAILURE = f"its first run did not end, in {DEATHS} processes; delete {FILE} in the cache folder to try again"
LONG_AGO = 3600.0  # seconds, after which a trial on another machine that has the same folder counts as ended


class Trial(NamedTuple):
    """A process that tries a kernel."""

    boot: str  # of the machine, since when process ids are unique together with their start
    process: int
    started: str  # in clock ticks since the boot
    at: float  # seconds since the epoch

    @property
    def ended(self) -> bool:
        """Whether the process is no more; true of one in another container, which can't be seen from here."""
        if self.boot != _boot():
            return time.time() - self.at > LONG_AGO
        return _started(self.process) != self.started


@contextmanager
def trial(environment: str, call: str) -> Iterator[None]:
    """Inside, the file has the process as one that tries the kernel of a call. A trial that ends clears the kernel of
    what ended processes left there."""
    own = Trial(_boot(), os.getpid(), _started(os.getpid()), time.time())
    _change(environment, call, lambda trials: [*trials, own])
    try:
        yield
    finally:
        _change(environment, call, lambda trials: [each for each in trials if each != own and not each.ended])


def condemned() -> dict[str, set[str]]:
    """By environment, the keys of the calls whose kernels are left out."""
    return {
        environment: {call for call, entries in table.items() if sum(each.ended for each in _trials(entries)) >= DEATHS}
        for environment, table in cache.read(FILE).items()
        if isinstance(table, dict)
    }


def _change(environment: str, call: str, change: Callable[[list[Trial]], list[Trial]]) -> None:
    def apply(content: dict[str, Any]) -> None:
        table = content.get(environment)
        table = dict(table) if isinstance(table, dict) else {}
        trials = change(_trials(table.pop(call, None)))
        content[environment] = table | ({call: trials} if trials else {})

    cache.update(FILE, apply)


def _trials(entries: Any) -> list[Trial]:
    """Those that a file has; malformed ones are left out."""
    found = []
    for entry in entries if isinstance(entries, list) else ():
        types = tuple(map(type, entry)) if isinstance(entry, list) else ()
        if types == (str, int, str, float):
            found.append(Trial(*entry))
    return found


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _started(process: int) -> str:
    """When a process started; "" of one that is no more."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
