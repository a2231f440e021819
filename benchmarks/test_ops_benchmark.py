"""The ops under pytest-benchmark: ``pytest benchmarks/test_ops_benchmark.py``, to compare and to keep histories.

Each op is judged by the bar of the tests before it is timed.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from astfast.backends.cpu.ops import CpuOps
from benchmarks import op_calls
from benchmarks.op_calls import op_cases

OPS = [case.name for case in op_cases.cases(op_cases.TINY, "float32")]


@pytest.mark.parametrize("geometry", ["ast-base", "speech-commands"])
@pytest.mark.parametrize("precision", op_calls.PRECISIONS)
@pytest.mark.parametrize("op", OPS)
def test_op(benchmark: BenchmarkFixture, op: str, precision: str, geometry: str) -> None:
    sizes = op_calls.GEOMETRIES[geometry]
    [case] = [case for case in op_cases.cases(sizes, precision) if case.name == op]
    ops = CpuOps(sizes.heads, precision)
    call = op_calls.native_call(case, ops)
    error, _ = op_calls.errors(case, sizes, ops, call)
    benchmark.extra_info.update(max_error=error, operations=case.flops)
    benchmark.group = f"{op} {precision} {geometry}"
    benchmark(call)
