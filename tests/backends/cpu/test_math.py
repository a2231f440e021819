"""exp and GELU of the CPU engine over the whole range of float32, against float64; attention's probabilities.

In ulp of the output type: exp 1 (float32) and 2 (bfloat16), GELU 2 and 2, of which float32 takes 1.9 over all floats.
Its tail keeps its relative precision down to the smallest normal numbers.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from astfast.backends.cpu.ops import CpuOps
from astfast.backends.cpu.tiers import native
from tests.cases import op_cases

TIERS = [name for name, missing in native().tiers() if not missing]
FLUSHED = (
    2.0**-122
)  # tiers without scalef take powers of two below 2^-126 as zero, and GELU in bfloat16 multiplies them by up to 14
GELU_FLUSHED = 2.0**-127  # in float32 the factor is less than 0.6


def all_floats(step: int) -> np.ndarray:
    """Every step-th finite float32 of both signs."""
    bits = np.arange(0, 0x7F800000, step, dtype=np.uint32)
    return np.concatenate([bits.view(np.float32), (bits | 0x80000000).view(np.float32)])


def ulp(y: np.ndarray, mantissa_bits: int) -> np.ndarray:
    """Distance between neighbours of y in a type with so many explicit bits."""
    exponent = np.floor(np.log2(np.maximum(np.abs(y), 2.0**-126)))
    return np.exp2(exponent - mantissa_bits)


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([v * 0.5 * math.erfc(-v / math.sqrt(2.0)) for v in x.astype(np.float64).tolist()])


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("precision", "mantissa_bits", "flushed"), [("float32", 23, GELU_FLUSHED), ("bfloat16", 7, FLUSHED)]
)
def test_gelu_everywhere(precision: str, mantissa_bits: int, flushed: float, tier: str) -> None:
    x = np.concatenate([all_floats(60_013), np.linspace(-15, 15, 300_001, dtype=np.float32)])
    y, exact = native().ComputeContext(tier, precision, 1).gelu(x), gelu(x)
    error = np.abs(y - exact) / ulp(exact, mantissa_bits)
    error[(y == 0) & (np.abs(exact) < flushed)] = 0
    assert error.max() <= 2, (x[error.argmax()], error.max())


@pytest.mark.parametrize("tier", TIERS)
def test_gelu_in_int8_everywhere(tier: str) -> None:
    """A layer whose weights are zero gives gelu(bias). Tiers of 512 bits have it on straight lines, off by 0.00024 |x|
    up to 4, from where it is x or 0; other tiers' is bfloat16's."""
    x = np.concatenate([all_floats(60_013), np.linspace(-5, 5, 100_001, dtype=np.float32)])
    x = np.append(x[np.abs(x) < 2.0**127], np.float32(np.nan))
    k, count = 60, 17  # of columns and rows: enough for rows that end beside the next tile's products
    ops, zeros = CpuOps(1, "int8", 1, tier=tier), np.zeros(k, np.float32)
    layer = op_cases.NormLinear(
        op_cases.LayerNorm(zeros, zeros, 1e-6), op_cases.Linear(np.zeros((len(x), k), np.float32), x)
    )
    packed, out = ops.pack_norm_linear(layer), ops.empty((1, count, len(x)), "activation")
    rows = op_cases.from_bfloat16_bits(ops.norm_linear(np.zeros((1, count, k), np.float32), packed, out, "gelu"))[0]
    np.testing.assert_array_equal(rows, np.broadcast_to(rows[0], rows.shape))
    assert np.isnan(rows[0, -1])
    y, x = rows[0, :-1], x[:-1]
    exact = gelu(x)
    allowed = 0.00024 * np.minimum(np.abs(x), 4) + 0.6 * ulp(exact, 7) + FLUSHED
    assert np.all(np.abs(y - exact) <= allowed), x[np.argmax(np.abs(y - exact) / allowed)]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("precision", "mantissa_bits", "bar"), [("float32", 23, 1), ("bfloat16", 7, 2)])
def test_exp_everywhere(precision: str, mantissa_bits: int, bar: int, tier: str) -> None:
    x = np.concatenate([-np.abs(all_floats(30_011)), np.linspace(-110, 0, 500_001, dtype=np.float32)])
    y, exact = native().ComputeContext(tier, precision, 1).exp(x), np.exp(x.astype(np.float64))
    error = np.maximum(np.abs(y - exact) - FLUSHED, 0) / ulp(exact, mantissa_bits)
    assert error.max() <= bar, (x[error.argmax()], error.max())
    if precision == "float32":
        assert y[x == 0].tolist() == [1.0] * int((x == 0).sum())


@pytest.mark.parametrize("tier", TIERS)
def test_gelu_of_nan_is_nan(tier: str) -> None:
    x = np.full(33, np.nan, np.float32)
    assert np.isnan(native().ComputeContext(tier, "float32", 1).gelu(x)).all()


def outputs_of_last_key(
    keys: list[float], tier: str, precision: str = "bfloat16", value: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """(queries q from 1 to 4, the last key's probabilities times ``value``), [256] each, where scores are q / 4 times
    ``keys``."""
    ops = CpuOps(1, precision, 1, tier=tier)
    q, kv = np.zeros((1, 256, 16), np.float32), np.zeros((1, len(keys), 32), np.float32)
    q[0, :, 0] = np.concatenate([1 + np.arange(128) / 128, 2 + np.arange(128) / 64])  # all bfloat16 in [1, 4)
    kv[0, :, 0], kv[0, -1, 16:] = keys, value
    exact = precision == "float32"
    inputs = (q, kv) if exact else (op_cases.bfloat16_bits(x) for x in (q, kv))
    out = ops.attention(*inputs, ops.empty((1, 256, 16), "activation"))
    weighed = out if exact else op_cases.from_bfloat16_bits(out)
    return q[0, :, 0].astype(np.float64), weighed[0, :, 0].astype(np.float64)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("keys", [2, 37])
def test_probabilities_in_float32_are_as_exact_as_their_scores(keys: int, tier: str) -> None:
    """Roundings of the scale in units of log 2 and of the score it multiplies, 2^-24 each, are |score| times as large
    in the exponential; the exponential, the sum and the division round four times more.

    Others than the first and last key have weights so small that they are zero, and so has the last one at the end.
    """
    for last in [*np.linspace(-80.0, 0.0, 41).tolist(), -1000.0]:
        q, weighed = outputs_of_last_key([0.0, *[-400.0] * (keys - 2), last], tier, "float32")
        score = last * q / 4
        share = np.exp(score) / (1 + np.exp(score))
        share[np.exp(score) < 2.0**-126.5] = 0
        np.testing.assert_array_less(np.abs(weighed - share), (3 * np.abs(score) + 4) * 2.0**-24 * share + 2.0**-149)


@pytest.mark.parametrize("tier", TIERS)
def test_probabilities_in_bfloat16_are_right_in_the_mean(tier: str) -> None:
    """Half a unit is lost where fixed point is cut off, not rounded: all but a row's largest would be 0.002 too small.

    Of 256 queries, one key has a score of 0 and the other one between -2.5 and 0; its value is 1, so the output is
    p / (1 + p).
    """
    q, weighed = outputs_of_last_key([0, -2.5], tier)
    found, exact = weighed / (1 - weighed), np.exp(q * -2.5 / 4)
    error = found / exact - 1
    once = 2.0**-8 / math.sqrt(3)  # rms of rounding a number just above a power of two
    assert abs(error.mean()) < 4 * math.hypot(once, once) / math.sqrt(256)
    assert np.sqrt(np.square(error).mean()) < 2 * math.hypot(once, once)


@pytest.mark.parametrize("tier", TIERS)
def test_a_first_key_of_no_weight_changes_nothing(tier: str) -> None:
    """Bitwise: a row's largest probability is exact, and the others are rounded against it, whichever key is first."""
    _, weighed = outputs_of_last_key([0, -2.5], tier)
    for others in ([-100, 0], [0, -100]):  # of no weight: between e^-25 and e^-100
        np.testing.assert_array_equal(outputs_of_last_key([*others, -2.5], tier)[1], weighed)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("keys", [9, 20, 137])
def test_one_score_far_above_all_others_takes_all(keys: int, precision: str, tier: str) -> None:
    """Wherever its key stands in a part of a block: it was missed on AMX, where scores lie in another order."""
    for late in range(max(0, keys - 32), keys):
        scores = [400.0 if key == late else -400.0 for key in range(keys)]
        weight = float(late == keys - 1)
        np.testing.assert_allclose(outputs_of_last_key(scores, tier, precision)[1], weight, atol=2.0**-7)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("size", [2.0**21, 2.0**28, 2.0**33, 2.0**40, 1e30])
def test_huge_scores_are_compared_exactly(size: float, precision: str, tier: str) -> None:
    """Of two scores the larger one takes all, of two that are equal each takes half, in a later block too: on AMX,
    whose exponentials are in fixed point, roundings of such scores left it, and gave NaN."""
    for others in ([-size] * 2, [-size] * 140, [0.0] * 33, [size / 2] * 140):
        for last, weight in ((size, 1.0), (-2 * size, 0.0)):
            np.testing.assert_allclose(
                outputs_of_last_key([*others, last], tier, precision)[1], weight, atol=2.0**-7, err_msg=f"{len(others)}"
            )
        halves = outputs_of_last_key([*others, size, size], tier, precision)[1]
        np.testing.assert_allclose(halves, 0.5, atol=2.0**-7)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("first", [1, 40, 250])
def test_huge_scores_of_later_queries_alone(first: int, tier: str) -> None:
    """Not those of a call's first queries, by which it might judge all of them."""
    q, kv = np.zeros((1, 256, 16), np.float32), np.zeros((1, 142, 32), np.float32)
    q[0, :, 0] = np.where(np.arange(256) < first, 4.0, 2.0**33)
    kv[0, :, 0] = np.where(np.arange(142) < 140, -1.0, 1 + 2.0**-7)
    kv[0, -1, 16] = 1.0
    out = CpuOps(1, "bfloat16", 1, tier=tier).attention(
        op_cases.bfloat16_bits(q), op_cases.bfloat16_bits(kv), np.empty((1, 256, 16), np.uint16)
    )
    weighed = op_cases.from_bfloat16_bits(out)[0, :, 0]
    share = 1 / (2 + 140 * np.exp(-2 - 2.0**-7))
    np.testing.assert_allclose(weighed, np.where(np.arange(256) < first, share, 0.5), rtol=2.0**-6)


@pytest.mark.parametrize("tier", TIERS)
def test_large_values_of_a_key_far_above_the_first_block_stay_finite(tier: str) -> None:
    for score in (10.0, 44.0, 176.0):
        _, weighed = outputs_of_last_key([0.0] * 136 + [score], tier, value=1e30)
        share = 1 / (1 + 136 * np.exp(-score * np.concatenate([1 + np.arange(128) / 128, 2 + np.arange(128) / 64]) / 4))
        np.testing.assert_allclose(weighed / 1e30, share, rtol=2.0**-6)
