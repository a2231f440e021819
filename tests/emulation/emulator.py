"""A launcher that compiles each launch for a GPU that is not here and executes its PTX on the CPU.

The emulator is a development tool beside the repository (../shared/tools/ptxemu); where it is missing, tests skip.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from astfast.kernels.launch import Launch
from tests import ROOT
from tests.emulation import ptx_additions
from tests.launchers import compile_for, signature

FOLDER = ROOT.resolve().parent / "shared" / "tools" / "ptxemu"


@functools.cache
def ptxemu() -> Any:
    """The emulator's module; skips the calling test where it is not on this machine."""
    if not FOLDER.is_dir():
        pytest.skip("the PTX emulator is not on this machine (../shared/tools/ptxemu)")
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    module = importlib.import_module("ptxemu")
    ptx_additions.install(module)
    return module


@dataclass
class Emulator:
    """Runs launches on CPU tensors as ``arch`` would. ``results`` keeps the emulator's account of each launch."""

    arch: int
    races: bool = True
    edit_ptx: Callable[[str], str] | None = None  # plants a bug
    results: list[tuple[str, Any]] = field(default_factory=list)

    def __call__(self, launch: Launch) -> None:
        emulator = ptxemu()
        adapter = importlib.import_module("ptxemu.triton_adapter")
        kernel = compile_for(launch, "cuda", self.arch)
        ptx = kernel.asm["ptx"] if self.edit_ptx is None else self.edit_ptx(kernel.asm["ptx"])
        constants = signature(launch)[1]
        names = [p.name for p in launch.kernel.params if p.name not in constants]
        values = []
        for name in names:
            value = launch.args[name]
            marked = emulator.Out(value) if name in launch.outputs else value
            values.append(adapter._flatten(marked) if hasattr(value, "data_ptr") else value)
        entry = emulator.load_module(ptx).entries[kernel.metadata.name]
        scratch = len(entry.params) - len(values)  # pointers that Triton appends, unused by these kernels
        assert kernel.metadata.global_scratch_size == 0
        result = emulator.run_ptx(
            ptx,
            kernel.metadata.name,
            launch.grid,
            32 * launch.num_warps,
            values + [None] * scratch,
            shared=kernel.metadata.shared,
            names=names + [f"scratch{i}" for i in range(scratch)],
            race=self.races,
            global_race=self.races,
        )
        assert not result.unwritten, f"{launch.name} left {result.unwritten} unwritten"
        self.results.append((launch.name, result))
