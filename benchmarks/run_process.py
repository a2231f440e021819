"""Cold start and memory of a process: time to the first tags, peak memory, memory growth over many calls.

python -m benchmarks.run_process [--geometry ast-base] [--turns 5] [--calls 1000]

Files are in the page cache (each engine runs once unmeasured); engines are interleaved. Each start is printed and saved
as it ends, so that nothing of a run that is stopped is lost; the rows of the report follow when all turns are over.
astfast runs with what it keeps in its cache folder, packed weights and the precision that "auto" took, and with an
empty one. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

import astfast
from astfast.benchmarking.peers import missing_packages
from astfast.benchmarking.timing import spread
from benchmarks import arguments, models, one_clip, peers
from benchmarks.rows import Rows

ENGINES = {  # and the packages that they need
    "astfast": (),
    "transformers": ("transformers",),
    "openvino": ("transformers", "openvino"),
}
MEASURED = ("seconds", "cpu_seconds", "peak_bytes", "ready_seconds")  # of a start; the last one of astfast only
CACHES = ("filled", "none")  # what astfast finds in its cache folder


class Process(NamedTuple):
    """What is started: an engine in a precision; ``cache``: one of CACHES for astfast, empty for the others."""

    engine: str
    precision: str
    cache: str


def main(argv: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    with Rows("process", options.out, threads=one_clip.THREADS) as rows:
        cold_start(options, rows)
        memory_growth(options, rows)


def cold_start(options: argparse.Namespace, rows: Rows) -> None:
    """Writes a row for each engine: seconds from the start of Python to the first tags, and peak memory."""
    config = models.GEOMETRIES[options.geometry].model_config()
    folder = models.checkpoint(options.geometry, options.cache)
    clip = options.cache / f"{options.geometry}.wav"
    soundfile.write(clip, models.waves(1, config)[0], config.front_end.sampling_rate)
    processes: dict[Process, Path] = {}
    for engine in options.engine or ENGINES:
        missing = missing_packages(*ENGINES[engine])
        if missing:
            print(f"{engine} left out: {', '.join(missing)} is not installed", file=sys.stderr)
        own = engine == "astfast"
        for precision in () if missing else options.precision or ("float32", "bfloat16", "auto")[: 3 if own else 2]:
            setup = peers.Setup(folder, config, 1, one_clip.THREADS, options.cache)
            for cache in CACHES if own else ("",):
                process = Process(engine, precision, cache)
                processes[process] = setup.openvino_file() if engine == "openvino" else folder

    starts: dict[Process, list[dict[str, Any]]] = {process: [] for process in processes}
    for turn in range(options.turns + 1):
        for process, model in processes.items():
            with tempfile.TemporaryDirectory() as nothing:
                own_cache = {"ASTFAST_CACHE": nothing} if process.cache == "none" else {}
                arguments_ = [process.engine, process.precision, str(model), str(clip)]
                start = _process(["-m", "benchmarks.one_clip", *arguments_], own_cache)
            if turn > 0:
                starts[process].append(start)
                rows.write(measure="one start", geometry=options.geometry, turn=turn, **_fields(process), **start)
                print(f"turn {turn} of {options.turns}: {_told(process, start)}", flush=True)
    for process, found in starts.items():
        measured = {name: spread([start[name] for start in found]) for name in MEASURED if name in found[0]}
        rows.write(
            measure="cold start",
            geometry=options.geometry,
            shape=[1, config.max_length, config.num_mel_bins],
            **_fields(process),
            backend=found[-1].get("backend", process.engine),
            first_tag=found[-1]["tags"][0],
            **measured,
        )
        print(_told(process, {name: median for name, (_, median, _) in measured.items()}), flush=True)


def _fields(process: Process) -> dict[str, str]:
    return {"engine": process.engine, "dtype": process.precision, "cache": process.cache}


def _told(process: Process, start: dict[str, Any]) -> str:
    ready = f", model ready in {1e3 * start['ready_seconds']:.0f} ms" if "ready_seconds" in start else ""
    return (
        f"{process.engine:<14} {process.precision:<9} {process.cache:<7} first tags after {start['seconds']:.2f} s, "
        f"{start['cpu_seconds']:.2f} s of CPU time, peak memory {start['peak_bytes'] / 1e6:.0f} MB{ready}"
    )


def _process(arguments: Sequence[str], variables: dict[str, str]) -> dict[str, Any]:
    """The line of JSON that a Python process prints, and the seconds until then."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", **variables}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # modules of an installation are compiled
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        took = time.perf_counter() - start
        errors = process.stderr.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{errors}")
    return {"seconds": took, **json.loads(line)}


def memory_growth(options: argparse.Namespace, rows: Rows) -> None:
    """Writes a row: growth of resident memory over calls on clips of all lengths, after the first tenth of them."""
    geometry = "tiny" if options.geometry == "tiny" else "speech-commands"
    tagger = astfast.load(
        models.checkpoint(geometry, options.cache), device="cpu", precision="float32", threads=one_clip.THREADS
    )
    rng = np.random.default_rng(0)
    longest = tagger.config.front_end.input_samples
    resident = []
    for _ in range(options.calls):
        clips = [
            0.1 * rng.standard_normal(rng.integers(1, longest)).astype(np.float32) for _ in range(rng.integers(1, 5))
        ]
        tagger.classify(clips, sampling_rate=tagger.config.front_end.sampling_rate)
        resident.append(_resident_bytes())
    settled = resident[options.calls // 10]
    rows.write(
        measure="memory growth",
        geometry=geometry,
        engine="astfast",
        dtype="float32",
        calls=options.calls,
        resident_bytes=resident[-1],
        growth_bytes=resident[-1] - settled,
    )
    print(f"memory grew by {(resident[-1] - settled) / 1e6:+.2f} MB from call {options.calls // 10} to {options.calls}")


def _resident_bytes() -> int:
    found = re.search(r"VmRSS:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def _parser() -> argparse.ArgumentParser:
    parser = arguments.parser(__doc__, turns=5)
    parser.add_argument("--geometry", default="ast-base", choices=models.GEOMETRIES)
    parser.add_argument("--engine", action="append", choices=ENGINES, help="default: all that are installed")
    parser.add_argument("--precision", action="append", help="default: float32, bfloat16 and, of astfast, auto")
    parser.add_argument("--calls", type=int, default=1000, metavar="N", help="for memory growth (default: 1,000)")
    return parser


if __name__ == "__main__":
    main()
