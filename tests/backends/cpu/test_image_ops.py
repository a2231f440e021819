"""The ops of images on every tier that this machine has, against the reference in float64."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from astfast.backends.cpu.ops import PRECISIONS, CpuOps
from astfast.backends.cpu.tiers import native
from tests.backends.cpu.test_ops import on_cpu, run
from tests.cases import image_cases, op_cases
from tests.cases.image_cases import QUICK, STAGES, ImageGeometry
from tests.cases.op_cases import OpCase

TIERS = [name for name, missing in native().tiers() if not missing]


@cache
def expected(geometry: ImageGeometry, precision: str, tier: str) -> list[tuple[OpCase, np.ndarray, np.ndarray]]:
    """(case, exact result, result with the roundings of the precision) for each op; int8 as this tier has it."""
    return [
        (
            case,
            op_cases.result_of(case, geometry, torch.float64),
            op_cases.at_precision(case, geometry, precision, tier),
        )
        for case in image_cases.cases(geometry, precision)
    ]


def judge(geometry: ImageGeometry, precision: str, tier: str) -> None:
    ops = CpuOps(1, precision, threads=2, tier=tier)
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
@pytest.mark.parametrize("name", ["stage 2", "stage 3"])
def test_error_at_most_twice_that_of_roundings_at_published_sizes(name: str, precision: str, tier: str) -> None:
    judge(STAGES[name], precision, tier)


class OneClip(CpuOps):
    """Buffers for the first clip of a case."""

    def empty(self, shape: tuple[int, ...], kind: str) -> np.ndarray:
        return super().empty((1, *shape[1:]), kind)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_images_depend_on_nothing_but_themselves(precision: str, tier: str) -> None:
    """Bitwise: an image alone or in a batch, with one thread or three."""
    g = QUICK["odd"]
    for case in image_cases.cases(ImageGeometry(3, g.rows, g.columns, g.channels, g.out_channels), precision):
        whole = run(case, CpuOps(1, precision, 1, tier=tier))
        np.testing.assert_array_equal(run(case, CpuOps(1, precision, 3, tier=tier)), whole, err_msg=case.name)
        for clip in range(3):
            one = OneClip(1, precision, 2, tier=tier)
            alone = case.call(one, lambda x, kind, i=clip: on_cpu(precision)(x[i : i + 1], kind))
            alone = op_cases.from_bfloat16_bits(alone) if alone.dtype == np.uint16 else alone
            np.testing.assert_array_equal(alone[0], whole[clip], err_msg=case.name)


@pytest.mark.parametrize("tier", TIERS)
def test_channels_of_a_scan_depend_on_nothing_but_themselves(tier: str) -> None:
    """Bitwise: a channel alone, and at every place of a vector."""
    g = QUICK["odd"]
    rng = np.random.default_rng(5)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    grid, t, c = (g.rows, g.columns), g.rows * g.columns, 37
    x, projected = normal(1, t, c), normal(1, t, 4 * (2 + 2))
    w = image_cases.Scan(normal(4, c, 2), normal(4, c), normal(4, c), normal(4, c))
    ops = CpuOps(1, "float32", 2, tier=tier)
    whole = ops.selective_scan(x, projected, ops.pack_scan(w), grid, np.empty((1, t, c), np.float32))
    for first in (1, 7, 20, 36):
        part = image_cases.Scan(*(np.ascontiguousarray(p[:, first:]) for p in (w.weight, w.bias, w.log_decay, w.skip)))
        out = np.empty((1, t, c - first), np.float32)
        ops.selective_scan(x[..., first:], projected, ops.pack_scan(part), grid, out)
        np.testing.assert_array_equal(out, whole[..., first:])


@pytest.mark.parametrize("tier", TIERS)
def test_long_and_short_memories(tier: str) -> None:
    """Steps from 1e-12 to 80: softplus and decay keep their relative precision at both ends."""
    pre = np.linspace(-28, 80, 109, dtype=np.float32)[None, None]  # a channel each
    c, t = pre.shape[2], 50
    ops, exactly = CpuOps(1, "float32", 1, tier=tier), op_cases.ReferenceOps(1, torch.float64)
    zeros = np.zeros((4, c), np.float32)
    w = image_cases.Scan(np.zeros((4, c, 1), np.float32), np.repeat(pre[0], 4, 0), zeros - 3, zeros)
    x = np.ones((1, t, c), np.float32)
    projected = np.tile(np.array([0, 1, 1], np.float32), (1, t, 4))
    out = ops.selective_scan(x, projected, ops.pack_scan(w), (5, 10), np.empty((1, t, c), np.float32))
    wide = torch.from_numpy(x).double(), torch.from_numpy(projected).double()
    exact = exactly.selective_scan(*wide, exactly.pack_scan(w), (5, 10)).numpy()
    np.testing.assert_allclose(out, exact, rtol=64 * op_cases.FLOAT32_ROUNDING)  # of 50 states in four directions


def test_wrong_shapes_are_named() -> None:
    ops = CpuOps(1, "float32", 1)
    a = lambda *shape: np.ones(shape, np.float32)  # noqa: E731
    scan = ops.pack_scan(image_cases.Scan(a(4, 8, 2), a(4, 8), a(4, 8), a(4, 8)))
    conv = ops.pack_conv_norm(
        image_cases.ConvNorm(op_cases.Linear(a(8, 18), a(8)), op_cases.LayerNorm(a(8), a(8), 1e-5))
    )
    ops.selective_scan(a(1, 6, 8), a(1, 6, 16), scan, (2, 3), a(1, 6, 8))
    ops.conv_norm(a(1, 6, 2), conv, (2, 3), a(1, 2, 8))
    wrong = {
        r"grid is \[2, 4\] for 6 tokens": lambda: ops.conv_norm(a(1, 6, 2), conv, (2, 4), a(1, 2, 8)),
        r"grid is \[-2, -3\] for 6 tokens": lambda: ops.conv_norm(a(1, 6, 2), conv, (-2, -3), a(1, 2, 8)),
        r"x has 3 channels, not 2": lambda: ops.conv_norm(a(1, 6, 3), conv, (2, 3), a(1, 2, 8)),
        r"out has shape \[1, 6, 8\], not \[1, 2, 8\]": lambda: ops.conv_norm(a(1, 6, 2), conv, (2, 3), a(1, 6, 8)),
        r"weight has shape \[9, 4\], not \[9, 2\]": lambda: ops.depthwise_silu(a(1, 6, 2), a(9, 4), (2, 3), a(1, 6, 2)),
        r"projected has shape \[1, 6, 15\], not \[1, 6, 16\]": lambda: ops.selective_scan(
            a(1, 6, 8), a(1, 6, 15), scan, (2, 3), a(1, 6, 8)
        ),
        r"x has shape \[1, 6, 7\], not \[1, 6, 8\]": lambda: ops.selective_scan(
            a(1, 6, 7), a(1, 6, 16), scan, (2, 3), a(1, 6, 7)
        ),
        r"bias has shape \[4, 7\], not \[4, 8\]": lambda: native().PackedScan(a(4, 2, 8), a(4, 7), a(4, 8), a(8)),
        r"weight has shape \[4, 8\], not \[4, 0, 8\]": lambda: native().PackedScan(a(4, 8), a(4, 8), a(4, 8), a(8)),
    }
    for message, call in wrong.items():
        with pytest.raises(ValueError, match=message):
            call()
