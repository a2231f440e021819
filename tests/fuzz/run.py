"""Fuzzing for hours: ``python -m tests.fuzz.run --target decode --minutes 60``, or ``--target all``.

A worker process does the work (worker.py). This one starts another when it has crashed or hangs, which are findings.
Everything is kept below ``--out``: TARGET/progress.json (counts, written all the time), TARGET/corpus (inputs that
reached new code, which the next run starts from), TARGET/findings (an input and what it did). The exit status is 1 if
there are findings. ``--replay FILE`` runs one input in this process. ``--sanitized`` takes a native module built with
AddressSanitizer and UndefinedBehaviorSanitizer (a minute to build, kept below ``--out``).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import ROOT
from tests.fuzz.targets import TARGETS

COMPUTING, WAITING = 10.0, 60.0  # seconds of processor time, and of the wall, after which an input counts as a hang


def processor_seconds(pid: int) -> float:
    """Time that a process has computed, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sanitized_environment(out: Path) -> dict[str, str]:
    """Variables for a worker on the native module with sanitizers, built if it isn't there."""
    from tests.emulation import native_build

    folder = out / "sanitized"
    if not folder.exists():
        native_build.build(ROOT, folder, [], ASTFAST_SANITIZE="1")
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    return {
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:hard_rss_limit_mb=8000",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }


def watch(worker: subprocess.Popen[bytes], folder: Path) -> str:
    """Waits for the worker. How it ended: "" well, else "crash" or "hang"."""
    current = folder / "current"
    seen, at, spent = 0, time.monotonic(), 0.0
    while worker.poll() is None:
        time.sleep(0.2)
        try:
            changed, used = current.stat().st_mtime_ns, processor_seconds(worker.pid)
        except OSError:
            continue  # it has not begun, or has just ended
        if changed != seen:
            seen, at, spent = changed, time.monotonic(), used
        elif seen and (used - spent > COMPUTING or time.monotonic() - at > WAITING):
            worker.kill()
            worker.wait()
            return "hang"
    return "" if worker.returncode == 0 else "crash"


def keep_last_input(folder: Path, kind: str, status: int, seed: int) -> None:
    """What the worker was at when it ended, and the end of what it printed."""
    (folder / "findings").mkdir(exist_ok=True)
    stem = folder / "findings" / f"{kind}-{seed}"
    if (folder / "current").exists():
        shutil.copy(folder / "current", stem.with_suffix(".bin"))
    printed = (folder / "output.txt").read_bytes()[-20_000:] if (folder / "output.txt").exists() else b""
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    stem.with_suffix(".txt").write_bytes(f"{kind}, {name}\n".encode() + printed)


def fuzz(target: str, minutes: float, out: Path, variables: dict[str, str]) -> None:
    """Workers one after another until the time is over."""
    folder = out / target
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    while (left := end - time.monotonic()) > 0:
        seed = random.SystemRandom().randrange(1 << 31)
        command = [sys.executable, "-m", "tests.fuzz.worker", target, str(folder), str(left / 60), str(seed)]
        with tempfile.TemporaryDirectory(prefix="astfast-fuzz-") as scratch:
            environment = {
                "PYTHONPATH": str(ROOT),
                **os.environ,
                "TMPDIR": scratch,
                "ASTFAST_CACHE": scratch,
                **variables,
            }
            (folder / "current").unlink(missing_ok=True)
            worker = subprocess.Popen(command, cwd=ROOT, env=environment)
            ended = watch(worker, folder)
        if ended:
            keep_last_input(folder, ended, worker.returncode, seed)
            time.sleep(1)  # a worker that can't even start is no reason to start thousands


def findings(target: str, out: Path) -> list[Path]:
    return sorted((out / target / "findings").glob("*.txt"))


def replay(target: str, path: Path) -> None:
    """Runs one input here, its exception not caught."""
    with tempfile.TemporaryDirectory(prefix="astfast-fuzz-") as scratch:
        start = time.perf_counter()
        try:
            TARGETS[target].run(path.read_bytes(), Path(scratch))
        except TARGETS[target].allowed as error:
            print(f"refused: {type(error).__name__}: {str(error)[:2000]}")
        else:
            print("accepted")
        print(f"{time.perf_counter() - start:.2f} s")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("--minutes", type=float, default=10.0, help="in all (default 10)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz", help="folder (default build/fuzz)")
    parser.add_argument("--seeds", type=Path, help="a folder of more inputs to begin with")
    parser.add_argument("--sanitized", action="store_true", help="with the native module under sanitizers")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input and show what it does")
    options = parser.parse_args()
    targets = list(TARGETS) if options.target == "all" else [options.target]
    if options.replay:
        replay(targets[0], options.replay)
        return 0
    out = options.out.resolve()
    variables = sanitized_environment(out) if options.sanitized else {}
    for target in targets:
        if options.seeds:
            add_seeds(options.seeds, out / target / "corpus", prefix=b"\0" if target == "decode" else b"")
        fuzz(target, options.minutes / len(targets), out, variables)
        progress = json.loads((out / target / "progress.json").read_text())
        print(target, json.dumps(progress), flush=True)
        for path in findings(target, out):
            print(f"  {path}: {path.read_text(errors='replace').partition(chr(10))[0]}", flush=True)
    return 1 if any(findings(target, out) for target in targets) else 0


def add_seeds(source: Path, corpus: Path, prefix: bytes) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and path.stat().st_size < 1 << 20:
            (corpus / f"seed-{path.name}").write_bytes(prefix + path.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
