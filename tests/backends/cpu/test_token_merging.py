"""Token merging on every tier that this machine has, against the reference in float64."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from astfast.backends.cpu.ops import PRECISIONS, CpuOps
from astfast.backends.cpu.tiers import native
from astfast.backends.reference import ReferenceOps
from tests.backends.cpu.test_ops import on_cpu, run
from tests.cases import merging_cases, op_cases
from tests.cases.op_cases import ODD, QUICK, Geometry, OpCase

TIERS = [name for name, missing in native().tiers() if not missing]


@cache
def expected(geometry: Geometry, precision: str, tier: str) -> list[tuple[OpCase, np.ndarray, np.ndarray]]:
    """(case, exact result, result with the roundings of the precision) for each op; int8 as this tier has it."""
    return [
        (
            case,
            op_cases.result_of(case, geometry, torch.float64),
            op_cases.at_precision(case, geometry, precision, tier),
        )
        for case in merging_cases.cases(geometry, precision)
    ]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["odd", "tiny", "uneven", "wide_heads"])
def test_error_at_most_twice_that_of_roundings(name: str, precision: str, tier: str) -> None:
    geometry = QUICK[name]
    ops = CpuOps(geometry.heads, precision, threads=2, tier=tier)
    serving = op_cases.serving_tier(ops) if precision == "int8" else "any"
    assert not op_cases.beyond_bound(expected(geometry, precision, serving), lambda case: run(case, ops))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_clips_and_threads_change_no_bit(precision: str, tier: str) -> None:
    """A clip alone or in a batch, with one thread or three."""
    clips = Geometry(3, ODD.hidden, ODD.heads, ODD.mlp, ODD.patch_size, ODD.strides, ODD.mels, ODD.frames)
    for case in merging_cases.cases(clips, precision):
        whole = run(case, CpuOps(clips.heads, precision, 1, tier=tier))
        np.testing.assert_array_equal(run(case, CpuOps(clips.heads, precision, 3, tier=tier)), whole)
        for clip in range(clips.clips):
            one = OneClip(clips.heads, precision, 2, tier=tier)
            alone = case.call(one, lambda x, kind, i=clip: on_cpu(precision)(x[i : i + 1], kind))
            alone = op_cases.from_bfloat16_bits(alone) if alone.dtype == np.uint16 else alone
            np.testing.assert_array_equal(alone[0], whole[clip], err_msg=case.name)


class OneClip(CpuOps):
    """Buffers for the first clip of a case."""

    def empty(self, shape: tuple[int, ...], kind: str) -> np.ndarray:
        return super().empty((1, *shape[1:]), kind)


@pytest.mark.parametrize("tier", ["reference", *TIERS])
def test_of_equal_cosines_the_first_token_counts(tier: str) -> None:
    """All keys are one: the first tokens at even places become part of the first one at an odd place."""
    x = np.arange(1, 10, dtype=np.float32)[None, :, None] * np.ones(4, np.float32)  # token i of the clip is i + 1
    keys = np.zeros_like(x)
    keys[..., 1] = 1.0
    if tier == "reference":
        tokens, sizes = ReferenceOps(2).merge_tokens(torch.from_numpy(x), torch.from_numpy(keys), None, 3, 1)
    else:
        tokens, sizes = CpuOps(2, threads=2, tier=tier).merge_tokens(x, keys, None, 3, 1)
    assert tokens[0, :, 0].tolist() == [1.0, (2 + 3 + 4 + 6) / 4, 5.0, 7.0, 8.0, 9.0]
    assert sizes[0].tolist() == [1.0, 4.0, 1.0, 1.0, 1.0, 1.0]


def test_impossible_arguments_are_refused_by_name() -> None:
    context = CpuOps(2).context
    x, keys, sizes = np.ones((1, 6, 4), np.float32), np.ones((1, 6, 4), np.float32), np.ones((1, 6), np.float32)
    context.merge_tokens(x, keys, sizes, 2, 2, 2)
    wrong = ((3, 2, "count is 3"), (0, 2, "count is 0"), (1, 7, "prefix is 7"), (1, -1, "prefix is -1"))
    for count, prefix, problem in wrong:
        with pytest.raises(ValueError, match=problem):
            context.merge_tokens(x, keys, sizes, 2, count, prefix)
    with pytest.raises(ValueError, match=r"sizes has shape \[1, 5\], not \[1, 6\]"):
        context.merge_tokens(x, keys, sizes[:, :5], 2, 1, 2)
    with pytest.raises(ValueError, match="x has 4 columns, no multiple of 3 heads"):
        context.merge_tokens(x, keys, sizes, 3, 1, 2)
