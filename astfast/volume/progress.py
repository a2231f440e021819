"""How far a run is: counts, rates, and which of its stages the others wait for."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Protocol

from astfast.volume.inputs import Input


class Reading(Protocol):
    """What is known of the listing and decoding of a run."""

    @property
    def total(self) -> int:
        """Inputs that are listed so far."""
        ...

    @property
    def listed_all(self) -> bool:
        """Whether there are no more to come."""
        ...

    @property
    def decoders(self) -> int:
        """Threads that decode."""
        ...

    @property
    def decoding(self) -> float:
        """Seconds that they were at it, together."""
        ...

    @property
    def model_idle(self) -> float:
        """Seconds that the model waited; the mean of several."""
        ...


class Progress:
    """Counts of a run, kept while it is on."""

    def __init__(self) -> None:
        self.passed_over: Counter[str] = Counter()  # what folders and archives hold beside audio, by kind
        self._start = time.perf_counter()
        self.tagged = self.skipped = self.repeated = self.cut = self.failed_before = 0
        self.failed: Counter[str] = Counter()  # by kind
        self.seconds = 0.0  # of audio that was tagged
        self.waiting_to_write = 0.0  # seconds that the model waited for the disk
        self.reader: Reading | None = None

    def add(self, done: Input) -> None:
        """Counts an input that is done, or has failed."""
        if done.error is None:
            self.tagged += 1
            self.seconds += done.seconds
            self.cut += done.cut
        else:
            self.failed[done.error.kind] += 1

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def done(self) -> int:
        """Inputs of this run that are tagged or failed."""
        return self.tagged + sum(self.failed.values())

    @property
    def left(self) -> float | None:
        """Seconds to the end at the rate so far; None while inputs are still being listed."""
        reader = self.reader
        if reader is None or not reader.listed_all or not self.done:
            return None
        remaining: float = reader.total - self.done
        return self.elapsed / self.done * remaining

    def bound(self) -> str:
        """Which stage the others wait for, and how long they do."""
        reader, elapsed = self.reader, max(self.elapsed, 1e-9)
        if reader is None:
            return ""
        busy = reader.decoding / elapsed
        idle = reader.model_idle / elapsed
        decoders = f"{min(busy, reader.decoders):.1f} of {reader.decoders} decoders busy, model idle {idle:.0%}"
        if self.waiting_to_write > 0.1 * elapsed:
            return f"write-bound: {decoders}"
        if idle < 0.1:
            return f"model-bound: {decoders}"
        return f"{'decode' if busy > 0.7 * reader.decoders else 'list'}-bound: {decoders}"

    def line(self) -> str:
        """The state of the run in a line."""
        count = f"{self.done} files" if self.reader is None or not self.reader.listed_all else self._of_all()
        rate = f"{self.done / max(self.elapsed, 1e-9):.1f} files/s, {self.real_time:.0f} x real time"
        left = "" if self.left is None else f", {_duration(self.left)} left"
        failed = f", {sum(self.failed.values())} failed" if self.failed else ""
        return f"{count}, {rate}{left}{failed}; {self.bound()}"

    def _of_all(self) -> str:
        assert self.reader is not None
        return f"{self.done} of {self.reader.total} files"

    @property
    def real_time(self) -> float:
        """Seconds of audio a second."""
        return self.seconds / max(self.elapsed, 1e-9)

    def report(self) -> dict[str, Any]:
        """The counts as JSON."""
        reader = self.reader
        return {
            "tagged": self.tagged,
            "failed": dict(self.failed),
            "failed_before": self.failed_before,
            "skipped": self.skipped,
            "repeated": self.repeated,
            "cut": self.cut,
            "passed_over": dict(self.passed_over),
            "hours": round(self.seconds / 3600, 6),
            "seconds": round(self.elapsed, 3),
            "real_time": round(self.real_time, 2),
            "decoding": round(reader.decoding, 3) if reader else 0.0,
            "model_idle": round(reader.model_idle, 3) if reader else 0.0,
            "bound": self.bound(),
        }

    def summary(self) -> str:
        """The last line of a run."""
        parts = [f"{self.tagged} tagged"]
        if self.skipped:
            parts.append(f"{self.skipped} done before")
        if self.repeated:
            parts.append(f"{self.repeated} listed twice")
        if self.failed:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.failed.most_common())
            parts.append(f"{sum(self.failed.values())} failed ({kinds})")
        if self.failed_before:
            parts.append(f"{self.failed_before} failed before")
        if self.passed_over:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.passed_over.most_common())
            parts.append(f"{self.passed_over.total()} left out ({kinds})")
        if not self.done:
            return ", ".join(parts)
        audio = f"{self.seconds / 3600:.2f} h of audio in {_duration(self.elapsed)}, {self.real_time:.0f} x real time"
        return f"{', '.join(parts)}; {audio}; {self.bound()}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
