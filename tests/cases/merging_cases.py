"""The op cases of token merging, as op_cases.py has those of whole tokens: tokens of sizes 1 to 40."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from astfast.backends.reference import ReferenceOps
from astfast.ops import LayerNorm
from tests.cases.op_cases import AST_PREFIX, FLOAT32_ROUNDING, Geometry, OpCase, bfloat16_bits, from_bfloat16_bits


def cases(g: Geometry, precision: str, seed: int = 0) -> list[OpCase]:
    """Every op that knows sizes at this geometry; activations hold values of the precision."""
    rng = np.random.default_rng(seed)
    b, t, d = g.clips, g.tokens, g.hidden

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    x, qkv = normal(b, t, d), normal(b, t, 3 * d)
    qkv = qkv if precision == "float32" else from_bfloat16_bits(bfloat16_bits(qkv))
    sizes = rng.integers(1, 41, (b, t)).astype(np.float32)
    most = (t - AST_PREFIX) // 2

    def attention(name: str, queries: int) -> OpCase:
        def call(ops: Any, put: Any) -> Any:
            q, kv = put(qkv, "activation")[:, :queries, :d], put(qkv, "activation")[..., d:]
            return ops.attention(q, kv, ops.empty((b, queries, d), "activation"), put(sizes, "output"))

        return OpCase(name, call, t**0.5 * FLOAT32_ROUNDING * float(np.abs(qkv).max()), 4.0 * b * queries * t * d)

    def merged(name: str, count: int, prefix: int, sized: bool) -> OpCase:
        def both(ops: Any, put: Any) -> Any:
            keys = put(qkv, "activation")[..., d : 2 * d]
            return ops.merge_tokens(put(x, "stream"), keys, put(sizes, "output") if sized else None, count, prefix)

        def call(ops: Any, put: Any) -> Any:
            """Tokens, and behind each its size."""
            tokens, left = both(ops, put)
            joined = torch.cat if isinstance(tokens, torch.Tensor) else np.concatenate
            return joined([tokens, left[..., None]], -1)  # type: ignore[operator]

        _, ones = ReferenceOps(g.heads).merge_tokens(
            torch.from_numpy(x), torch.from_numpy(qkv)[..., d : 2 * d], None, count, prefix
        )
        roundings = float(ones.max()) + 2  # of a mean of so many tokens
        return OpCase(name, call, roundings * FLOAT32_ROUNDING * float(np.abs(x).max()), 0.0)

    def pool(name: str, rows: int) -> OpCase:
        w = LayerNorm(normal(d), normal(d), 1e-6)
        return OpCase(
            name,
            lambda ops, put: ops.pool(
                put(x, "stream")[:, :rows],
                ops.pack_norm(w),
                ops.empty((b, d), "output"),
                put(sizes, "output")[:, :rows],
            ),
            max(8, rows**0.5) * FLOAT32_ROUNDING * float(np.abs(x).max()),
            0.0,
        )

    return [
        attention("attention", t),
        attention("last_attention", AST_PREFIX),
        merged("one_token", 1, AST_PREFIX, sized=False),
        merged("third_of_the_tokens", max(1, t // 3), AST_PREFIX, sized=True),
        merged("most_tokens", most, AST_PREFIX, sized=True),
        merged("without_prefix", most, 0, sized=True),
        pool("pool_five_rows", 5),
        pool("pool_all_rows", t),
    ]
