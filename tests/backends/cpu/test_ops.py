"""Every op of the CPU engine, on every tier that this machine has, against the reference in float64."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from astfast.backends.cpu import backend, tiers
from astfast.backends.cpu.ops import PRECISIONS, CpuOps
from astfast.backends.cpu.tiers import choose_tier, native
from astfast.errors import BackendError
from tests.cases import op_cases
from tests.cases.op_cases import BASE, ODD, QUICK, SPEECH_COMMANDS, TINY, Geometry, OpCase

TIERS = [name for name, missing in native().tiers() if not missing]


def on_cpu(precision: str) -> Any:
    """put for CpuOps: fresh numpy arrays, activations in the precision's own form."""
    as_bits = precision != "float32"
    return lambda x, kind: op_cases.bfloat16_bits(x) if as_bits and kind == "activation" else x.copy()


def run(case: OpCase, ops: CpuOps) -> np.ndarray:
    y = case.call(ops, on_cpu(ops.precision))
    return op_cases.from_bfloat16_bits(y) if y.dtype == np.uint16 else y


@cache
def expected(geometry: Geometry, precision: str, tier: str) -> list[tuple[OpCase, np.ndarray, np.ndarray]]:
    """(case, exact result, result with the roundings of the precision) for each op; int8 as this tier has it."""
    return [
        (
            case,
            op_cases.result_of(case, geometry, torch.float64),
            op_cases.at_precision(case, geometry, precision, tier),
        )
        for case in op_cases.cases(geometry, precision)
    ]


def judge(geometry: Geometry, precision: str, tier: str) -> None:
    ops = CpuOps(geometry.heads, precision, threads=2, tier=tier)
    serving = op_cases.serving_tier(ops) if precision == "int8" else "any"
    assert not op_cases.beyond_bound(expected(geometry, precision, serving), lambda case: run(case, ops))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", QUICK)
def test_error_at_most_twice_that_of_roundings(name: str, precision: str, tier: str) -> None:
    judge(QUICK[name], precision, tier)


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_error_at_most_twice_that_of_roundings_at_base(precision: str, tier: str) -> None:
    judge(BASE, precision, tier)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_depend_on_nothing_but_themselves(precision: str, tier: str) -> None:
    """Bitwise: a clip alone, at any position of a batch, cut to fewer rows, with one thread or three."""
    g = replace(ODD, mlp=790)  # on AMX in chunks of unequal length, in bfloat16 and in int8
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 77, g.hidden)).astype(np.float32)
    w = op_cases.NormLinear(
        op_cases.LayerNorm(np.ones(g.hidden, np.float32), np.zeros(g.hidden, np.float32), 1e-12),
        op_cases.Linear(rng.standard_normal((g.mlp, g.hidden)).astype(np.float32), np.zeros(g.mlp, np.float32)),
    )
    back = op_cases.Linear(rng.standard_normal((g.hidden, g.mlp)).astype(np.float32), np.zeros(g.hidden, np.float32))

    def through(x: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
        ops = CpuOps(g.heads, precision, threads, tier=tier)
        b, t, d = x.shape
        hidden = ops.norm_linear(x, ops.pack_norm_linear(w), ops.empty((b, t, g.mlp), "activation"), "gelu")
        y = ops.linear_residual(hidden, ops.pack_linear(back), x.copy())
        qkv = hidden[..., : 2 * d]  # any values will do: q over k, v of the same
        context = ops.attention(qkv[..., :d], qkv, ops.empty((b, t, d), "activation"))
        return y, context

    y, context = through(x, 2)
    for threads in (1, 3):
        for whole, part in zip((y, context), through(x, threads), strict=True):
            np.testing.assert_array_equal(whole, part)
    for clip in range(3):
        for whole, alone in zip((y, context), through(x[clip : clip + 1], 2), strict=True):
            np.testing.assert_array_equal(whole[clip], alone[0])
    for rows in (1, 2, 3, 5, 8, 17, 31, 33, 48):
        alone, _ = through(x[:1, :rows], 2)
        np.testing.assert_array_equal(y[0, :rows], alone[0])


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_few_queries_give_the_rows_of_all_queries(precision: str, tier: str) -> None:
    """Bitwise: what the last layer's two queries rest on."""
    rng = np.random.default_rng(4)
    qkv = on_cpu(precision)(rng.standard_normal((2, 61, 3 * 48)).astype(np.float32), "activation")
    ops = CpuOps(3, precision, 2, tier=tier)
    every = ops.attention(qkv[..., :48], qkv[..., 48:], ops.empty((2, 61, 48), "activation"))
    for queries in (1, 2, 23, 25, 33):
        few = ops.attention(qkv[:, :queries, :48], qkv[..., 48:], ops.empty((2, queries, 48), "activation"))
        np.testing.assert_array_equal(few, every[:, :queries])


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 77])
def test_pooling_is_the_sum_of_normalised_rows_over_their_number(rows: int, tier: str) -> None:
    """Bitwise: rows are added in ascending order, the sum multiplied by 1 / rows; two rows give 0.5 (a + b)."""
    rng = np.random.default_rng(5)
    ops = CpuOps(1, "float32", 2, tier=tier)
    gamma, beta = rng.standard_normal((2, 45)).astype(np.float32)
    norm = ops.pack_norm(op_cases.LayerNorm(gamma, beta, 1e-12))
    x = rng.standard_normal((3, 80, 45)).astype(np.float32)
    each = np.stack([ops.pool(x[:, r : r + 1], norm, np.empty((3, 45), np.float32)) for r in range(rows)])
    total = each[0].copy()
    for row in each[1:]:
        total += row
    pooled = ops.pool(x[:, :rows], norm, np.empty((3, 45), np.float32))
    np.testing.assert_array_equal(pooled.view(np.uint32), (total * np.float32(1 / rows)).view(np.uint32))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_prefix_tokens_move_patches_and_change_nothing_else(prefix: int, precision: str, tier: str) -> None:
    """Bitwise: rows of prefix tokens are prefix + position, those of patches what they are without a prefix."""
    rng = np.random.default_rng(8)
    ops = CpuOps(1, precision, 2, tier=tier)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    projection, tokens, patches = op_cases.Linear(normal(45, 9), normal(45)), normal(prefix, 45), normal(12, 45)
    before = normal(prefix, 45)  # positions of the prefix tokens
    spectrogram, out = normal(2, 13, 8), np.empty((2, prefix + 12, 45), np.float32)  # a grid of 3 x 4
    packed = ops.pack_embed(op_cases.Embed(projection, tokens, np.concatenate([before, patches]), 3, 2, 3))
    ops.patch_embed(spectrogram, packed, out)
    plain = ops.pack_embed(op_cases.Embed(projection, tokens[:0], patches, 3, 2, 3))
    alone = ops.patch_embed(spectrogram, plain, np.empty((2, 12, 45), np.float32))
    np.testing.assert_array_equal(out[:, :prefix], np.broadcast_to(tokens + before, (2, prefix, 45)))
    np.testing.assert_array_equal(out[:, prefix:], alone)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 95, 97])
def test_attention_at_every_edge_of_a_panel(tokens: int, precision: str, tier: str) -> None:
    rng = np.random.default_rng(tokens)
    x = rng.standard_normal((1, tokens, 96)).astype(np.float32)
    x[0, -1] *= 4  # the last key matters
    bits = on_cpu(precision)(x, "activation")
    exact = op_cases.from_bfloat16_bits(bits) if precision != "float32" else x
    q, kv = torch.from_numpy(exact[..., :32].copy()).double(), torch.from_numpy(exact[..., 32:].copy()).double()
    ops = CpuOps(1, precision, 2, tier=tier)
    quantised = op_cases.QuantisedOps(1, op_cases.serving_tier(ops))
    exactly = quantised if precision == "int8" else op_cases.ReferenceOps(1, torch.float64)
    reference = exactly.attention(q, kv).numpy()
    y = ops.attention(bits[..., :32], bits[..., 32:], ops.empty((1, tokens, 32), "activation"))
    y = op_cases.from_bfloat16_bits(y) if precision != "float32" else y
    # A convex combination of values: one rounding of the weights and one of the result.
    tolerance = (2 * 2.0**-8 if precision != "float32" else 16 * 2.0**-24) * np.abs(exact).max()
    if precision == "int8":  # and one step of a probability, which may be rounded either way: from one value to another
        tolerance += 2 / quantised.probability_levels(tokens) * np.abs(exact).max()
    np.testing.assert_allclose(y, reference, atol=tolerance, rtol=0)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("largest", [50, 2000, 1e7])
@pytest.mark.parametrize("order", ["rising", "falling", "one late"])
def test_scores_of_any_size(order: str, largest: float, precision: str, tier: str) -> None:
    """Scores far apart underflow to zero weights and large ones don't overflow, whichever keys come first."""
    keys, query = 400, 40.0
    scores = np.linspace(-largest, largest, keys)[:: -1 if order == "falling" else 1].copy()
    if order == "one late":
        scores = np.where(np.arange(keys) == 300, largest, -largest)
    put = on_cpu(precision)
    q = put(np.full((1, 33, 16), query, np.float32), "activation")
    kv = np.random.default_rng(3).standard_normal((1, keys, 32)).astype(np.float32)
    kv[..., :16] = 0
    kv[0, :, 0] = scores * 4 / query  # sqrt(head_dim) = 4
    kv = put(kv, "activation")
    exact = [op_cases.from_bfloat16_bits(x) if precision != "float32" else x for x in (q, kv)]
    reference = op_cases.ReferenceOps(1, torch.float64).attention(*(torch.from_numpy(x).double() for x in exact))
    y = CpuOps(1, precision, 1, tier=tier).attention(q, kv, np.empty_like(q))
    y = op_cases.from_bfloat16_bits(y) if precision != "float32" else y
    # A convex combination of values: one rounding of the weights and one of the result; large scores are far apart.
    tolerance = (2 * 2.0**-8 if precision != "float32" else 2.0**-20) * np.abs(exact[1][..., 16:]).max()
    np.testing.assert_allclose(y, reference, rtol=0, atol=tolerance)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 2, 5, 6, 11, 12, 13, 14, 23, 24, 25, 27, 28, 49, 52, 53, 56, 57, 102, 204, 408, 409])
def test_linear_layers_at_every_edge_of_a_tile(k: int, precision: str, tier: str) -> None:
    """47 rows for two threads are three tiles of 8, and two of 8 and one of 4, 2 and 1; 98 columns are two panels of 48
    and a part of one; k is less than a tile's end, than what rows of the tile before end beside, and enough."""
    rng = np.random.default_rng(k)
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in [(1, 47, k), (98, k), (98,)])
    bits = on_cpu(precision)(x, "activation")
    if precision != "float32":
        x, w = (op_cases.from_bfloat16_bits(op_cases.bfloat16_bits(a)) for a in (x, w))
    ops = CpuOps(1, precision, 2, tier=tier)
    y = ops.linear_residual(bits, ops.pack_linear(op_cases.Linear(w, b)), np.zeros((1, 47, 98), np.float32))
    products = np.abs(x).astype(np.float64) @ np.abs(w).T + np.abs(b)
    tolerance = (k + 2) * op_cases.FLOAT32_ROUNDING * products
    if precision == "int8":  # half a step of 127 levels of an element of x, and of w
        tolerance += np.abs(x).max(-1, keepdims=True) / 127 * np.abs(w).sum(-1)
        tolerance += np.abs(w).max(-1) / 127 * np.abs(x).sum(-1, keepdims=True)
    assert np.all(np.abs(y - (x.astype(np.float64) @ w.T + b)) <= tolerance)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("k", [1, 2, 3, 768, 769, 3072, 9000])
def test_sums_of_the_largest_products_have_room(k: int, sign: float, tier: str) -> None:
    """All operands are as large as quantised ones get: one more step would wrap 32 bits where there are most."""
    ops = CpuOps(1, "int8", 2, tier=tier)
    ones = op_cases.bfloat16_bits(np.full((1, 7, k), sign, np.float32))
    w = ops.pack_linear(op_cases.Linear(np.ones((5, k), np.float32), np.zeros(5, np.float32)))
    y = ops.linear_residual(ones, w, np.zeros((1, 7, 5), np.float32))
    np.testing.assert_allclose(y, sign * k, rtol=(k + 8) * op_cases.FLOAT32_ROUNDING)  # some tiers sum in float32
    q = op_cases.bfloat16_bits(np.full((1, 3, 16), sign, np.float32))
    kv = op_cases.bfloat16_bits(np.full((1, k, 32), sign, np.float32))
    y = op_cases.from_bfloat16_bits(ops.attention(q, kv, np.empty_like(q)))
    np.testing.assert_array_equal(y, np.full((1, 3, 16), sign, np.float32))


@pytest.mark.parametrize("argument", ["x", "out", "norm", "dtype", "stride", "readonly", "empty"])
def test_a_wrong_argument_is_named(argument: str) -> None:
    g = TINY
    ops = CpuOps(g.heads, "float32", 1)
    ones, zeros = np.ones(g.hidden, np.float32), np.zeros(g.hidden, np.float32)
    weight = np.ones((g.mlp, g.hidden), np.float32)
    w = op_cases.NormLinear(op_cases.LayerNorm(ones, zeros, 1e-6), op_cases.Linear(weight, np.zeros(g.mlp, np.float32)))
    packed = ops.pack_norm_linear(w)
    x, out = np.ones((1, 4, g.hidden), np.float32), np.empty((1, 4, g.mlp), np.float32)
    ops.norm_linear(x, packed, out)
    readonly = out.copy()
    readonly.flags.writeable = False
    narrow = ops.pack_norm(op_cases.LayerNorm(ones[1:], zeros[1:], 1e-6))
    bad = {
        "x": lambda: ops.norm_linear(x[..., 1:], packed, out),
        "out": lambda: ops.norm_linear(x, packed, out[:, 1:]),
        "norm": lambda: ops.context.norm_linear(x, narrow, packed.linear, out, False),
        "dtype": lambda: ops.norm_linear(x.astype(np.float64), packed, out),
        "stride": lambda: ops.norm_linear(np.ones((1, 4, 2 * g.hidden), np.float32)[..., ::2], packed, out),
        "readonly": lambda: ops.norm_linear(x, packed, readonly),
        "empty": lambda: ops.norm_linear(x[:, :0], packed, out[:, :0]),
    }
    messages = {
        "x": "norm is over 32 columns, not 31",
        "out": r"out has shape \[1, 3, 37\], not \[1, 4, 37\]",
        "norm": "norm is over 31 columns",
        "dtype": "x is float64, not float32",
        "stride": "x is not contiguous",
        "readonly": "out is read-only",
        "empty": "x is empty",
    }
    with pytest.raises(ValueError, match=messages[argument]):
        bad[argument]()


def test_wrong_shapes_of_the_other_ops_are_named() -> None:
    ops = CpuOps(2, "float32", 1)
    a = lambda *shape: np.ones(shape, np.float32)  # noqa: E731
    with pytest.raises(ValueError, match="kv has shape"):
        ops.attention(a(1, 4, 32), a(1, 4, 60), a(1, 4, 32))
    with pytest.raises(ValueError, match="heads of 257, more than 256"):
        ops.attention(a(1, 4, 514), a(1, 4, 1028), a(1, 4, 514))
    ops.attention(a(1, 4, 512), a(1, 4, 1024), a(1, 4, 512))
    with pytest.raises(ValueError, match="no multiple of 2 heads"):
        ops.attention(a(1, 4, 33), a(1, 4, 66), a(1, 4, 33))
    with pytest.raises(ValueError, match="x has shape"):
        ops.linear_residual(a(1, 4, 31), ops.pack_linear(op_cases.Linear(a(8, 32), a(8))), a(1, 4, 8))
    other = CpuOps(2, "bfloat16", 1).pack_linear(op_cases.Linear(a(8, 32), a(8)))
    with pytest.raises(ValueError, match="another precision"):
        ops.linear_residual(a(1, 4, 32), other, a(1, 4, 8))
    embed = op_cases.Embed(op_cases.Linear(a(8, 4), a(8)), a(2, 8), a(6, 8), 2, 2, 2)
    packed = ops.pack_embed(embed)  # 6 tokens: a 2 x 2 grid
    ops.patch_embed(a(1, 4, 4), packed, a(1, 6, 8))
    with pytest.raises(ValueError, match="makes 8 tokens, not 6"):
        ops.patch_embed(a(1, 6, 4), packed, a(1, 6, 8))
    with pytest.raises(ValueError, match="too small for a patch"):
        ops.patch_embed(a(1, 1, 4), packed, a(1, 6, 8))
    wrong = {
        r"prefix has shape \[2, 7\], not \[2, 8\]": (a(2, 7), a(6, 8)),
        r"prefix has shape \[8\], not \[0, 8\]": (a(8), a(6, 8)),
        r"position has shape \[6, 7\], not \[6, 8\]": (a(2, 8), a(6, 7)),
        "position has 2 rows, none for a patch after those of the 2 prefix tokens": (a(2, 8), a(2, 8)),
        r"position has 0 rows": (a(0, 8), a(0, 8)),
    }
    for message, (prefix, position) in wrong.items():
        with pytest.raises(ValueError, match=message):
            ops.pack_embed(replace(embed, prefix=prefix, position=position))
    with pytest.raises(ValueError, match="kernel has 4 columns, not 9"):
        ops.context.pack_embed(a(8, 4), a(8), a(0, 8), a(4, 8), 3, 2, 2)
    norm = ops.pack_norm(op_cases.LayerNorm(a(8), a(8), 1e-6))
    with pytest.raises(ValueError, match="norm is over 8 columns, not 9"):
        ops.pool(a(1, 3, 9), norm, a(1, 9))
    with pytest.raises(ValueError, match="x is empty"):
        ops.pool(a(1, 0, 8), norm, a(1, 8))
    with pytest.raises(ValueError, match=r"out has shape \[1, 9\], not \[1, 8\]"):
        ops.pool(a(1, 3, 8), norm, a(1, 9))


def test_tiers_are_named_and_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASTFAST_CPU_TIER", raising=False)
    assert choose_tier() == TIERS[-1]
    assert backend.unavailable() is None
    monkeypatch.setenv("ASTFAST_CPU_TIER", "scalar")
    assert choose_tier() == "scalar"
    assert CpuOps(1).hardware.startswith("scalar, ")
    assert backend.describe()[0].startswith("tier scalar")
    monkeypatch.setenv("ASTFAST_CPU_TIER", "avx1024")
    with pytest.raises(BackendError, match="'avx1024' is unknown: set ASTFAST_CPU_TIER to one of scalar, avx2, avx_v"):
        CpuOps(1)
    assert "avx1024" in (backend.unavailable() or "")


@pytest.mark.parametrize("precision", backend.precisions())
def test_the_backend_opens_ops_of_each_precision(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTFAST_NUM_THREADS", "3")
    ops = backend.open(2, precision, "cpu", threads=None, deterministic=True)
    assert (ops.name, ops.engine, ops.precision, ops.heads, ops.threads) == ("cpu", "eager", precision, 2, 3)
    assert backend.open(2, precision, "cpu", 1, False).threads == 1
    with pytest.raises(BackendError, match="no precision 'float8': use one of float32, bfloat16, int8"):
        backend.open(2, "float8", "cpu", 1, False)


@pytest.mark.parametrize("tier", TIERS)
def test_the_fastest_precision_is_one_that_the_tier_has_an_instruction_for(
    tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASTFAST_CPU_TIER", tier)
    assert backend.fastest_precision() == ("bfloat16" if tier in ("avx512_bf16", "amx") else "float32")


def test_a_tier_that_the_machine_lacks_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Native:
        @staticmethod
        def tiers() -> list[tuple[str, str]]:
            return [("scalar", ""), ("avx2", "the processor has no AVX2")]

    monkeypatch.setattr(tiers, "native", Native)
    with pytest.raises(BackendError, match="avx2 can't run here: the processor has no AVX2"):
        choose_tier("avx2")


def test_batches_larger_than_the_micro_batch_are_not_too_long() -> None:
    assert CpuOps(12).micro_batch(BASE.tokens) == 2
    assert CpuOps(12).micro_batch(SPEECH_COMMANDS.tokens) > 2
    assert CpuOps(12).micro_batch(10**6) == 1
