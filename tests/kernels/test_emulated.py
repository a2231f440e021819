"""The compiled PTX of every kernel, executed on the CPU with the race detectors on, at real and odd shapes.

Out-of-bounds, misaligned, uninitialised, unwritten and racing accesses raise in the emulator; planted bugs show that
it would notice.
"""

import math
import re
from collections.abc import Callable

import pytest
import torch

from astfast.front_end import KaldiFbank
from astfast.kernels import linear, tuning
from astfast.kernels.tuning import Tile
from tests.cases import gpu_cases
from tests.emulation import emulate_clip
from tests.emulation.emulator import Emulator, ptxemu

ARCHS = [80, 90, 120]
BF16, FP16 = torch.bfloat16, torch.float16
Build = Callable[[tuning.Tiles, torch.dtype], gpu_cases.Case]

ODD: dict[str, Build] = {
    "norm_linear": lambda t, d: gpu_cases.norm_linear(d, (1, 70, 96), 200, t.norm_linear[-1], "gelu"),
    "linear_residual": lambda t, d: gpu_cases.linear_residual(d, (2, 37, 37), 129, t.residual[-1]),
    "last linear_residual": lambda t, d: gpu_cases.linear_residual(d, (3, 9, 64), 96, t.residual[-1], rows=2),
    "attention": lambda t, d: gpu_cases.attention_(d, 1, 130, 146, 2, 64, t.attention),
    "attention, odd head": lambda t, d: gpu_cases.attention_(d, 1, 65, 63, 1, 24, t.attention),
    "few queries": lambda t, d: gpu_cases.attention_(d, 2, 2, 146, 2, 64, t.few_queries),
    "attention, sizes": lambda t, d: gpu_cases.attention_(d, 1, 130, 146, 2, 64, t.attention, sized=True),
    "few queries, sizes": lambda t, d: gpu_cases.attention_(d, 2, 2, 146, 2, 64, t.few_queries, sized=True),
    "patch_embed": lambda t, d: gpu_cases.patch_embed_(d, 1, 96, 64, 16, (11, 13), 96, t.patch_embed),
    "patch_embed, no prefix": lambda t, d: gpu_cases.patch_embed_(
        d, 1, 96, 64, 16, (11, 13), 96, t.patch_embed, prefix=0
    ),
    "pool": lambda t, d: gpu_cases.pool(d, 3, 96),
    "pool, odd rows": lambda t, d: gpu_cases.pool(d, 2, 96, rows=9),
    "pool, sizes": lambda t, d: gpu_cases.pool(d, 2, 96, rows=9, sized=True),
    "head": lambda t, d: gpu_cases.head_(5, 96, 70, t.head),
}
REAL: dict[str, Build] = {
    "proj": lambda t, d: gpu_cases.linear_residual(d, (1, 1214, 768), 768, t.residual[-2]),
    "fc1": lambda t, d: gpu_cases.norm_linear(d, (1, 1214, 768), 3072, t.norm_linear[1], "gelu"),
    "qkv, largest tile": lambda t, d: gpu_cases.norm_linear(d, (1, 300, 768), 2304, t.norm_linear[0]),
    "attention": lambda t, d: gpu_cases.attention_(d, 1, 1214, 1214, 12, 64, t.attention),
    "few queries": lambda t, d: gpu_cases.attention_(d, 1, 2, 1214, 12, 64, t.few_queries),
    "patch_embed": lambda t, d: gpu_cases.patch_embed_(d, 1, 1024, 128, 16, (10, 10), 768, t.patch_embed),
    "head": lambda t, d: gpu_cases.head_(3, 768, 527, t.head),
}


def emulate(case: gpu_cases.Case, arch: int, edit_ptx: Callable[[str], str] | None = None) -> None:
    Emulator(arch, edit_ptx=edit_ptx)(case.launch)
    case.check()


@pytest.mark.parametrize("name", ["norm_linear", "last linear_residual", "attention", "patch_embed"])
@pytest.mark.parametrize("arch", ARCHS)
def test_a_kernel_of_each_kind(arch: int, name: str) -> None:
    emulate(ODD[name](tuning.tiles_for(arch, 2), BF16), arch)


@pytest.mark.parametrize("arch", ARCHS)
def test_gelu_of_every_bfloat16(arch: int) -> None:
    """Products of every sign and mantissa with every power of two. The polynomial's 1.7e-4 is less than half a unit in
    the last place of results above 1/16, and less than the last place of 0.02 below."""
    mantissas = torch.arange(128).to(torch.float32) / 128 + 1
    values = torch.cat([mantissas, -mantissas, torch.tensor([math.nan, math.inf, -math.inf])]).to(BF16)
    powers = torch.exp2(torch.arange(-126, 127).double()).to(BF16)
    out = torch.full((1, len(values), len(powers)), math.nan, dtype=BF16)
    launch = linear.norm_linear(
        values.reshape(1, -1, 1),
        torch.ones(1, len(values), 1),  # rstd 1
        powers.reshape(-1, 1),
        torch.zeros(len(powers)),
        0.0,
        out,
        activation="gelu",
        precision="ieee",
        tile=tuning.tiles_for(arch, 2).norm_linear[-1],
    )
    Emulator(arch)(launch)
    x = values[:-3, None].double() * powers.double()
    exact = torch.where(x < -40, 0.0, torch.nn.functional.gelu(x))  # -0 times infinity beyond
    assert ((out[0, :-3] - exact).abs() <= 1.7e-4 + exact.abs() * 2.0**-8).all()
    nan, plus, minus = out[0, -3:]
    assert nan.isnan().all()
    assert (plus == math.inf).all()
    assert (minus.abs() < 1e-6).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("arch", ARCHS)
def test_odd_shapes(arch: int, name: str, dtype: torch.dtype) -> None:
    emulate(ODD[name](tuning.tiles_for(arch, 2), dtype), arch)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("arch", ARCHS)
def test_real_shapes(arch: int, name: str) -> None:
    emulate(REAL[name](tuning.tiles_for(arch, 2), BF16), arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_float32_products_on_tensor_cores(arch: int) -> None:
    tiles = tuning.tiles_for(arch, 4)
    emulate(
        gpu_cases.norm_linear(torch.float32, (1, 70, 96), 100, tiles.norm_linear[0], "gelu", precision="tf32x3"), arch
    )
    emulate(gpu_cases.attention_(torch.float32, 1, 70, 70, 2, 64, tiles.attention, precision="tf32x3"), arch)


@pytest.mark.slow
@pytest.mark.parametrize("products", ["ieee", "tf32x3"])
@pytest.mark.parametrize("tones", [False, True], ids=["noise", "tones"])
@pytest.mark.parametrize("arch", ARCHS)
def test_log_mel(arch: int, tones: bool, products: str) -> None:
    """int16 noise; float32 tones, whose empty bins show any product in fewer digits."""
    emulate(log_mel_case(arch, tones, products), arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_one_tf32_product_would_not_be_exact_enough(arch: int) -> None:
    with pytest.raises(AssertionError, match="allowed"):
        emulate(log_mel_case(arch, True, "tf32"), arch)


def log_mel_case(arch: int, tones: bool, products: str) -> gpu_cases.Case:
    front_end, tiles = KaldiFbank(max_length=40, num_mel_bins=33), tuning.tiles_for(arch, 2)
    tile = tiles.log_mel if products == "ieee" else tiles.tf32_log_mel
    return gpu_cases.log_mel_(front_end, [5000, 399], tile, not tones, tones, precision=products)


def without(pattern: str) -> Callable[[str], str]:
    """PTX without the lines that match."""

    def edit(ptx: str) -> str:
        lines = ptx.splitlines()
        kept = [line for line in lines if not re.search(pattern, line)]
        assert len(kept) < len(lines), f"nothing matches {pattern}: the plant would prove nothing"
        return "\n".join(kept)

    return edit


def unmasked_stores(ptx: str) -> str:
    edited, count = re.subn(r"@%p\d+ (st\.global)", r"\1", ptx)
    assert count
    return edited


def planted_case(rows: int) -> gpu_cases.Case:
    """[rows, 256] times [256, 200] in tiles of 64 x 64, four steps of the sum in three stages."""
    return gpu_cases.norm_linear(BF16, (1, rows, 256), 200, Tile(64, 64, 64, 4, 3), "gelu")


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("rows", [1, 70])
def test_what_bugs_are_planted_in_runs_clean_without_them(arch: int, rows: int) -> None:
    emulate(planted_case(rows), arch)


@pytest.mark.parametrize(
    ("arch", "rows", "edit", "error", "message"),
    [
        (80, 70, without(r"\bbar\.sync"), "SharedRace", "no barrier between"),
        (90, 70, without(r"\bbar\.sync"), "SharedRace", "no barrier between"),
        (80, 70, without(r"cp\.async\.wait_group"), "AsyncHazard", "missing wait"),
        (90, 70, without(r"cp\.async\.wait_group"), "AsyncHazard", "missing wait"),
        (90, 70, without(r"wgmma\.wait_group"), "AsyncHazard", "missing wgmma.wait_group"),
        (80, 1, unmasked_stores, "OutOfBounds", "out_ptr"),  # columns past the end: nothing is there
        (90, 1, unmasked_stores, "OutOfBounds", "out_ptr"),
        (80, 70, unmasked_stores, "GlobalRace", "out_ptr"),  # the next row is there
        (90, 70, unmasked_stores, "GlobalRace", "out_ptr"),
    ],
)
def test_planted_bugs_are_caught(arch: int, rows: int, edit: Callable[[str], str], error: str, message: str) -> None:
    with pytest.raises(getattr(ptxemu().errors, error), match=message):
        emulate(planted_case(rows), arch, edit)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "layers"), [("bfloat16", 4), ("float16", 2)])
@pytest.mark.parametrize("arch", [80, 90])
def test_a_clip_of_ast_base_waveform_to_logits(arch: int, precision: str, layers: int) -> None:
    """With the race detectors, and all twelve layers: ``python -m tests.emulation.emulate_clip``."""
    ptxemu()
    outcome = emulate_clip.run(arch, precision, layers, races=False)
    assert outcome.error <= 2 * outcome.peer_error
