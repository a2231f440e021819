"""One process of a fuzzing run: mutates, runs, keeps what reaches new code, reports what must not happen."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests import ROOT
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS

SLOW = 5.0  # seconds of processor time
LARGE = 300e6  # bytes above what the process had
GUARDED = str(ROOT / "astfast")
PROGRESS_EVERY = 20  # inputs between two writings of the progress


class Coverage:
    """Pairs of consecutive lines that ran in astfast's Python code; C and C++ are not seen."""

    def __init__(self) -> None:
        self.known: set[tuple[CodeType, int, int]] = set()
        self.new = 0

    def __enter__(self) -> None:
        self.new = 0
        sys.settrace(self._enter)

    def __exit__(self, *_: Any) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(GUARDED):
            return None
        last = 0

        def line(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal last
            pair = code, last, frame.f_lineno
            last = frame.f_lineno
            if pair not in self.known:
                self.known.add(pair)
                self.new += 1
            return line

        return line


def peak_memory() -> int:
    """Highest resident size of this process in bytes, since ``forget_peak``."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Run:
    """State of a run: its folder, corpus and counts."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.target, self.folder = name, TARGETS[name], folder
        self.corpus_folder, self.findings = folder / "corpus", folder / "findings"
        for path in (self.corpus_folder, self.findings):
            path.mkdir(parents=True, exist_ok=True)
        saved = folder / "progress.json"
        self.progress = json.loads(saved.read_text()) if saved.exists() else {"inputs": 0, "refused": 0, "seconds": 0.0}
        self.coverage = Coverage()
        self.memory = peak_memory()
        self.work = Path(tempfile.mkdtemp(prefix="astfast-fuzz-"))
        self.output = os.open(folder / "output.txt", os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def execute(self, data: bytes) -> bool:
        """Runs one input; whether it reached code that none had reached."""
        (self.folder / "current").write_bytes(data)  # what a crash or a hang leaves behind
        if peak_memory() > self.memory + 20e6:
            forget_peak()
            self.memory = peak_memory()
        printed, start = os.fstat(self.output).st_size, time.process_time()
        try:
            with self.coverage, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.target.run(data, self.work)
        except self.target.allowed:
            self.progress["refused"] += 1
        except Exception as error:
            self.report("exception", data, error)
        if time.process_time() - start > SLOW:
            self.report("slow", data)
        if peak_memory() > self.memory + LARGE:
            self.report("memory", data)
        if os.fstat(self.output).st_size > printed:
            self.report("output", data)
        self.progress["inputs"] += 1
        return self.coverage.new > 0

    def report(self, kind: str, data: bytes, error: Exception | None = None) -> None:
        """Keeps an input, one of each kind and place."""
        place, text = self.name, ""
        if error is not None:
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if frame.filename.startswith(GUARDED)] or frames
            place = f"{type(error).__name__} {own[-1].filename}:{own[-1].lineno}"
            text = "".join(traceback.format_exception(error))[-8000:]
        else:
            place = hashlib.sha256(data).hexdigest() if len(list(self.findings.glob(f"{kind}-*.bin"))) < 20 else kind
        stem = f"{kind}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
        if not (self.findings / f"{stem}.bin").exists():
            (self.findings / f"{stem}.bin").write_bytes(data)
            (self.findings / f"{stem}.txt").write_text(f"{place}\n{text}")

    def keep(self, data: bytes) -> None:
        (self.corpus_folder / f"{hashlib.sha256(data).hexdigest()[:20]}.bin").write_bytes(data)

    def write_progress(self, corpus: int, seconds: float) -> None:
        counts = {
            "corpus": corpus,
            "lines": len(self.coverage.known),
            "findings": len(list(self.findings.glob("*.bin"))),
        }
        content = json.dumps({**self.progress, **counts, "seconds": round(self.progress["seconds"] + seconds, 1)})
        temporary = self.folder / "progress.json.new"
        temporary.write_text(content + "\n")
        temporary.replace(self.folder / "progress.json")

    def run(self, minutes: float, seed: int) -> None:
        rng = random.Random(seed)
        seeds = self.target.seeds() + [path.read_bytes() for path in sorted(self.corpus_folder.iterdir())]
        for descriptor in (1, 2):
            os.dup2(self.output, descriptor)
        corpus, started = [], time.monotonic()
        end = started + 60 * minutes
        for data in seeds:
            self.execute(data)
            corpus.append(data)
        while time.monotonic() < end:
            data = mutated(rng.choice(corpus), corpus, self.target.tokens, rng)
            if self.execute(data):
                corpus.append(data)
                self.keep(data)
            if self.progress["inputs"] % PROGRESS_EVERY == 0:
                self.write_progress(len(corpus), time.monotonic() - started)
        self.write_progress(len(corpus), time.monotonic() - started)
        shutil.rmtree(self.work)


def main() -> None:
    name, folder, minutes, seed = sys.argv[1:]
    Run(name, Path(folder)).run(float(minutes), int(seed))


if __name__ == "__main__":
    main()
