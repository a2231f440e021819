"""Benchmark results: one JSON line per measurement, with machine, versions, commit and CPU steal."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
BENCHMARKS = ("accuracy", "merging", "model", "ops", "pipeline", "process", "scaling")  # that the report shows
PACKAGES = ("numpy", "torch", "torchaudio", "transformers", "onnxruntime", "openvino", "nncf")

Row = dict[str, Any]
Results = dict[str, list[Row]]  # benchmark -> rows


class Rows:
    """A results file, written anew by every run: what is in git is the last run that was kept.

    Use as ``with Rows("model", threads=2) as rows: rows.write(...)``. Fields given here stand in every row.
    """

    def __init__(self, benchmark: str, path: Path | None = None, **fields: Any) -> None:
        self.path = path or RESULTS / f"{benchmark}_{slug(cpu_model())}.jsonl"
        self._common = {
            "benchmark": benchmark,
            "commit": commit(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine(),
            "cpu": cpu_model(),
            "versions": versions(),
            **fields,
        }
        self._background = Background()

    def __enter__(self) -> Rows:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("w")
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, **fields: Any) -> dict[str, Any]:
        """Appends a row and returns it. ``background`` and ``stolen``: shares of the machine so far; see Background."""
        shares = {"background": round(self._background.share(), 4), "stolen": round(self._background.stolen(), 4)}
        row = {**self._common, **shares, **fields}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        return row


class Background:
    """CPU time of the machine that other programs and the host of a virtual machine took, since construction."""

    def __init__(self) -> None:
        self._machine, self._own = _machine_seconds(), _own_seconds()

    def share(self) -> float:
        """Share of other processes, 0 to 1."""
        busy, _, total = (now - then for now, then in zip(_machine_seconds(), self._machine, strict=True))
        return max(0.0, busy - (_own_seconds() - self._own)) / total if total > 0 else 0.0

    def stolen(self) -> float:
        """CPU steal: share that the host of a virtual machine gave to others, 0 to 1."""
        _, stolen, total = (now - then for now, then in zip(_machine_seconds(), self._machine, strict=True))
        return stolen / total if total > 0 else 0.0


def _machine_seconds() -> tuple[float, float, float]:
    """(busy, stolen, all) CPU seconds of the machine since it started; zeros where /proc does not tell."""
    try:
        ticks = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return 0.0, 0.0, 0.0
    user, nice, system, idle, iowait, irq, softirq, steal = (x / os.sysconf("SC_CLK_TCK") for x in ticks)
    busy = user + nice + system + irq + softirq
    return busy, steal, busy + steal + idle + iowait


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def commit() -> str:
    """The commit that is checked out, with a + where files that git tracks differ from it; "" without git."""
    if shutil.which("git") is None:
        return ""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def cpu_model() -> str:
    """The CPU's name; family and model too where the name does not tell which one it is."""
    fields = dict(re.findall(r"^([^\t:]+)\s*:\s*(.*)$", _cpuinfo(), re.MULTILINE))
    name = re.sub(r"\((R|TM)\)|\bCPU\b|\bProcessor\b|@.*", "", fields.get("model name", platform.machine()))
    name = " ".join(name.split())
    if not re.search(r"\d", name) and "model" in fields:
        name += f" family {fields['cpu family']} model {fields['model']}"
    flags = fields.get("flags", "").split()
    known = ("avx512f", "avx512_bf16", "amx_tile") if "avx512f" in flags else ("avx2", "avx_vnni")
    extensions = [flag for flag in known if flag in flags]
    return f"{name} ({', '.join(extensions)})" if extensions else name


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return ""


def machine() -> str:
    """Cores and memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    virtual = ", virtual" if " hypervisor" in _cpuinfo() else ""
    return f"{os.cpu_count()} cores, {memory:.0f} GB{virtual}, {platform.system()}"


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that take part in benchmarks."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def slug(text: str) -> str:
    """Text as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().split(" (")[0]).strip("-")


def read(path: Path) -> list[Row]:
    """The rows of a results file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def load(folder: Path, machine: str | None, benchmarks: Sequence[str] = BENCHMARKS) -> dict[str, Results]:
    """Machine -> results, those with the newest model benchmark first.

    ``machine``: the only one to load, by its name in those of the files; ``benchmarks``: those to load.
    """
    files = {tuple(path.stem.split("_", 1)): path for path in sorted(folder.glob("*_*.jsonl"))}
    files = {key: path for key, path in files.items() if key[0] in benchmarks and path.stat().st_size}
    dates = {key: (key[0] == "model", read(path)[0]["date"]) for key, path in files.items()}
    newest_first = dict.fromkeys(key[1] for key in sorted(files, key=dates.__getitem__, reverse=True))
    return {
        name: {benchmark: read(files[benchmark, name]) for benchmark in benchmarks if (benchmark, name) in files}
        for name in newest_first
        if machine in (None, name)
    }
