"""A launcher that compiles each launch for a GPU that is not here and executes its PTX on the CPU.

The emulator is a development tool beside the repository (../shared/tools/ptxemu); where it is missing, tests skip.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from astfast.kernels.launch import Launch
from tests import ROOT
from tests.emulation import ptx_additions, ptx_clocks, ptx_mbarriers
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
    ptx_clocks.install(module)
    ptx_mbarriers.install(module)
    return module


def tensor_map(descriptor: Any, meta: dict[str, Any]) -> Any:
    """A TMA descriptor as an argument of the emulator: the tensor's address, then what the map says of its tiles."""
    tma = importlib.import_module("ptxemu.tma")
    width = descriptor.base.element_size()
    strides = [stride * width for stride in reversed(descriptor.strides[:-1])]
    raw = tma.encode_tensormap(
        0, descriptor.shape[::-1], strides, meta["block_size"][::-1], meta["elem_type"], meta["swizzle"]
    )
    return ptxemu().Struct("<Q120s", descriptor.base, raw[8:])


class Counts(NamedTuple):
    """What one launch did, of the emulator's account, which holds on to the launch's memories."""

    kernel: str
    instructions: int  # of all warps
    bytes_asked: int  # of global memory, by threads
    bytes_moved: float  # of the sectors that they lie in
    bank_cycles: float  # of shared memory
    ideal_bank_cycles: float  # without conflicts

    @classmethod
    def of(cls, kernel: str, stats: Any) -> "Counts":
        asked, sectors, cycles = (
            stats.sum("global", "bytes"),
            stats.sum("global", "total"),
            stats.sum("shared", "total"),
        )
        return cls(kernel, sum(stats.warp_ops.values()), asked, 32 * sectors, cycles, stats.ideal_bank_cycles())


@dataclass
class Emulator:
    """Runs launches on CPU tensors as ``arch`` would, and counts what each does.

    Races in shared memory are looked for in the first launch of a kernel with its grid and numbers: which warp touches
    what, and when, depends on no tensor's values. Those in global memory, whose tensors differ, in every launch.
    """

    arch: int
    races: bool = True
    edit_ptx: Callable[[str], str] | None = None  # plants a bug
    counts: list[Counts] = field(default_factory=list)
    watched: set[tuple[Any, ...]] = field(default_factory=set)  # launches whose shared memory was

    def __call__(self, launch: Launch) -> None:
        emulator = ptxemu()
        adapter = importlib.import_module("ptxemu.triton_adapter")
        kernel = compile_for(launch, "cuda", self.arch)
        ptx = kernel.asm["ptx"] if self.edit_ptx is None else self.edit_ptx(kernel.asm["ptx"])
        constants = signature(launch)[1]
        names = [p.name for p in launch.kernel.params if p.name not in constants]
        described = iter(getattr(kernel.metadata, "tensordesc_meta", None) or ())
        values: list[Any] = []
        labels = []
        for name in names:
            value = launch.args[name]
            if hasattr(value, "block_shape"):  # a TMA descriptor: its map, shape and strides
                parts = [tensor_map(value, next(described)), *value.shape, *value.strides]
            else:
                marked = emulator.Out(value) if name in launch.outputs else value
                parts = [adapter._flatten(marked) if hasattr(value, "data_ptr") else value]
            values += parts
            labels += [name] * len(parts)
        entry = emulator.load_module(ptx).entries[kernel.metadata.name]
        scratch = len(entry.params) - len(values)  # pointers that Triton appends, unused by these kernels
        assert kernel.metadata.global_scratch_size == 0
        numbers = [value for value in values if isinstance(value, int | float)]
        kind = (ptx, launch.grid, *numbers)
        result = emulator.run_ptx(
            ptx,
            kernel.metadata.name,
            launch.grid,
            32 * kernel.metadata.num_warps,  # those of specialised warps among them
            values + [None] * scratch,
            shared=kernel.metadata.shared,
            names=labels + [f"scratch{i}" for i in range(scratch)],
            race=self.races and kind not in self.watched,
            global_race=self.races,
        )
        assert not result.unwritten, f"{launch.name} left {result.unwritten} unwritten"
        self.watched.add(kind)
        self.counts.append(Counts.of(launch.name, result.stats))
