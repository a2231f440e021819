"""GPU benchmark and checks in one unattended run: accuracy of the kernels, then speed of kernels and models.

python -m benchmarks.run_gpu [--dry-run] [--seconds 400]

Every kernel in every precision at real shapes against float64; waveforms to top-k; each launch of the model against its
roofline and its prediction; logits against those of transformers; models by batch size against transformers (eager,
SDPA, torch.compile, and with astfast.accelerate). A failure does not stop the run: it is named in its row and in the
last lines, and each section is a process of its own, so that a kernel that corrupts the GPU's context, or hangs, does
not affect other sections. ``--dry-run`` goes through the whole script on a CPU, with a tiny model, in Triton's
interpreter: its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_sections
from benchmarks.arguments import CACHE
from benchmarks.rows import RESULTS, Rows, slug

GRACE = 20.0  # seconds that a section may still take when the time is up
Section = Callable[[gpu_sections.Bench], Iterator[dict[str, Any]]]


def main(argv: Sequence[str] | None = None) -> int:
    names = [section.__name__ for section in gpu_sections.SECTIONS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="the whole script on a CPU, with a tiny model")
    parser.add_argument(
        "--seconds", type=float, default=400.0, help="time limit: what has not begun by then is skipped (default: 400)"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=f"checkpoints (default: {CACHE})")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="results (default: benchmarks/results/gpu_<GPU>.jsonl)"
    )
    parser.add_argument("--section", choices=names, help="only this one, in this process")
    parser.add_argument("--one-process", action="store_true", help="all sections in this process")
    options = parser.parse_args(argv)
    if not options.dry_run and not torch.cuda.is_available():
        print("run_gpu: PyTorch sees no GPU here; --dry-run goes through the script on the CPU", file=sys.stderr)
        return 1
    gpu = "dry-run" if options.dry_run else torch.cuda.get_device_name()
    out = options.out or RESULTS / f"gpu_{slug(gpu)}.jsonl"
    if options.section or options.one_process:
        sections = [s for s in gpu_sections.SECTIONS if options.section in (None, s.__name__)]
        bench = gpu_sections.Bench(options.dry_run, options.seconds, options.cache)
        with Rows("gpu", out, gpu=gpu) as rows:
            for section in sections:
                for row in rows_of(section, bench):
                    written = rows.write(section=section.__name__, **row)
                    print("  " + "  ".join(f"{key} {_short(written[key])}" for key in row), flush=True)
    else:
        in_processes(names, gpu, out, options)
    return 0 if options.section else report(out)


def rows_of(section: Section, bench: gpu_sections.Bench) -> Iterator[dict[str, Any]]:
    """The rows of a section; an exception outside of them becomes a last row."""
    print(f"\n{(section.__doc__ or '').splitlines()[0]}", flush=True)
    try:
        yield from section(bench)
    except Exception as error:
        yield {"name": section.__name__, "failed": f"{type(error).__name__}: {error}"[-2000:]}


def in_processes(names: Sequence[str], gpu: str, out: Path, options: argparse.Namespace) -> None:
    """Runs each section in a process of its own and writes the rows of all of them to ``out``."""
    deadline = time.monotonic() + options.seconds
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, out.open("w") as file:
        for name in names:
            part = Path(folder) / f"{name}.jsonl"
            left = max(0.0, deadline - time.monotonic())
            command = [sys.executable, "-m", "benchmarks.run_gpu", "--section", name, "--out", str(part)]
            command += ["--cache", str(options.cache)]
            command += ["--seconds", str(left), *(["--dry-run"] if options.dry_run else [])]
            failed = None
            try:
                done = subprocess.run(command, check=False, timeout=left + GRACE)
                if done.returncode:
                    failed = f"its process ended with status {done.returncode}"
            except subprocess.TimeoutExpired:
                failed = f"still running {GRACE:.0f} s after the time was up"
            lines = part.read_text().splitlines() if part.exists() else []
            if failed:
                row = {"benchmark": "gpu", "gpu": gpu, "section": name, "name": name, "failed": failed}
                lines.append(json.dumps(row))
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()


def report(out: Path) -> int:
    """Prints the failed and skipped rows of a results file; returns exit status 1 if there are any."""
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    failures = [
        f"{row['section']}, {row['name']}: {_short(row.get('failed', row.get('skipped')))}"
        for row in rows
        if "failed" in row or "skipped" in row
    ]
    print(f"\n{out}: {len(rows)} rows, {len(failures)} failures" + "".join(f"\n  {line}" for line in failures))
    return 1 if failures else 0


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else (str(value).strip().splitlines() or [""])[-1][:100]


if __name__ == "__main__":
    sys.exit(main())
