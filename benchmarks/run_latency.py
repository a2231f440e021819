"""Latency of one clip: percentiles of calls of ``Tagger.classify``, on one thread and on several, call by call.

python -m benchmarks.run_latency [--geometry ast-base] [--precision bfloat16] [--calls 1000] [--seconds 10]

The numbers of threads take turns, ten calls each, so that their ratio holds whatever else the machine does. Everything
is measured alone, and beside a process that tags clips with the same model on as many threads. A series ends after
``--calls`` calls, or ``--seconds`` if that comes first: a row says how many calls it has, and 99th percentiles of a few
dozen calls are their slowest ones.

After each turn the machine is asked what it gives: multiply-adds on as many threads, nothing loaded or stored, ten
times for as long as a call takes. Of their times a row has the 99th percentile over the median too: where it is far
above 1, the cores were not the process's alone, and a tail of the calls is not the engine's own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

import astfast
from astfast.engines.base import FloatArray
from benchmarks import arguments, models
from benchmarks.peaks import INSTRUCTIONS, InstructionPeak, tier_of
from benchmarks.rows import Rows

TURN = 10  # calls of one number of threads before the other's
GEOMETRIES = ("speech-commands", "ast-5s", "ast-base")  # 146, 258 and 1,214 tokens


def main(argv: Sequence[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.calls < 1 or options.seconds <= 0:
        parser.error("--calls and --seconds must be more than nothing")
    with Rows("latency", options.out, threads=options.threads) as rows:
        for geometry in options.geometry or GEOMETRIES:
            measure(geometry, options, rows)


def measure(geometry: str, options: argparse.Namespace, rows: Rows) -> None:
    """Writes a row for each number of threads, alone and beside another process."""
    config = models.GEOMETRIES[geometry].model_config()
    folder = models.checkpoint(geometry, options.cache)
    wave = models.waves(1, config)[0]
    taggers = {threads: _tagger(folder, options.precision, threads) for threads in dict.fromkeys((1, options.threads))}
    tier, precision = tier_of(taggers[1].hardware), taggers[1].backend.split()[1]
    instruction = INSTRUCTIONS.get((tier, precision)) or INSTRUCTIONS[tier, "float32"]
    peaks = {threads: InstructionPeak(instruction, threads, options.cache) for threads in taggers}
    for beside in (False, True):
        with _neighbour(folder, options.precision, options.threads, wave) if beside else nullcontext():
            times, own = _call_times(taggers, peaks, wave, options.calls, options.seconds)
        for threads, seconds in times.items():
            p50, p99 = (float(p) for p in np.percentile(seconds, (50, 99)))
            machine = float(np.percentile(own[threads], 99) / np.median(own[threads]))
            speedup = float(np.median(times[1])) / p50
            rows.write(
                geometry=geometry,
                tokens=config.num_tokens,
                engine="astfast",
                dtype=options.precision,
                isa=taggers[threads].hardware,
                threads=threads,
                beside_a_process=beside,
                calls=len(seconds),
                seconds_p50=p50,
                seconds_p99=p99,
                machine_p99_over_p50=machine,
                speedup_over_one_thread=speedup,
            )
            print(f"{config.num_tokens:>5} tokens {options.precision:<9} {threads} threads "
                  f"{'beside a process' if beside else 'alone':<16} {len(seconds):>5} calls  p50 {1e3 * p50:8.2f} ms  "
                  f"p99 {1e3 * p99:8.2f} ms ({p99 / p50:.2f}x, the machine {machine:.2f}x)  "
                  f"{speedup:.2f}x one thread", flush=True)  # fmt: skip


def _tagger(folder: Path, precision: str, threads: int) -> Any:
    tagger = astfast.load(folder, device="cpu", precision=precision, threads=threads)
    tagger.warmup()
    return tagger


def _call_times(
    taggers: dict[int, Any], peaks: dict[int, InstructionPeak], wave: FloatArray, calls: int, seconds: float
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """By number of threads: seconds of each call, at least one; and what the machine took for as much arithmetic each
    time, on its slowest thread, in a unit of its own."""
    times: dict[int, list[float]] = {threads: [] for threads in taggers}
    machine: dict[int, list[float]] = {threads: [] for threads in taggers}
    while unfinished := [t for t, own in times.items() if len(own) < calls and sum(own) < seconds]:
        for threads in unfinished:
            for _ in range(min(TURN, calls - len(times[threads]))):
                start = time.perf_counter()
                _tag(taggers[threads], wave)
                times[threads].append(time.perf_counter() - start)
            for _ in range(TURN):
                machine[threads].append(1.0 / min(peaks[threads].of_threads(float(np.median(times[threads])))))
    return times, machine


def _tag(tagger: Any, wave: FloatArray) -> None:
    tagger.classify(wave, sampling_rate=tagger.config.front_end.sampling_rate)


@contextmanager
def _neighbour(folder: Path, precision: str, threads: int, wave: FloatArray) -> Iterator[None]:
    """Context in which another process tags a clip over and over."""
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    process = spawn.Process(target=_tag_for_ever, args=(folder, precision, threads, wave, ready), daemon=True)
    process.start()
    try:
        while not ready.wait(1.0):
            if not process.is_alive():
                raise RuntimeError(f"the process beside ended with status {process.exitcode}")
        yield
        if not process.is_alive():
            raise RuntimeError(f"the process beside ended with status {process.exitcode} while calls were timed")
    finally:
        process.kill()
        process.join()


def _tag_for_ever(folder: Path, precision: str, threads: int, wave: FloatArray, ready: Any) -> None:
    tagger = _tagger(folder, precision, threads)
    ready.set()
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():  # a benchmark that is killed leaves nothing running
        _tag(tagger, wave)


def _parser() -> argparse.ArgumentParser:
    parser = arguments.parser(__doc__)
    parser.add_argument("--geometry", action="append", choices=models.GEOMETRIES, help="default: 146 to 1,214 tokens")
    parser.add_argument("--precision", default="bfloat16", help="default: bfloat16")
    parser.add_argument("--calls", type=int, default=1000, metavar="N", help="of each series (default: 1,000)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="at most, of each (default: 10)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="beside one thread (default: 2)")
    return parser


if __name__ == "__main__":
    main()
