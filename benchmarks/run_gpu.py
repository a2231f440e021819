"""GPU benchmark and checks in one unattended run, what matters most first; a table at the end.

python -m benchmarks.run_gpu [--plan measure|tune] [--dry-run] [--seconds 480] [--resume] [--also DIR]

Smoke (ceilings of this GPU, every kernel in bfloat16 against float64, the engine against transformers); batch 32 in
bfloat16: astfast, transformers with PyTorch's fused attention, with torch.compile, with astfast.accelerate; waveforms
to top-k; DASS, CED, PaSST and MAEST: their kernels, each engine, and three of them timed beside PyTorch; other batch
sizes; dependent launches; float8, float16, float32; odd shapes; the tests marked gpu.

Kernels are compiled beforehand in parallel processes. Rows are measured in a process of their own, the worker, which
packs a model once a precision. A row that crashes the worker, or takes longer than its limit, is named as failed, and a
new worker goes on with the next one: if it ran our engine, without persistent kernels from then on. Rows are written as
they come, into a .partial file that takes the place of the results only when a run has come to its end; ``--resume``
keeps what a stopped run of this commit has measured.
``--dry-run`` goes through the whole script on a CPU with a tiny model in Triton's interpreter: its times mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from astfast.backends.cuda import backend
from astfast.backends.cuda.target import Target, has_dependent_launches, has_float8
from astfast.kernels.launch import Launch, dependent
from benchmarks import family_models, gpu_checks, gpu_compile, gpu_rows, gpu_table, gpu_tune, models
from benchmarks.arguments import CACHE
from benchmarks.gpu_bench import Bench
from benchmarks.rows import RESULTS, Background, commit, machine, slug, versions

START_SECONDS = 120.0  # limit of a worker's start: imports, the driver, the checkpoint
TABLE_SECONDS = 5.0  # kept for the end of the run
BATCHES = (32, 8, 1)  # buckets of the rows
LAST = "last"  # in an answer of a worker whose device is of no more use, as after an access out of bounds
PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
WITHOUT = "--without-persistent"
# Rows that a persistent kernel may have hung: all that run our engine.
SUSPECTS = (f"check {gpu_checks.PERSISTENT}", "engine", "astfast", "in turns", "top-", "ops")
WORKER = (sys.executable, "-m", "benchmarks.run_gpu", "--worker")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", choices=PLANS, default="measure", help="tune: the sweep of tiles (gpu_tune.py)")
    parser.add_argument("--dry-run", action="store_true", help="the whole script on a CPU, with a tiny model")
    parser.add_argument("--seconds", type=float, default=480.0, help="time limit of everything (default: 480)")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=f"checkpoints (default: {CACHE})")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="results (default: benchmarks/results/gpu_<GPU>.jsonl)"
    )
    parser.add_argument("--also", type=Path, metavar="DIR", help="write the rows and the table into this folder too")
    parser.add_argument("--resume", action="store_true", help="keep the rows of a stopped run of this commit")
    parser.add_argument(
        "--section", action="append", metavar="NAME", help="only these rows, by their section; repeatable"
    )
    parser.add_argument(WITHOUT, action="store_true", help="without Hopper's persistent kernels")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if not options.dry_run and not torch.cuda.is_available():
        print("run_gpu: PyTorch sees no GPU here; --dry-run goes through the script on the CPU", file=sys.stderr)
        return 1
    return work(options) if options.worker else drive(options)


def work(options: argparse.Namespace) -> int:
    """The worker: says what it runs on, then measures each row that it is told the name of, an answer a line."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    if options.dry_run:
        torch.set_num_threads(1)  # of small products, which wait for each other where others compute too
        os.environ["ASTFAST_CACHE"] = str(options.cache / "dry-run")  # no verdicts of it among the user's
    if options.without_persistent:
        os.environ["ASTFAST_PERSISTENT_KERNELS"] = "0"  # of the tests that it runs as well
    bench = Bench(options.dry_run, options.cache)
    answers.write(json.dumps(bench.describe()) + "\n")
    known = {(row.section, row.name): row for row in PLANS[options.plan].rows(bench.target.arch, bench.dry_run)}
    for line in sys.stdin:
        try:
            found = known[tuple(json.loads(line))].measure(bench)
        except Exception as error:
            found = {"failed": "".join(traceback.format_exception_only(error))[-2000:]}
            traceback.print_exc()
            if not bench.usable():
                answers.write(json.dumps({**found, LAST: True}) + "\n")
                return 1
        answers.write(json.dumps(found) + "\n")
    return 0


class Worker:
    """The process that rows are measured in; started when it is needed, and again after a row has killed it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._command = [
            *WORKER,
            "--plan",
            options.plan,
            "--cache",
            str(options.cache),
            *(["--dry-run"] if options.dry_run else []),
            *([WITHOUT] if options.without_persistent else []),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = START_SECONDS) -> Any:
        """What it says of itself; ``failed`` in it says why it could not start."""
        self._process = subprocess.Popen(self._command, **PIPES)
        return self._answer(min(seconds, START_SECONDS))

    def measure(self, row: gpu_rows.Row, seconds: float) -> Any:
        """What a row's function has returned: one row or several; or ``failed``."""
        if self._process is None:
            began = time.monotonic()
            said = self.start(seconds)
            seconds -= time.monotonic() - began
            if "failed" in said:
                return said
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer says it
            self._process.stdin.write(json.dumps([row.section, row.name]).encode() + b"\n")
            self._process.stdin.flush()
        answer = self._answer(min(row.seconds, seconds))
        if self._process is None and row.name.startswith(SUSPECTS) and WITHOUT not in self._command:
            self._command.append(WITHOUT)  # or autotuning would run into it with every product: one that hangs, forever
        return answer

    def _answer(self, seconds: float) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                self.stop()
                return {"failed": f"no answer within {seconds:.0f} s"}
            read = os.read(self._process.stdout.fileno(), 1 << 16)
            if not read:
                status = self._process.wait()
                self.stop()
                return {"failed": f"its process ended with status {status}"}
            line += read
        answer = json.loads(line)
        if isinstance(answer, dict) and answer.pop(LAST, False):
            self.stop()
        return answer

    def stop(self) -> None:
        """Ends the process, whatever it does, and those that it has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def drive(options: argparse.Namespace) -> int:
    """Has all rows measured and writes them; exit status 1 if any failed or was skipped."""
    deadline = time.monotonic() + options.seconds - TABLE_SECONDS
    worker = Worker(options)
    said = worker.start()
    if "failed" in said:
        print(f"run_gpu: the worker does not start: {said['failed']}", file=sys.stderr)
        return 1
    name = "dry-run" if options.dry_run else slug(said["gpu"])
    plan = PLANS[options.plan]
    rows = plan.rows(said["arch"], options.dry_run)
    sections = list(dict.fromkeys(row.section for row in rows))
    for section in options.section or ():
        if section not in sections:
            print(f"run_gpu: no section {section!r}: use one of {', '.join(sections)}", file=sys.stderr)
            worker.stop()
            return 1
    some = [slug(section) for section in options.section or ()]
    out = options.out or RESULTS / f"{'-'.join([f'{plan.prefix}_{name}', *some])}.jsonl"
    results = Results(out, options.also, said, options.resume)
    try:
        if not options.dry_run:
            began, target = time.monotonic(), Target(said["arch"], said["multiprocessors"], said["gpu"])
            count, error = gpu_compile.compile_all(partial(plan.launches, target), plan.compile_seconds)
            row = gpu_rows.Row("compile", "kernels in parallel", 0, lambda _: {})
            results.write(row, {"compiled": count, "first_error": error}, time.monotonic() - began)
        for row in rows:
            if options.section and row.section not in options.section:
                continue
            left = deadline - time.monotonic()
            if not results.has(row):
                began = time.monotonic()
                found = {"skipped": "no time left"} if left <= 0 else worker.measure(row, left)
                results.write(row, found, time.monotonic() - began)
    finally:
        worker.stop()
    return results.finish(plan.table)


class Plan(NamedTuple):
    """What is measured in a run."""

    prefix: str  # of the names of its results
    rows: Callable[[Any, bool], list[gpu_rows.Row]]  # of a GPU; and for a dry run
    table: Callable[[list[dict[str, Any]]], str]
    launches: Callable[[Target], list[Callable[[], Launch]]]  # to be compiled beforehand
    compile_seconds: float  # limit of that


def of_models(target: Target) -> list[Callable[[], Launch]]:
    """Launches of the models and of the checks, those of the fastest precision first."""
    known = [name for name in backend.precisions() if name != "float8" or has_float8(target.arch)]
    found: list[Callable[[], Launch]] = []
    for precision in sorted(known, key=lambda name: (name != backend.fastest_precision(), name != "float8")):
        others = family_models.compiled_apart() if precision == backend.fastest_precision() else ()
        for config in (models.GEOMETRIES["ast-base"].model_config(), *others):
            found += [lambda each=each: each for each in gpu_compile.of_model(config, BATCHES, precision, target)]
        if precision == backend.fastest_precision() and has_dependent_launches(target.arch):
            few = gpu_compile.of_model(models.GEOMETRIES["ast-base"].model_config(), BATCHES[1:], precision, target)
            found += [partial(dependent, each) for each in few]
        cases = gpu_checks.cases(target.arch, precision, "meta").values()
        found += [lambda case=case: case().launch for case in cases]
    return found


PLANS = {
    "measure": Plan("gpu", gpu_rows.rows, gpu_table.table, of_models, 75.0),
    "tune": Plan(
        "gpu-tune", gpu_tune.rows, gpu_tune.table, lambda said: partial(gpu_tune.launches, said["arch"]), 150.0
    ),
}


class Results:
    """Rows of a run in files: ``out``, only when the run has come to its end, and in the folder ``also`` at once."""

    def __init__(self, out: Path, also: Path | None, said: dict[str, Any], resume: bool) -> None:
        self._out = out
        self._partial = out.with_suffix(".partial.jsonl")
        self._also = also
        self._common = {
            "benchmark": "gpu",
            "commit": commit(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine(),
            **said,
            "versions": versions() | said["gpu_versions"],
        }
        del self._common["gpu_versions"]
        self._background = Background()
        self.rows = list(self._kept()) if resume else []
        out.parent.mkdir(parents=True, exist_ok=True)
        self._files = [self._partial.open("w")]
        if also is not None:
            also.mkdir(parents=True, exist_ok=True)
            self._files.append((also / out.name).open("w"))
        for row in self.rows:
            self._append(row)

    def _kept(self) -> Iterator[dict[str, Any]]:
        """Rows of the stopped run that need not be measured again."""
        lines = self._partial.read_text().splitlines() if self._partial.exists() else []
        for row in map(json.loads, lines):
            same = all(row.get(key) == self._common[key] for key in ("commit", "gpu", "versions"))
            if same and "failed" not in row and "skipped" not in row:
                yield row

    def has(self, row: gpu_rows.Row) -> bool:
        """Whether a row has been measured already."""
        return any((kept["section"], kept["row"]) == (row.section, row.name) for kept in self.rows)

    def write(self, row: gpu_rows.Row, found: Any, seconds: float = 0.0) -> None:
        """Writes and prints what a row's measurement has found."""
        shares = {"background": round(self._background.share(), 4), "stolen": round(self._background.stolen(), 4)}
        for fields in (found or [{}]) if isinstance(found, list) else [found]:
            where = {"section": row.section, "row": row.name, "name": row.name, "row_seconds": round(seconds, 2)}
            self.rows.append({**self._common, **shares, **where, **fields})
            self._append(self.rows[-1])
            told = {key: value for key, value in fields.items() if key not in ("name", "ops")}
            print(f"{row.section}: {fields.get('name', row.name)}  {_brief(told)}", flush=True)

    def _append(self, row: dict[str, Any]) -> None:
        for file in self._files:
            file.write(json.dumps(row) + "\n")
            file.flush()

    def finish(self, table: Callable[[list[dict[str, Any]]], str]) -> int:
        """Prints the ``table`` and what failed; puts the rows in their place unless some were skipped."""
        for file in self._files:
            file.close()
        missing = [row for row in self.rows if "skipped" in row]
        failed = [row for row in self.rows if "failed" in row]
        path = self._partial if missing else self._partial.replace(self._out)
        text = table(self.rows)
        print(f"\n{text}\n\n{path}: {len(self.rows)} rows, {len(failed)} failed, {len(missing)} skipped")
        for row in [*failed, *missing]:
            print(f"  {row['section']}, {row['name']}: {_brief(row.get('failed', row.get('skipped')))}")
        if self._also is not None:
            (self._also / f"{self._out.stem}.txt").write_text(text + "\n")
        return 1 if failed or missing else 0


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key} {_brief(each)}" for key, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else (str(value).strip().splitlines() or [""])[-1][:160]


if __name__ == "__main__":
    sys.exit(main())
