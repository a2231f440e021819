"""Profiles of GPU kernels and checks of their memory accesses, by NVIDIA's tools where they are installed.

python -m benchmarks.profile_gpu [--seconds 240] [--also DIR]

Nsight Compute (ncu) on the products of a layer and on attention, AST-base in bfloat16, batch 32: what limits each. Then
compute-sanitizer on every kernel at odd lengths: accesses out of bounds, and races in shared memory.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from astfast.kernels import tuning
from benchmarks import gpu_checks, gpu_tune
from benchmarks.arguments import CACHE
from benchmarks.gpu_bench import Bench

PROFILED = ("qkv", "fc1", "fc2", "attention")
BATCH, PRECISION = 32, "bfloat16"
KERNELS = "regex:norm_linear|linear_residual|attention"
TOOLS = {  # name -> command in front of ours
    "ncu": (
        "ncu",
        "--clock-control",
        "none",
        "--set",
        "full",
        "--kernel-name",
        KERNELS,
        "--launch-skip",
        "4",
        "--launch-count",
        "4",
    ),
    "memcheck": ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9"),
    "racecheck": ("compute-sanitizer", "--tool", "racecheck", "--error-exitcode", "9"),
}
TOLD = (
    "Duration",
    "Throughput",
    "Registers Per",
    "Achieved Occupancy",
    "L2 Hit",
    "Shared Memory Per Block",
    "ERROR SUMMARY",
    "==ERROR==",  # of ncu, as without the right to read the GPU's counters
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0, help="time limit of all tools (default: 240)")
    parser.add_argument("--also", type=Path, metavar="DIR", help="write what the tools say into this folder")
    parser.add_argument("--launch", choices=TOOLS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("profile_gpu: PyTorch sees no GPU here", file=sys.stderr)
        return 1
    if options.launch is not None:
        launch(options.launch)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return profile(options.also or Path(folder), options.seconds)


def launch(tool: str) -> None:
    """The launches that a tool looks at: of a layer, first without and then with it; or of the checks."""
    bench = Bench(False, CACHE)
    if tool == "ncu":
        for name in 2 * PROFILED:
            make = gpu_tune.problem("ast-base", name, PRECISION, BATCH, "cuda")
            bench.launcher(make(in_use(bench.target.arch, name)))
    else:
        for name in gpu_checks.cases(bench.target.arch, PRECISION):
            gpu_checks.check(bench, PRECISION, name)
    torch.cuda.synchronize()


def in_use(arch: tuning.Arch, name: str) -> tuning.Tile:
    """The tile of a large batch."""
    return gpu_tune.candidates(arch, name, PRECISION)[0]


def profile(folder: Path, seconds: float) -> int:
    """Runs the tools, each with what is left of the time; exit status 1 if one found or reported an error."""
    folder.mkdir(parents=True, exist_ok=True)
    end, bad = time.monotonic() + seconds, 0
    for tool, command in TOOLS.items():
        if shutil.which(command[0]) is None:
            print(f"{tool}: {command[0]} is not installed")
            continue
        log = folder / f"gpu_{tool}.txt"
        ours = [sys.executable, "-m", "benchmarks.profile_gpu", "--launch", tool]
        with log.open("w") as file:
            try:
                left = max(1.0, end - time.monotonic())
                status = subprocess.run(
                    [*command, *ours], stdout=file, stderr=file, check=False, timeout=left
                ).returncode
            except subprocess.TimeoutExpired:
                status = None
        bad += status != 0
        print(f"{tool}: {'stopped, the time was up' if status is None else f'status {status}'}, {log}")
        for line in log.read_text(errors="replace").splitlines():
            if any(word in line for word in TOLD) or "_kernel" in line:
                print(f"  {line.strip()}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
