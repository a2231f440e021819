"""Kernel launches as values: a Triton kernel, its grid and every argument by name.

The functions beside the kernels build launches; the backend hands each to a launcher. ``run`` is the launcher of the
GPU, ``run_dependent`` the one of programmatic dependent launches; the tests have launchers that interpret, record or
emulate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import triton
import triton.language as tl
from triton.runtime.jit import JITFunction

DEPENDENT = "DEPENDENT"  # the constexpr of a kernel that may be launched so


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
    args: dict[str, Any]  # every parameter of the kernel by name, constexprs too, but DEPENDENT
    num_warps: int
    num_stages: int
    outputs: tuple[str, ...]
    work: Work
    dependent: bool = False  # programmatic dependent launch: compute capability 9.0 and newer, see await_grid

    @property
    def options(self) -> dict[str, Any]:
        """What Triton's compiler and launcher are told besides the arguments."""
        how = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        return how | ({DEPENDENT: True, "launch_pdl": True} if self.dependent else {})

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)

    @property
    def programs(self) -> int:
        return math.prod(self.grid)


Launcher = Callable[[Launch], None]


@triton.jit
def await_grid(DEPENDENT: tl.constexpr):
    """The first line of a kernel. As a dependent launch, which starts while the kernel before it ends: lets the kernel
    after it start likewise, and waits until the one before has ended and its results are in memory.

    All programs of all kernels wait before they touch memory: so a kernel that has ended is one before which all
    earlier ones had, and nothing is read or written out of turn (CUDA C++ Programming Guide, "Programmatic Dependent
    Launch"). Without ``DEPENDENT`` it is nothing.
    """
    if DEPENDENT:
        tl.inline_asm_elementwise(
            "griddepcontrol.launch_dependents; // $0", "=r", [], dtype=tl.int32, is_pure=False, pack=1
        )
        tl.inline_asm_elementwise("griddepcontrol.wait; // $0", "=r", [], dtype=tl.int32, is_pure=False, pack=1)


def run(launch: Launch) -> None:
    """Launches on the current stream of the current CUDA device; compiles at the first use."""
    launch.kernel[launch.grid](**launch.args, **launch.options)


def dependent(launch: Launch) -> Launch:
    """The launch as a programmatic dependent launch, where its kernel can be one."""
    return replace(launch, dependent=DEPENDENT in launch.kernel.arg_names)


def run_dependent(launch: Launch) -> None:
    """As ``run``, but a kernel may start while the one before it on the stream ends (``await_grid``)."""
    run(dependent(launch))
