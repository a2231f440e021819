"""Autotuning results of GPU ops, Triton kernel or PyTorch, in a JSON cache file: load, store and describe them.

The file has a table for each environment (GPU, driver, PyTorch, Triton, kernel sources): what is correct or fast in one
of them says nothing about another. Nothing in this module needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from astfast import cache
from astfast.backends.cuda import kernel_trials

FILE = "kernels.json"
MARGIN = 1.03  # by which PyTorch must be faster before a kernel gives way: less is noise


@dataclass(frozen=True)
class KernelResult:
    """Check and timings of the kernel of one op on tensors of certain shapes."""

    failure: str | None = None  # why the kernel can't be used; None for one that passed its check
    kernel_seconds: float | None = None  # None if it was not timed
    torch_seconds: float | None = None

    @property
    def timed(self) -> bool:
        return self.kernel_seconds is not None and self.torch_seconds is not None

    @property
    def kernel_is_faster(self) -> bool:
        """Whether a kernel without failure is the one to use: as fast as PyTorch within ``MARGIN``, or not timed."""
        if self.kernel_seconds is None or self.torch_seconds is None:
            return True
        return self.kernel_seconds <= MARGIN * self.torch_seconds

    @property
    def share(self) -> float:
        """Time of the kernel as a share of PyTorch's; 1 if it was not timed."""
        if self.kernel_seconds is None or self.torch_seconds is None:
            return 1.0
        return self.kernel_seconds / self.torch_seconds


def load() -> dict[str, dict[str, KernelResult]]:
    """All results of the file: environment key -> key of the call -> result; among them the kernels that are left out
    because their first runs did not end. Malformed entries are left out."""
    found = {environment: _results(table) for environment, table in cache.read(FILE).items()}
    for environment, calls in kernel_trials.condemned().items():
        for call in calls:
            found.setdefault(environment, {}).setdefault(call, KernelResult(kernel_trials.FAILURE))
    return found


def store(environment: str, call: str, result: KernelResult) -> None:
    """Adds or replaces one result in the file."""

    def change(content: dict[str, Any]) -> None:
        table = content.get(environment)
        content[environment] = {**(table if isinstance(table, dict) else {}), call: asdict(result)}

    cache.update(FILE, change)


def describe(results: Mapping[str, KernelResult]) -> list[str]:
    """A line for each call: the implementation in use and the times of both in microseconds."""
    width = max(map(len, results), default=0)
    return [f"{call:<{width}}  {_describe(result)}" for call, result in sorted(results.items())]


def _describe(result: KernelResult) -> str:
    if result.failure is not None:
        return f"torch   (kernel: {result.failure})"
    if result.kernel_seconds is None or result.torch_seconds is None:
        return "kernel  (not timed)"
    winner = "kernel" if result.kernel_is_faster else "torch"
    return f"{winner:<6}  kernel {1e6 * result.kernel_seconds:9.1f} us  torch {1e6 * result.torch_seconds:9.1f} us"


def _results(table: Any) -> dict[str, KernelResult]:
    if not isinstance(table, dict):
        return {}
    found = {}
    for call, entry in table.items():
        if not isinstance(entry, dict) or set(entry) != {"failure", "kernel_seconds", "torch_seconds"}:
            continue
        times = (entry["kernel_seconds"], entry["torch_seconds"])
        if all(x is None or isinstance(x, float) for x in times) and isinstance(entry["failure"], str | None):
            found[call] = KernelResult(entry["failure"], *times)
    return found
