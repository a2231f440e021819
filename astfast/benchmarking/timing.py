"""Benchmark timing: interleaved measurements, percentiles and speed-ups.

Functions under comparison take turns, so that whatever else the machine does slows all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """Percentiles of repeated measurements."""

    p20: float
    p50: float
    p80: float


def spread(values: Sequence[float]) -> Spread:
    """The 20th, 50th and 80th percentile of at least one value."""
    p20, p50, p80 = np.percentile(values, (20, 50, 80))
    return Spread(float(p20), float(p50), float(p80))


def speedup(baseline: Sequence[float], seconds: Sequence[float]) -> Spread:
    """How many times faster than the baseline: the spread of the ratios of two interleaved series, turn by turn."""
    return spread([slow / fast for slow, fast in zip(baseline, seconds, strict=True)])


def time_interleaved(runs: Sequence[Callable[[], object]], turns: int, seconds: float) -> list[list[float]]:
    """Times functions in interleaved turns: for each function one figure a turn, the median of its calls, in seconds.

    In its turn a function is called once unmeasured, which warms the caches and wakes its threads, and then for at
    least ``seconds``. Every other turn goes through the functions backwards.
    """
    times: list[list[float]] = [[] for _ in runs]
    order = list(range(len(runs)))
    for _ in range(turns):
        for index in order:
            runs[index]()
            times[index].append(float(np.median(_call_times(runs[index], seconds))))
        order.reverse()
    return times


def _call_times(run: Callable[[], object], seconds: float) -> list[float]:
    calls: list[float] = []
    while not calls or sum(calls) < seconds:
        start = time.perf_counter()
        run()
        calls.append(time.perf_counter() - start)
    return calls
