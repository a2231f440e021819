"""Launchers for machines without a GPU: Triton's interpreter, a recorder, and ahead-of-time compilation for any GPU."""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton
from triton.runtime.jit import JITFunction, mangle_type

from astfast.kernels.launch import Launch

POINTERS = {  # Triton's names of pointers to torch's types
    "float32": "*fp32",
    "float16": "*fp16",
    "bfloat16": "*bf16",
    "float8_e4m3fn": "*fp8e4nv",
    "int16": "*i16",
    "int32": "*i32",
}


def interpret(launch: Launch) -> None:
    """Runs the kernel's source, program after program, in numpy on CPU tensors. Not for bfloat16: the interpreter
    computes on its bits."""
    with interpreted_language():
        interpreted(launch.kernel)[launch.grid](**launch.args)


@functools.cache
def interpreted(kernel: JITFunction[Any]) -> Any:
    """A copy of the kernel, and of every kernel function that it calls, for Triton's interpreter."""
    from triton.runtime.interpreter import InterpretedFunction

    fn = kernel.fn
    called = {name: value for name, value in fn.__globals__.items() if isinstance(value, JITFunction)}
    scope = fn.__globals__ | {name: interpreted(called[name]) for name in fn.__code__.co_names if name in called}
    copy = types.FunctionType(fn.__code__, scope, fn.__name__, fn.__defaults__, fn.__closure__)
    copy.__annotations__ = fn.__annotations__
    return InterpretedFunction(copy)


def scan_slices(self: Any, inputs: tuple[Any, ...]) -> list[Any]:
    """tl.associative_scan in the interpreter, a slice at a time: Triton's own combines number after number."""
    arrays = [np.moveaxis(x.handle.data, self.axis, 0) for x in inputs]
    rows = [[array[0] for array in arrays]]
    for i in range(1, len(arrays[0])):
        operands = [*rows[-1], *(array[i] for array in arrays)]
        tensors = [self.to_tensor(x, inputs[j % len(inputs)].dtype) for j, x in enumerate(operands)]
        rows.append([x.handle.data for x in self.combine_fn.fn(*tensors)])
    found = (np.stack(column, axis=self.axis) for column in zip(*rows, strict=True))
    return [self.to_tensor(x, each.dtype) for x, each in zip(found, inputs, strict=True)]


@contextlib.contextmanager
def interpreted_language() -> Iterator[None]:
    """Triton's own library (tl.sum, tl.cdiv, ..) interpreted, as if TRITON_INTERPRET had been set before the import."""
    from triton.runtime.interpreter import InterpretedFunction, ScanOps

    ScanOps.generic_scan = scan_slices
    triton.runtime.jit.mangle_type(0)  # imports more of Triton on its first call, which must see the original functions
    modules = [module for name, module in sys.modules.items() if name.startswith("triton.language")]
    before = [(module, dict(vars(module))) for module in modules]
    functions = {id(f): InterpretedFunction(f.fn) for _, names in before for f in names.values() if _compiled(f)}
    for module, names in before:
        vars(module).update((name, functions[id(f)]) for name, f in names.items() if _compiled(f))
    try:
        yield
    finally:
        # All of it: an interpreted function that is called by another leaves its changes of the language behind.
        for module, names in before:
            vars(module).update(names)


def _compiled(value: object) -> bool:
    return isinstance(value, JITFunction)


@dataclass
class Recorder:
    """A launcher that keeps launches and runs none; their tensors may be on the "meta" device."""

    launches: list[Launch] = field(default_factory=list)

    def __call__(self, launch: Launch) -> None:
        self.launches.append(launch)


def signature(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], Any]]:
    """(type of each argument, constants by name, attributes by position), as Triton's own launch would specialise:
    pointers and integers that are multiples of 16 are marked, None and integers equal to 1 become constants."""
    types_, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(launch.kernel.params):
        value = launch.args[parameter.name]
        specialise = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (specialise and type(value) is int and value == 1):
            types_[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        aligned = False
        if hasattr(value, "data_ptr"):
            types_[parameter.name] = POINTERS[str(value.dtype).removeprefix("torch.")]
            aligned = value.storage_offset() * value.element_size() % 16 == 0
        elif hasattr(value, "block_shape"):
            types_[parameter.name] = mangle_type(value)  # a TMA descriptor
        elif isinstance(value, float):
            types_[parameter.name] = "fp32"
        else:
            types_[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            aligned = value % 16 == 0
        if aligned and specialise:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return types_, constants, attributes


def compile_for(launch: Launch, backend: str = "cuda", arch: int | str = 90) -> Any:
    """Triton's compiled kernel (``.asm``, ``.metadata``) for a GPU that need not be here: ("cuda", 80), ("hip",
    "gfx942")."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    types_, constants, attributes = signature(launch)
    kind = GluonASTSource if launch.kernel.is_gluon() else ASTSource
    source = kind(launch.kernel, signature=types_, constexprs=constants, attrs=attributes)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    target = GPUTarget(backend, arch, 64 if backend == "hip" else 32)
    return triton.compile(source, target=target, options=options)
