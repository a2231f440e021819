"""Kernel launches as values: a Triton kernel, its grid and every argument by name.

The functions beside the kernels build launches; the backend hands each to a launcher. ``run`` is the launcher of the
GPU; the tests have launchers that interpret, record or emulate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from triton.runtime.jit import JITFunction


@dataclass(frozen=True)
class Work:
    """Least work of a launch, whatever its tiles: input of the roofline and of predictions."""

    flops: int = 0  # multiply and add count as two
    bytes: int = 0  # each input read once, each output written once
    exponentials: int = 0


@dataclass(frozen=True)
class Launch:
    """One kernel launch. ``outputs`` names the arguments that the kernel writes in full and never reads."""

    kernel: JITFunction[Any]
    grid: tuple[int, int, int]
    args: dict[str, Any]  # every parameter of the kernel by name, constexprs too
    num_warps: int
    num_stages: int
    outputs: tuple[str, ...]
    work: Work

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)

    @property
    def programs(self) -> int:
        return math.prod(self.grid)


Launcher = Callable[[Launch], None]


def run(launch: Launch) -> None:
    """Launches on the current stream of the current CUDA device; compiles at the first use."""
    launch.kernel[launch.grid](**launch.args, num_warps=launch.num_warps, num_stages=launch.num_stages)
