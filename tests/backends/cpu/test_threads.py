"""The thread pool of the CPU engine: callers on several threads, forks in the middle of a job, the machine's limits."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from astfast.backends.cpu.ops import CpuOps
from astfast.backends.cpu.tiers import native
from astfast.ops import LayerNorm, Linear, NormLinear


def work(threads: int, rows: int = 64) -> Callable[[], np.ndarray]:
    """A job on the pool, ready to run, whose result is always the same."""
    rng = np.random.default_rng(0)
    d = 96
    ops = CpuOps(3, "float32", threads)
    norm = LayerNorm(np.ones(d, np.float32), np.zeros(d, np.float32), 1e-12)
    w = ops.pack_norm_linear(
        NormLinear(norm, Linear(rng.standard_normal((3 * d, d)).astype(np.float32), norm.bias.repeat(3)))
    )
    x = rng.standard_normal((1, rows, d)).astype(np.float32)

    def run() -> np.ndarray:
        qkv = ops.norm_linear(x, w, ops.empty((1, rows, 3 * d), "activation"))
        return ops.attention(qkv[..., :d], qkv[..., d:], ops.empty((1, rows, d), "activation"))

    return run


def test_callers_on_many_threads_take_turns() -> None:
    run, expected = work(2), work(1)()
    wrong = []

    def caller() -> None:
        for _ in range(50):
            if not np.array_equal(run(), expected):
                wrong.append(True)

    callers = [threading.Thread(target=caller) for _ in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(300)
    assert not any(thread.is_alive() for thread in callers)
    assert not wrong


@pytest.mark.parametrize(
    ("rows", "n", "k"), [(5, 3000, 16), (400, 200, 200)], ids=["few rows, packed for all", "a block of rows each"]
)
def test_residuals_are_added_once_whoever_takes_a_panel(rows: int, n: int, k: int) -> None:
    """More threads than cores, so that some come late and others take what was theirs."""
    rng = np.random.default_rng(1)
    w = Linear(rng.standard_normal((n, k)).astype(np.float32), np.zeros(n, np.float32))
    x = rng.standard_normal((1, rows, k)).astype(np.float32)
    stream = rng.standard_normal((1, rows, n)).astype(np.float32)

    def summed(threads: int) -> np.ndarray:
        ops = CpuOps(1, "float32", threads)
        packed, residual = ops.pack_linear(w), stream.copy()
        return np.stack([ops.linear_residual(x, packed, residual).copy() for _ in range(100)])

    np.testing.assert_array_equal(summed(7), summed(1))


def test_jobs_of_one_thread_wait_for_no_others() -> None:
    """Two of them, of an engine each, end while a job runs that takes hundreds of times as long."""
    short, expected = [work(1), work(1)], work(1)()
    for threads in (1, 2):
        long = threading.Thread(target=work(threads, rows=12_000))
        long.start()
        time.sleep(0.05)  # it is in a kernel now
        with ThreadPoolExecutor(2) as callers:
            for result in callers.map(lambda run: run(), short):
                np.testing.assert_array_equal(result, expected)
        assert long.is_alive()
        long.join()


def test_jobs_of_one_thread_at_once_are_right() -> None:
    rows = [64, 700, 1300]
    expected = [work(1, n)() for n in rows]
    with ThreadPoolExecutor(6) as callers:
        for n, got in zip(rows * 10, callers.map(lambda n: work(1, n)(), rows * 10), strict=True):
            np.testing.assert_array_equal(got, expected[rows.index(n)])


def test_more_threads_than_work_and_than_cores() -> None:
    np.testing.assert_array_equal(work(9, rows=3)(), work(1, rows=3)())
    np.testing.assert_array_equal(work(9, rows=300)(), work(1, rows=300)())


FORKS = """
import os, signal, sys, threading, time
from tests.backends.cpu.test_threads import work
run, expected = work(2), work(1)()
stop = []
busy = threading.Thread(target=lambda: [run() for _ in iter(lambda: bool(stop), True)])
busy.start()
failed = 0
for i in range(20):
    time.sleep(0.002)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs dies of it
        os._exit(0 if (run() == expected).all() and (run() == expected).all() else 1)
    failed += os.waitpid(child, 0)[1] != 0
stop.append(True)
busy.join()
sys.exit(failed)
"""


def test_a_child_forked_in_the_middle_of_a_job_has_a_pool_of_its_own() -> None:
    code = FORKS
    done = subprocess.run([sys.executable, "-c", code], timeout=300, check=False)
    assert done.returncode == 0, f"{done.returncode} of 20 children hung or were wrong"


IDLE = """
import time
from tests.backends.cpu.test_threads import work
work(2)()
time.sleep(0.2)  # a thousand times as long as they look out for the next job
before = time.process_time()
time.sleep(0.5)
print(time.process_time() - before)
"""


def test_helpers_sleep_when_there_is_nothing_to_do() -> None:
    """CPU time of a process with no other threads: microseconds, however busy the machine; one that spins takes what
    time it gets, a tenth of a core at the least."""
    done = subprocess.run([sys.executable, "-c", IDLE], capture_output=True, text=True, timeout=300, check=True)
    assert float(done.stdout) < 0.05


def test_threads_follow_the_affinity_mask() -> None:
    allowed = os.sched_getaffinity(0)
    assert 1 <= native().available_threads() <= len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert native().available_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_the_gil_is_free_while_kernels_run() -> None:
    """Another thread runs many times meanwhile. On a busy machine it may have had no core: then again."""
    run = work(1, rows=3000)
    for _ in range(20):
        ticks = 0
        worker = threading.Thread(target=run)
        worker.start()
        while worker.is_alive():
            ticks += 1
            time.sleep(0)
        if ticks > 10:
            return
    pytest.fail(f"{ticks} runs during a call: the kernels hold the lock")


@pytest.mark.parametrize("value", ["3", "1"])
def test_number_of_threads_from_the_environment(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTFAST_NUM_THREADS", value)
    assert CpuOps(1).threads == int(value)
    assert CpuOps(1, threads=2).threads == 2
