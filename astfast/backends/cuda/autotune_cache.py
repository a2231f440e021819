"""Which of the GPU's ops are run by kernels and which by torch: verdicts of checks and timings, kept between runs.

The file holds a table for each machine (GPU, driver, torch, Triton, kernels): what was right or fast on another one
says nothing here. Nothing in this module needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from astfast import cache as cache_file

FILE = "kernels.json"


@dataclass(frozen=True)
class Verdict:
    """What is known of one op on tensors of certain shapes."""

    wrong: str | None = None  # why its kernel can't be used; None for one that passed its check
    kernel_seconds: float | None = None  # None where it was not timed
    torch_seconds: float | None = None

    @property
    def timed(self) -> bool:
        return self.kernel_seconds is not None and self.torch_seconds is not None

    @property
    def kernel_is_faster(self) -> bool:
        """Of two that are right; so is one that was not timed."""
        if self.kernel_seconds is None or self.torch_seconds is None:
            return True
        return self.kernel_seconds <= self.torch_seconds


def tables() -> dict[str, dict[str, Verdict]]:
    """All verdicts of the file, by machine and call; entries of another form are left out."""
    return {machine: _verdicts(table) for machine, table in cache_file.read(FILE).items()}


def remember(machine: str, call: str, verdict: Verdict) -> None:
    """Adds one verdict to the file."""

    def change(content: dict[str, Any]) -> None:
        table = content.get(machine)
        content[machine] = {**(table if isinstance(table, dict) else {}), call: asdict(verdict)}

    cache_file.update(FILE, change)


def lines(table: Mapping[str, Verdict]) -> list[str]:
    """The table as text for people, a line a call: who serves it, and both times in microseconds."""
    width = max(map(len, table), default=0)
    return [f"{call:<{width}}  {_said(verdict)}" for call, verdict in sorted(table.items())]


def _said(verdict: Verdict) -> str:
    if verdict.wrong is not None:
        return f"torch   (kernel: {verdict.wrong})"
    if verdict.kernel_seconds is None or verdict.torch_seconds is None:
        return "kernel  (not timed)"
    winner = "kernel" if verdict.kernel_is_faster else "torch"
    return f"{winner:<6}  kernel {1e6 * verdict.kernel_seconds:9.1f} us  torch {1e6 * verdict.torch_seconds:9.1f} us"


def _verdicts(table: Any) -> dict[str, Verdict]:
    if not isinstance(table, dict):
        return {}
    found = {}
    for call, entry in table.items():
        if not isinstance(entry, dict) or set(entry) != {"wrong", "kernel_seconds", "torch_seconds"}:
            continue
        times = (entry["kernel_seconds"], entry["torch_seconds"])
        if all(x is None or isinstance(x, float) for x in times) and isinstance(entry["wrong"], str | None):
            found[call] = Verdict(entry["wrong"], *times)
    return found
