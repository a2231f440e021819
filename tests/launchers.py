"""Launchers for machines without a GPU: Triton's interpreter, a recorder, and ahead-of-time compilation for any GPU."""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import triton
from triton.runtime.jit import mangle_type

from astfast.kernels.launch import DEPENDENT, Launch
from tests import ROOT, interpreter

ONE_AT_A_TIME = threading.Lock()
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
    computes on its bits. Raises RuntimeError with the traceback of the process in which that is done."""
    function = launch.kernel.fn
    request = interpreter.dumps((function.__module__, function.__name__, launch.grid, launch.args))
    with ONE_AT_A_TIME:
        process = interpreting_process()
        pickle.dump(request, process.stdin)
        process.stdin.flush()
        answer = interpreter.loads(pickle.load(process.stdout))
    if isinstance(answer, str):
        raise RuntimeError(answer)
    for name, values in answer.items():
        launch.args[name].copy_(values)


@functools.cache
def interpreting_process() -> Any:
    """The process of tests/interpreter.py that serves this one until it ends."""
    command = [sys.executable, "-m", "tests.interpreter"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(process.communicate)  # ends it and waits
    return process


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
    arguments = {DEPENDENT: False} | launch.args | launch.options
    for i, parameter in enumerate(launch.kernel.params):
        value = arguments[parameter.name]
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
    options = {name: value for name, value in launch.options.items() if name != DEPENDENT}  # a constant
    target = GPUTarget(backend, arch, 64 if backend == "hip" else 32)
    return triton.compile(source, target=target, options=options)
