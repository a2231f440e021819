"""Compilation of GPU kernels ahead of their first launch, in parallel processes, into Triton's own cache."""

from __future__ import annotations

import concurrent.futures
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence

from astfast.backends.cuda.ops import CudaOps
from astfast.backends.cuda.target import Target
from astfast.kernels.launch import Launch
from astfast.models.dass.config import DassConfig
from astfast.models.vit_config import VitConfig
from tests import launchers
from tests.cases.persistent_ops import PersistentOps
from tests.cases.recorded_launches import record, record_images

Launches = Callable[[], list[Callable[[], Launch]]]  # each of which a process makes only if it is its own to compile


def compile_all(make: Launches, seconds: float, processes: int | None = None) -> tuple[int, str | None]:
    """Compiles the kernels of launches for the GPU of this machine; ``make`` is called in each process.

    - ``seconds``: limit; what is not compiled by then is left to its first launch.
    - ``processes``: default: all processors but two.

    Returns how many were compiled, and the first error.
    """
    count = processes or max(1, (os.cpu_count() or 1) - 2)
    end = time.monotonic() + seconds
    pool = concurrent.futures.ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))
    tasks = [pool.submit(_compile_share, make, index, count, end) for index in range(count)]
    done, late = concurrent.futures.wait(tasks, seconds + 10)
    shares = [_result(task) for task in done] + [(0, "still compiling when the time was up")] * len(late)
    for process in list((pool._processes or {}).values()) if late else ():
        process.kill()
    pool.shutdown(wait=not late, cancel_futures=True)
    return sum(n for n, _ in shares), next((error for _, error in shares if error), None)


def _result(task: concurrent.futures.Future[tuple[int, str | None]]) -> tuple[int, str | None]:
    try:
        return task.result()
    except Exception as error:  # the process is gone
        return 0, f"{type(error).__name__}: {error}"


def _compile_share(make: Launches, index: int, count: int, end: float) -> tuple[int, str | None]:
    compiled, first_error = 0, None
    for launch in make()[index::count]:
        if time.monotonic() > end:
            return compiled, first_error or "the time was up"
        try:
            compile_one(launch())
            compiled += 1
        except Exception as error:
            first_error = first_error or f"{type(error).__name__}: {error}".splitlines()[0]
    return compiled, first_error


def compile_one(launch: Launch) -> None:
    """Has Triton's JIT compile a kernel as the launch would; its tensors may be on the "meta" device. Runs nothing."""
    launch.kernel.warmup(grid=launch.grid, **launch.args, **launch.options)


def of_model(config: VitConfig | DassConfig, batches: Sequence[int], precision: str, target: Target) -> list[Launch]:
    """Launches of a model's batches that differ for the compiler, on persistent kernels too."""
    ways = itertools.product((CudaOps, PersistentOps), batches)
    batch = record_images if isinstance(config, DassConfig) else record
    return list(_distinct(launch for ops, clips in ways for launch in batch(config, clips, precision, target, ops)))


def _distinct(launches: Iterator[Launch]) -> Iterator[Launch]:
    seen = set()
    for launch in launches:
        key = launch.name, launch.num_warps, launch.num_stages, str(launchers.signature(launch))
        if key not in seen:
            seen.add(key)
            yield launch
