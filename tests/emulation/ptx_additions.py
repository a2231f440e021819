"""Instructions that the PTX emulator of ../shared/tools does not know, added to its table of handlers.

sm_100 and newer: sums and products of a 16-bit and a float32 operand (PTX ISA 8.6, "mixed precision").
"""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIXTEEN_BIT = {"f16", "bf16"}
FORMULAS: dict[str, Any] = {
    "add": np.add,
    "sub": np.subtract,
    "fma": lambda a, b, c: a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64),
}


def install(ptxemu: Any) -> None:
    """Adds them, to be called once."""
    alu = importlib.import_module("ptxemu.alu")  # fills the table
    handlers = ptxemu.machine.HANDLERS
    for opcode, formula in FORMULAS.items():
        handlers[opcode] = _mixed(ptxemu, alu, handlers[opcode], formula)


def _mixed(ptxemu: Any, alu: Any, known: Any, formula: Any) -> Any:
    """A handler of ``<opcode>.rn.f32.<16-bit type>``, whose last operand is float32; others go to the known one."""

    def decode(machine: Any, instruction: Any) -> Any:
        types = SIXTEEN_BIT & set(instruction.mods)
        if "f32" not in instruction.mods or not types:
            return known(machine, instruction)
        (narrow,) = types
        alu.allow(instruction, "rn", "f32", narrow)
        out, *operands, last = instruction.operands
        sources = [machine.src(operand, narrow, instruction) for operand in operands]
        total = machine.src(last, "f32", instruction)

        def wide(bits: NDArray[Any]) -> NDArray[np.float32]:
            return ptxemu.numerics.bf16_to_f32(bits) if narrow == "bf16" else bits.astype(np.float32)

        def run(*values: NDArray[Any]) -> NDArray[np.float32]:
            return np.asarray(formula(*map(wide, values[:-1]), values[-1]), np.float32)

        return alu.emit(machine.dst(out, "f32", instruction), run, *sources, total)

    return decode
