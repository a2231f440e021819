"""Tiny, huge and non-finite numbers, very long rows and many keys: every tier gives the same, to its precision."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from astfast.backends.cpu.ops import PRECISIONS, CpuOps
from astfast.backends.cpu.tiers import native
from tests.cases import op_cases
from tests.cases.op_cases import Linear

TIERS = [name for name, missing in native().tiers() if not missing]
EPSILON = {"float32": 2.0**-22, "bfloat16": 2.0**-7, "int8": 2.0**-5}  # relative, of a product of 64 columns


def activations(x: np.ndarray, ops: CpuOps) -> np.ndarray:
    return x if ops.precision == "float32" else op_cases.bfloat16_bits(x)


def floats(y: np.ndarray) -> np.ndarray:
    return op_cases.from_bfloat16_bits(y) if y.dtype == np.uint16 else y


def product(ops: CpuOps, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """x W^T as linear_residual adds it to zeros."""
    w = ops.pack_linear(Linear(weight, np.zeros(len(weight), np.float32)))
    return ops.linear_residual(activations(x, ops), w, np.zeros((*x.shape[:-1], len(weight)), np.float32))


def operands(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((1, 5, 64)).astype(np.float32), rng.standard_normal((50, 64)).astype(np.float32)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scale", [1e-25, 1e-29, 1e-32, 1e-37, 1e-39, 1e-43, 0.0])
def test_tiny_rows_and_weights(scale: float, precision: str, tier: str) -> None:
    """What is below the finest step becomes zero; nothing becomes NaN, or larger than it was."""
    ops = CpuOps(1, precision, 2, tier=tier)
    x, weight = operands()
    exact = x.astype(np.float64) @ weight.T.astype(np.float64)
    for row in (0, 3):
        small, tiny = x.copy(), weight.copy()
        small[0, row] *= np.float32(scale)
        tiny[row] *= np.float32(scale)
        coarse = op_cases.SMALLEST_LARGEST / 127 if precision == "int8" else 2.0**-126  # some tiers know no denormals
        bound = EPSILON[precision] * scale * 64 + 64 * 4 * coarse
        y = product(ops, small, weight)
        assert np.abs(y[0, row] - exact[0, row] * scale).max() <= bound
        np.testing.assert_array_equal(np.delete(y, row, 1), np.delete(product(ops, x, weight), row, 1))
        y = product(ops, x, tiny)
        assert np.abs(y[..., row] - exact[..., row] * scale).max() <= bound
        np.testing.assert_array_equal(np.delete(y, row, 2), np.delete(product(ops, x, weight), row, 2))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_huge_rows_have_finite_products(precision: str, tier: str) -> None:
    ops = CpuOps(1, precision, 2, tier=tier)
    x, weight = operands()
    exact = x.astype(np.float64) @ weight.T.astype(np.float64)
    largest = np.abs(x).max()
    for huge, scale in ((x * np.float32(3e38 / largest), 3e38 / largest), (x * np.float32(1e30), 1e30)):
        y = product(ops, huge, weight * np.float32(1e-12))
        np.testing.assert_allclose(y / (1e-12 * scale), exact, rtol=0, atol=64 * EPSILON[precision])
        y = product(ops, x * np.float32(1e-12), weight * np.float32(1e37))
        np.testing.assert_allclose(y / 1e25, exact, rtol=0, atol=64 * EPSILON[precision])


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_comes_out_so_and_alone(bad: float, precision: str, tier: str) -> None:
    """NaN stays NaN wherever it stands, however many numbers come after it; infinity is NaN too where it has no
    levels, and under a LayerNorm. A weight's row is a column of the result."""
    ops = CpuOps(1, precision, 2, tier=tier)
    x, weight = operands()
    clean = product(ops, x, weight)
    norm = op_cases.LayerNorm(np.ones(64, np.float32), np.zeros(64, np.float32), 1e-6)
    packed = ops.pack_norm_linear(op_cases.NormLinear(norm, Linear(weight, np.zeros(50, np.float32))))

    def normed(x: np.ndarray, activation: Any) -> np.ndarray:
        return floats(ops.norm_linear(x, packed, ops.empty((1, 5, 50), "activation"), activation))

    for column in (0, 17, 63):
        spoilt, corrupt = x.copy(), weight.copy()
        spoilt[0, 2, column] = corrupt[7, column] = bad
        y = product(ops, spoilt, weight)
        assert not np.isfinite(y[0, 2]).any()
        assert np.isnan(y[0, 2]).all() or (np.isinf(bad) and precision != "int8")
        np.testing.assert_array_equal(np.delete(y, 2, 1), np.delete(clean, 2, 1))
        y = product(ops, x, corrupt)
        assert not np.isfinite(y[..., 7]).any()
        np.testing.assert_array_equal(np.delete(y, 7, 2), np.delete(clean, 7, 2))
        for activation in (None, "gelu"):
            y = normed(spoilt, activation)
            assert np.isnan(y[0, 2]).all()
            np.testing.assert_array_equal(np.delete(y, 2, 1), np.delete(normed(x, activation), 2, 1))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("token", [0, 1, 40, 130, 149])
def test_attention_to_a_token_that_is_not_a_number(token: int, precision: str, tier: str) -> None:
    """A key spoils every query, a query itself, a value its own column."""
    ops = CpuOps(2, precision, 2, tier=tier)
    qkv = np.random.default_rng(1).standard_normal((1, 150, 96)).astype(np.float32)

    def attend(place: int | None) -> np.ndarray:
        x = qkv.copy()
        if place is not None:
            x[0, token, place] = np.nan
        x = activations(x, ops)
        return floats(ops.attention(x[..., :32], x[..., 32:], ops.empty((1, 150, 32), "activation")))[0]

    clean = attend(None)
    assert np.isfinite(clean).all()
    of_query, of_key, of_value = attend(3), attend(32 + 3), attend(64 + 3)  # all of the first of two heads
    assert np.isnan(of_query[token, :16]).all()
    of_query[token, :16] = clean[token, :16]
    np.testing.assert_allclose(of_query, clean, rtol=0, atol=2.0**-9)  # amx may take the others' exponentials anew
    assert np.isnan(of_key[:, :16]).all()
    np.testing.assert_array_equal(of_key[:, 16:], clean[:, 16:])
    assert np.isnan(of_value[:, 3]).all()
    np.testing.assert_array_equal(np.delete(of_value, 3, 1), np.delete(clean, 3, 1))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("k", [133_143, 133_144, 200_000])
def test_sums_over_very_long_rows_don_t_wrap(k: int, tier: str) -> None:
    """All operands at their limit: 127^2 k is 2^31 at the first length; beyond, there are fewer levels."""
    ops = CpuOps(1, "int8", 2, tier=tier)
    for sign in (1, -1):
        y = product(ops, np.full((1, 2, k), sign, np.float32), np.ones((3, k), np.float32))
        np.testing.assert_allclose(y, sign * k, rtol=k * op_cases.FLOAT32_ROUNDING)  # some tiers sum in float32


@pytest.mark.parametrize("tier", TIERS)
def test_many_keys_attend_in_bfloat16(tier: str) -> None:
    """To the bit what the precision bfloat16 computes there; up to the limit as the tier quantises."""
    int8, bfloat16 = (CpuOps(1, precision, 2, tier=tier) for precision in ("int8", "bfloat16"))
    most = op_cases.MOST_QUANTISED_KEYS
    qkv = op_cases.bfloat16_bits(np.random.default_rng(2).standard_normal((1, most + 1, 48)).astype(np.float32))
    quantised = op_cases.QuantisedOps(1, op_cases.serving_tier(int8)).probability_levels(most) < np.inf

    def attend(ops: CpuOps, keys: int) -> np.ndarray:
        return ops.attention(qkv[:, :5, :16], qkv[:, :keys, 16:], ops.empty((1, 5, 16), "activation"))

    np.testing.assert_array_equal(attend(int8, most + 1), attend(bfloat16, most + 1))
    assert (attend(int8, most) != attend(bfloat16, most)).any() == quantised


FEW_THREADS = """
import resource
from astfast.backends.cpu.ops import CpuOps
from astfast.errors import BackendError
limit = 2 << 30  # of address space: the stacks of some 250 threads
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    CpuOps(1, threads=4000)
except BackendError as error:
    print(error)
"""


def test_more_threads_than_the_system_has_are_refused_at_load() -> None:
    done = subprocess.run([sys.executable, "-c", FEW_THREADS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("the system starts no 4000 threads: ")
    assert done.stdout.rstrip().endswith("pass a smaller threads=, or set ASTFAST_NUM_THREADS to one")
