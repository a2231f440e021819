"""Every GPU kernel in Triton's interpreter: odd shapes, every mask edge, outputs NaN before the launch.

Not bfloat16, which the interpreter computes wrongly; the emulator of compiled code runs it (test_emulated.py).
"""

from dataclasses import replace

import pytest
import torch

from astfast.front_end import KaldiFbank
from astfast.kernels import linear
from astfast.kernels.tuning import Tile
from tests.cases import gpu_cases
from tests.launchers import interpret

SMALL = Tile(32, 64, 32, 4, 2)
DTYPES = [torch.float32, torch.float16]


def run(case: gpu_cases.Case) -> None:
    interpret(case.launch)
    case.check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "n", "activation", "rows"),
    [
        ((1, 1, 32), 64, None, None),  # one row, whole column and sum tiles
        ((1, 32, 64), 64, None, None),  # whole tiles only
        ((1, 33, 65), 65, "gelu", None),  # one past each of them
        ((3, 21, 31), 63, "gelu", None),  # one short of them; tiles that span clips
        ((2, 65, 96), 200, None, 2),  # the first rows of each clip
        ((1, 300, 33), 37, None, None),  # more row tiles than a group
    ],
)
def test_norm_linear(dtype: torch.dtype, shape: tuple[int, int, int], n: int, activation: str, rows: int) -> None:
    run(gpu_cases.norm_linear(dtype, shape, n, SMALL, activation, rows))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", [SMALL, replace(SMALL, early=True)], ids=str)
@pytest.mark.parametrize(
    ("shape", "n", "rows"),
    [
        ((1, 1, 32), 64, None),
        ((1, 32, 64), 128, None),
        ((1, 33, 65), 129, None),
        ((3, 21, 31), 63, None),
        ((2, 65, 37), 96, 2),
        ((1, 64, 33), 1, None),
    ],
)
def test_linear_residual(dtype: torch.dtype, tile: Tile, shape: tuple[int, int, int], n: int, rows: int | None) -> None:
    case = gpu_cases.linear_residual(dtype, shape, n, tile, rows)
    untouched = case.outputs["stream"]._base
    before = None if rows is None else untouched[:, rows:].clone()
    run(case)
    if rows is not None:
        assert torch.equal(untouched[:, rows:], before), "rows of the stream outside the view were written"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("clips", "queries", "keys", "heads", "head_dim"),
    [
        (1, 1, 1, 1, 16),
        (1, 32, 32, 1, 32),  # whole tiles only
        (3, 33, 65, 2, 16),  # one past them
        (1, 31, 63, 3, 24),  # one short of them; a head size that is no power of two
        (1, 5, 130, 1, 128),
        (2, 2, 47, 2, 8),  # few queries; a head smaller than a matrix instruction
    ],
)
def test_attention(dtype: torch.dtype, clips: int, queries: int, keys: int, heads: int, head_dim: int) -> None:
    tile = Tile(32, 32, 0, 4, 2)
    run(gpu_cases.attention_(dtype, clips, queries, keys, heads, head_dim, tile))
    run(gpu_cases.attention_(dtype, clips, queries, keys, heads, head_dim, tile, sized=True))


def test_attention_of_scores_that_overflow_a_plain_softmax() -> None:
    case = gpu_cases.attention_(torch.float32, 1, 9, 40, 1, 16, Tile(16, 16, 0, 4, 2))
    for name in ("q_ptr", "kv_ptr"):
        case.launch.args[name].mul_(30)  # scores of some thousands; views of one buffer, so twice
    q, kv = (case.launch.args[name].double() for name in ("q_ptr", "kv_ptr"))
    exact = torch.softmax(q @ kv[..., :16].transpose(1, 2) / 4, dim=-1) @ kv[..., 16:]
    case.exact, case.peer = {"out": exact}, {"out": exact.float()}
    interpret(case.launch)
    out = case.outputs["out"]
    assert out.isfinite().all()
    # A score of size s is rounded by s * 2^-24 or so before exp, which multiplies the result by that much.
    scores = (q @ kv[..., :16].transpose(1, 2) / 4).abs().max()
    assert (out - exact).abs().max() <= 4 * scores * 2.0**-24 * exact.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("prefix", "clips", "frames", "mels", "patch", "strides", "n"),
    [
        (2, 1, 16, 16, 16, (10, 10), 64),  # one patch
        (2, 2, 45, 38, 16, (10, 9), 65),
        (2, 1, 96, 40, 8, (5, 8), 32),
        (2, 1, 9, 7, 2, (3, 1), 96),  # patches smaller than a tile of the sum
        (0, 3, 16, 16, 16, (10, 10), 64),  # one token
        (0, 2, 45, 38, 16, (10, 9), 65),
        (0, 1, 9, 7, 2, (3, 1), 96),
        (1, 1, 16, 16, 16, (10, 10), 64),
        (1, 2, 45, 38, 16, (10, 9), 65),
        (1, 1, 9, 7, 2, (3, 1), 96),
    ],
)
def test_patch_embed(
    dtype: torch.dtype, prefix: int, clips: int, frames: int, mels: int, patch: int, strides: tuple[int, int], n: int
) -> None:
    run(gpu_cases.patch_embed_(dtype, clips, frames, mels, patch, strides, n, SMALL, prefix=prefix))


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize(
    ("lengths", "mels", "frames"),
    [([1], 20, 3), ([399, 400, 559], 32, 2), ([560, 2000, 2999], 33, 16)],  # one frame, one short of two, two, ...
)
def test_log_mel(lengths: list[int], mels: int, frames: int, integers: bool) -> None:
    front_end = KaldiFbank(num_mel_bins=mels, max_length=frames)
    run(gpu_cases.log_mel_(front_end, lengths, Tile(16, 256, 128, 4, 2), integers))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("clips", "d"), [(1, 64), (3, 65), (2, 37)])
@pytest.mark.parametrize("rows", [1, 2, 5, 248])  # less than a step of the loop, one past it, whole steps
def test_pool(dtype: torch.dtype, clips: int, d: int, rows: int) -> None:
    run(gpu_cases.pool(dtype, clips, d, rows=rows))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_pool_without_eps_ignores_rows_past_the_end() -> None:
    """In the last step of the loop they are zero, and divided by zero."""
    case = gpu_cases.pool(torch.float32, 1, 64, rows=5)
    case.launch.args["eps"] = 0.0
    run(case)


@pytest.mark.parametrize(("clips", "d", "labels"), [(1, 64, 64), (17, 65, 65), (16, 37, 1)])
def test_head(clips: int, d: int, labels: int) -> None:
    run(gpu_cases.head_(clips, d, labels, Tile(16, 64, 64, 4, 2)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_of_every_float16(dtype: torch.dtype) -> None:
    """A product with one-column weights of 1 hands every float16 within +-4,096 to the epilogue's GELU."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    values = values[values.abs() <= 4096].to(dtype).reshape(1, -1, 1)
    out = torch.full_like(values, float("nan"))
    launch = linear.norm_linear(
        values,
        torch.ones(*values.shape[:2], 1),  # rstd 1
        torch.ones(1, 1, dtype=dtype),
        torch.zeros(1),
        0.0,
        out,
        activation="gelu",
        precision="ieee",
        tile=Tile(8192, 64, 16, 4, 2),
    )
    interpret(launch)
    exact = torch.nn.functional.gelu(values.double())
    # float16: 7e-5 of the short polynomial and half a unit in the last place; float32: erf's own two units.
    allowed = 7e-5 + exact.abs() * 2.0**-11 if dtype == torch.float16 else 1e-7 + exact.abs() * 2.0**-22
    assert ((out - exact).abs() <= allowed).all()


def test_a_view_with_strided_columns_is_refused() -> None:
    x = torch.zeros(1, 8, 4).transpose(1, 2)
    with pytest.raises(ValueError, match="x has column stride 4"):
        linear.row_strides("x", x)


def test_an_error_in_the_interpreter_is_raised_with_its_traceback() -> None:
    case = gpu_cases.pool(torch.float16, 1, 65)
    args = {name: value for name, value in case.launch.args.items() if name != "out_ptr"}
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*missing 1 required positional argument: 'out_ptr'"):
        interpret(replace(case.launch, args=args))
    run(case)  # and the next launch is served
