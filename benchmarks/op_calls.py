"""Op cases of tests/cases/op_cases.py prepared for timing: weights packed, buffers allocated, results checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from astfast.backends.cpu.ops import CpuOps
from astfast.backends.reference import ReferenceOps
from tests.cases import op_cases
from tests.cases.op_cases import Geometry, OpCase

GEOMETRIES = {"ast-base": op_cases.BASE, "speech-commands": op_cases.SPEECH_COMMANDS, "tiny": op_cases.TINY}
PRECISIONS = ("float32", "bfloat16", "int8")
TORCH_DTYPE = {"float32": "float32", "bfloat16": "bfloat16", "int8": "bfloat16"}  # PyTorch has few ops in int8


def cases(geometry: Geometry, precision: str) -> list[OpCase]:
    """Those of tests/cases/op_cases.py, and norm_rows: fc1 of 16 columns, which is little but its rows' LayerNorm and
    their conversion to operands. Other parts: last_attention packs keys and values for two queries, fc1 is qkv with
    GELU."""
    few_columns = op_cases.cases(replace(geometry, mlp=16), precision)
    norm_rows = [replace(case, name="norm_rows", flops=0.0) for case in few_columns if case.name == "fc1"]
    return op_cases.cases(geometry, precision) + norm_rows


class Prepared:
    """An Ops backend that packs each weight, and allocates each buffer, only once.

    ``put`` does the same for the inputs of a case, so that after the first call a case costs nothing but its op.
    """

    def __init__(self, ops: Any, put: Callable[[np.ndarray, str], Any]) -> None:
        self._ops, self._put = ops, put
        self._kept: dict[Any, Any] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ops, name)
        if name == "empty":
            return lambda shape, kind: self._keep((shape, kind), lambda: method(shape, kind))
        if name.startswith("pack_"):
            return lambda w: self._keep((name, id(w)), lambda: method(w))
        return method

    def put(self, x: np.ndarray, kind: str) -> Any:
        return self._keep((id(x), kind), lambda: self._put(x, kind))

    def _keep(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def native_call(case: OpCase, ops: CpuOps) -> Callable[[], Any]:
    """The case on the CPU backend. Residuals grow from call to call: only the first result is that of the case."""
    as_bits = ops.precision != "float32"

    def put(x: np.ndarray, kind: str) -> np.ndarray:
        array: np.ndarray = ops.empty(x.shape, kind)
        array[...] = op_cases.bfloat16_bits(x) if as_bits and kind == "activation" else x
        return array

    prepared = Prepared(ops, put)
    return lambda: case.call(prepared, prepared.put)


def torch_call(case: OpCase, geometry: Geometry, precision: str) -> Callable[[], Any]:
    """The case by PyTorch's own ops in this dtype, for int8 in bfloat16."""
    dtype = getattr(torch, TORCH_DTYPE[precision])
    prepared = Prepared(ReferenceOps(geometry.heads, dtype), op_cases.on_torch(dtype))

    def run() -> Any:
        with torch.inference_mode():
            return case.call(prepared, prepared.put)

    return run


def errors(case: OpCase, geometry: Geometry, ops: CpuOps, call: Callable[[], Any]) -> tuple[float, float]:
    """(largest error against float64, that of ``torch_call``) of a fresh call.

    Raises AssertionError past the bar of the tests: twice what the precision's roundings cost, plus the case's floor.
    """
    result = call()
    result = op_cases.from_bfloat16_bits(result) if result.dtype == np.uint16 else result
    exact = op_cases.result_of(case, geometry, torch.float64)
    rounded = op_cases.at_precision(case, geometry, ops.precision, op_cases.serving_tier(ops))
    roundings = float(np.abs(rounded - exact).max())
    error = np.abs(result - exact)
    if not (error <= 2 * roundings + case.floor).all():
        raise AssertionError(f"{case.name} in {ops.precision} is off by {error.max():.2e}, rounded {roundings:.2e}")
    by_torch = op_cases.result_of(case, geometry, getattr(torch, TORCH_DTYPE[ops.precision]))
    return float(error.max()), float(np.abs(by_torch - exact).max())
