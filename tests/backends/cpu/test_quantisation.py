"""int8 on weights that make it hard: outlier channels, outlier neurons, attention sinks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from astfast.backends.cpu.ops import CpuOps
from astfast.backends.cpu.quantisation import output_magnitudes, spread_input_outliers, spread_outliers
from astfast.backends.cpu.tiers import native
from tests.cases import op_cases
from tests.cases.op_cases import ODD

TIERS = [name for name, missing in native().tiers() if not missing]
VNNI = [name for name in TIERS if "vnni" in name or name == "avx512_bf16"]  # with kernels of their own


def test_outlier_channels_are_spread_exactly_and_to_effect() -> None:
    g = ODD
    rng = np.random.default_rng(6)
    gamma, beta = 1 + 0.3 * rng.standard_normal(g.hidden), 0.3 * rng.standard_normal(g.hidden)
    gamma[[3, 50]] *= 25
    weight = rng.standard_normal((g.mlp, g.hidden)).astype(np.float32)
    w = op_cases.NormLinear(
        op_cases.LayerNorm(gamma.astype(np.float32), beta.astype(np.float32), 1e-12),
        op_cases.Linear(weight, np.zeros(g.mlp, np.float32)),
    )
    x = torch.from_numpy(rng.standard_normal((2, 40, g.hidden)))
    exactly = op_cases.ReferenceOps(g.heads, torch.float64)
    exact = exactly.norm_linear(x, exactly.pack_norm_linear(w)).numpy()
    spread = exactly.norm_linear(x, exactly.pack_norm_linear(spread_outliers(w))).numpy()
    np.testing.assert_allclose(spread, exact, rtol=0, atol=2.0**-22 * np.abs(exact).max())
    assert spread_outliers(spread_outliers(w)).norm.weight.max() < gamma.max() / 5

    ops = CpuOps(g.heads, "int8", 2, tier="scalar")  # of 127 levels, where outliers matter
    plainly = op_cases.QuantisedOps(g.heads, "scalar")
    plain = plainly.norm_linear(x, plainly.pack_norm_linear(w)).numpy()
    y = ops.norm_linear(x.float().numpy(), ops.pack_norm_linear(w), ops.empty((2, 40, g.mlp), "activation"))
    assert np.std(op_cases.from_bfloat16_bits(y) - exact) < 0.7 * np.std(plain - exact)


@pytest.mark.parametrize("tier", VNNI)
def test_rows_to_one_side_of_zero_get_all_levels(tier: str) -> None:
    """Outputs of a GELU have a quarter of the error that levels up to their magnitude on either side would leave."""
    rng = np.random.default_rng(3)
    w = op_cases.Linear(np.eye(256, dtype=np.float32), np.zeros(256, np.float32))  # as exact in bytes
    hidden = torch.nn.functional.gelu(torch.from_numpy(rng.standard_normal((1, 50, 256)) * 2)).bfloat16().double()
    plainly = op_cases.QuantisedOps(2, "scalar")
    symmetric = plainly.linear_residual(hidden, plainly.pack_linear(w), torch.zeros(256)).numpy()
    ops = CpuOps(2, "int8", 2, tier=tier)
    bits = hidden.bfloat16().view(torch.uint16).numpy()
    y = ops.linear_residual(bits, ops.pack_linear(w), np.zeros((1, 50, 256), np.float32))
    error, of_symmetric = (np.square(x - hidden.numpy()).mean() for x in (y, symmetric))
    assert error < 0.35 * of_symmetric


def test_outliers_of_an_input_are_spread_exactly_and_to_effect() -> None:
    """A few neurons of an MLP thirty times the others: no row of hidden values loses the others to them."""
    rng = np.random.default_rng(9)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    fc1 = op_cases.Linear(normal(256, 64) / 8, normal(256) / 10)
    fc1.weight[::80] *= 30
    norm = op_cases.LayerNorm(1 + 0.3 * normal(64), 0.3 * normal(64), 1e-12)
    layer, fc2 = op_cases.NormLinear(norm, fc1), op_cases.Linear(normal(64, 256) / 16, normal(64))
    spread, factors = spread_input_outliers(fc2, output_magnitudes(layer))
    assert factors is not None
    assert set(np.flatnonzero(factors < 1)) == set(range(0, 256, 80))
    np.testing.assert_allclose(spread.weight * factors, fc2.weight, rtol=2.0**-22)

    hidden = torch.nn.functional.gelu(
        torch.from_numpy(normal(1, 40, 64)) * torch.from_numpy(norm.weight) @ fc1.weight.T
    )
    bits = op_cases.bfloat16_bits(hidden.numpy())
    exact = op_cases.from_bfloat16_bits(bits).astype(np.float64) @ fc2.weight.T.astype(np.float64) + fc2.bias
    ops = CpuOps(1, "int8", 2, tier="scalar")  # of 127 levels
    errors = [
        np.std(ops.linear_residual(bits, w, np.zeros((1, 40, 64), np.float32)) - exact)
        for w in (ops.pack_linear(fc2), ops.pack_linear(fc2, input_layer=layer))
    ]
    assert errors[1] < 0.4 * errors[0]


@pytest.mark.parametrize("tier", TIERS)
def test_keys_beside_one_that_takes_most_of_the_attention_still_count(tier: str) -> None:
    """An attention sink: 1,000 keys share a third of the probability, less than half a step of 255 each. Values have a
    mean, and all keys a common part, which takes levels from what differs but changes no probability."""
    rng = np.random.default_rng(11)
    q, kv = np.ones((1, 4, 32), np.float32), rng.standard_normal((1, 1001, 64)).astype(np.float32)
    kv[..., :32] = 8 + 0.1 * kv[..., :32]
    kv[0, 700, :32] += 7.6 / 32**0.5  # e^7.6 is twice the sum of the others
    kv[..., 32:] += 1
    kv[0, 700, 32:] = -3
    bits = [op_cases.bfloat16_bits(x) for x in (q, kv)]
    exactly = op_cases.ReferenceOps(1, torch.float64)
    exact = exactly.attention(*(torch.from_numpy(op_cases.from_bfloat16_bits(x)).double() for x in bits)).numpy()
    y = CpuOps(1, "int8", 2, tier=tier).attention(*bits, np.empty_like(bits[0]))
    assert np.abs(op_cases.from_bfloat16_bits(y) - exact).max() < 0.05


def int8_attention(
    q: np.ndarray, kv: np.ndarray, tier: str, sizes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Of one head, and the float64 one of the same bfloat16 operands."""
    bits = [op_cases.bfloat16_bits(x.astype(np.float32)) for x in (q, kv)]
    exact = [torch.from_numpy(op_cases.from_bfloat16_bits(x)).double() for x in bits]
    y = CpuOps(1, "int8", 2, tier=tier).attention(*bits, np.empty_like(bits[0]), sizes)
    sizes_of_keys = None if sizes is None else torch.from_numpy(sizes).double()
    return op_cases.from_bfloat16_bits(y), op_cases.ReferenceOps(1, torch.float64).attention(
        *exact, sizes=sizes_of_keys
    ).numpy()


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("head_dim", [16, 63, 64, 65, 96, 128, 129, 200, 256])
@pytest.mark.parametrize("keys", [2, 48, 63, 64, 65, 90, 130])
def test_scores_at_the_limit_of_their_sums(keys: int, head_dim: int, tier: str) -> None:
    """Queries and keys of ones and minus ones: sums are as large as they get, of either sign. Places of a panel
    without a key would count as one of the least score."""
    rng = np.random.default_rng(head_dim)
    signs = np.where(np.arange(keys) % 2 == 0, 1.0, -1.0)[:, None]
    kv = signs * np.concatenate([np.ones((keys, head_dim)), rng.uniform(0.8, 1, (keys, head_dim))], axis=1)
    for score in (0.5, 4.0, 30.0):
        q = np.concatenate([np.ones((3, head_dim)), -np.ones((3, head_dim))]) * score / head_dim**0.5
        y, exact = int8_attention(q[None], kv[None], tier)
        # Half a step of a value, a step of a probability, and a rounding of the result.
        np.testing.assert_allclose(y, exact, rtol=0, atol=1 / 254 + 2 / 255 + 2.0**-9)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("size", [1, 2, 40, 2048, 2436, 4096, 1e6, 1e30])
@pytest.mark.parametrize("score", [1e-3, 0.5, 7.5, 40.0])
def test_a_token_of_any_size_beside_scores_at_the_limit_of_their_sums(score: float, size: float, tier: str) -> None:
    """Tokens that stand for thousands: there may be as many before merging as int8's attention never sees."""
    signs = np.where(np.arange(8) % 2, -1.0, 1.0)[:, None]
    kv = np.concatenate([signs * np.ones((8, 64)), np.zeros((8, 64))], axis=1)[None]
    kv[0, 2, 64:] = 1
    sizes = np.ones((1, 8), np.float32)
    sizes[0, 2] = size
    q = np.concatenate([np.ones((1, 1, 64)), -np.ones((1, 1, 64))], axis=1) * score / 8
    y, exact = int8_attention(q, kv, tier, sizes)
    np.testing.assert_allclose(y, exact, rtol=0, atol=1 / 254 + 2 / 255 + 2.0**-9)
