"""Hopper's persistent kernel: its compiled PTX, executed on the CPU with the race detectors on.

Bytes are followed through mbarriers (tests/emulation/ptx_clocks.py); each planted bug must raise.
"""

import re
from collections.abc import Callable

import pytest
import torch

from astfast.backends.cuda import target
from astfast.backends.cuda.op_call import OpCall
from astfast.backends.cuda.ops import CudaOps, Target
from astfast.kernels import persistent, tuning
from astfast.kernels.tuning import Tile
from astfast.models.ast.config import AstConfig
from tests.cases import gpu_cases, recorded_launches
from tests.emulation import emulate_clip
from tests.emulation.emulator import ptxemu
from tests.kernels.test_emulated import emulate, without

BF16, FP16 = torch.bfloat16, torch.float16
SMALL = Tile(64, 64, 64, 4, 2)
NORM, RESIDUAL = tuning.tiles_for(90, 2).persistent_norm_linear, tuning.tiles_for(90, 2).persistent_residual


def norm_linear(dtype: torch.dtype = BF16) -> gpu_cases.Case:
    """Nine tiles on two programs, three steps of the sum in two stages; no size is a multiple of its tile's."""
    return gpu_cases.norm_linear(dtype, (1, 136, 168), 136, SMALL, "gelu", programs=2)


def linear_residual(dtype: torch.dtype = BF16) -> gpu_cases.Case:
    return gpu_cases.linear_residual(dtype, (2, 68, 168), 136, SMALL, programs=2)


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("build", [norm_linear, linear_residual])
def test_odd_shapes(build: Callable[[torch.dtype], gpu_cases.Case], dtype: torch.dtype) -> None:
    emulate(build(dtype), 90)


@pytest.mark.parametrize(("rows", "programs"), [(1, 1), (64, 5), (65, 1)])
def test_more_programs_than_tiles_and_one_program(rows: int, programs: int) -> None:
    emulate(gpu_cases.norm_linear(BF16, (1, rows, 64), 64, SMALL, programs=programs), 90)


PRODUCTS: dict[str, Callable[[torch.dtype], gpu_cases.Case]] = {
    "qkv": lambda dtype: gpu_cases.norm_linear(dtype, (2, 1214, 768), 2304, NORM, programs=8),
    "proj": lambda dtype: gpu_cases.linear_residual(dtype, (2, 1214, 768), 768, RESIDUAL, programs=8),
    "fc1": lambda dtype: gpu_cases.norm_linear(dtype, (2, 1214, 768), 3072, NORM, "gelu", programs=8),
    "fc2": lambda dtype: gpu_cases.linear_residual(dtype, (2, 1214, 3072), 768, RESIDUAL, programs=8),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), [*((name, BF16) for name in PRODUCTS), ("proj", FP16)])
def test_two_clips_of_ast_base(name: str, dtype: torch.dtype) -> None:
    emulate(PRODUCTS[name](dtype), 90)


@pytest.mark.slow
def test_two_layers_of_a_clip_of_ast_base() -> None:
    """All of it: ``python -m tests.emulation.emulate_clip --arch 90 --persistent``."""
    ptxemu()
    outcome = emulate_clip.run(90, "bfloat16", 2, races=False, persistent=True)
    assert sum(counts.kernel == "persistent_linear_kernel" for counts in outcome.counts) >= 5
    assert outcome.error <= 2 * outcome.peer_error


def flipped(wait: int) -> Callable[[str], str]:
    """PTX whose n-th wait at an mbarrier waits for the other parity."""

    def edit(ptx: str) -> str:
        blocks = list(re.finditer(r"(\.reg \.pred complete;)(.*?complete, \[[^]]*\], )(%r\d+|\d+);", ptx, re.DOTALL))
        block = blocks[wait]
        inverse = f".reg .b32 flipped; xor.b32 flipped, {block[3]}, 1;"
        return ptx[: block.start()] + f"{block[1]} {inverse}{block[2]}flipped;" + ptx[block.end() :]

    return edit


def passed(wait: int) -> Callable[[str], str]:
    """PTX without its n-th wait at an mbarrier."""

    def edit(ptx: str) -> str:
        block = list(re.finditer(r"waitLoop:.*?bra\.uni waitLoop;", ptx, re.DOTALL))[wait]
        return ptx[: block.start()] + ptx[block.end() :]

    return edit


def expecting(factor: float) -> Callable[[str], str]:
    """PTX that expects another number of bytes from a stage's copies."""

    def edit(ptx: str) -> str:
        pattern = r"(expect_tx\S* _, \[%r\d+\], )(\d+)"
        assert re.search(pattern, ptx)
        return re.sub(pattern, lambda found: f"{found[1]}{int(factor * int(found[2]))}", ptx, count=1)

    return edit


# Waits in the order of the code: each consumer's turn, stage (and residual tile), the producer's stage (and residual).
BUGS = [
    pytest.param(norm_linear, without(r"\bbar\.sync"), "SharedRace", "nothing orders", id="no barrier"),
    pytest.param(norm_linear, without(r"barrier\.sync"), "SharedRace", "nothing orders", id="no barrier at the start"),
    pytest.param(norm_linear, without(r"wgmma\.wait_group"), "AsyncHazard", "wgmma", id="no wait for products"),
    pytest.param(norm_linear, without(r"mbarrier\.arrive\.shared"), "Deadlock", "mbarrier", id="no arrivals"),
    pytest.param(norm_linear, flipped(0), "Deadlock", "mbarrier", id="first turn flipped"),
    pytest.param(norm_linear, flipped(1), None, None, id="first consumer's stage flipped"),
    pytest.param(norm_linear, flipped(3), "Deadlock", "mbarrier", id="second consumer's stage flipped"),
    pytest.param(norm_linear, flipped(4), "Deadlock", "mbarrier", id="producer's stage flipped"),
    pytest.param(norm_linear, passed(1), None, None, id="first consumer doesn't wait"),
    pytest.param(norm_linear, passed(2), None, None, id="second consumer takes no turns"),
    pytest.param(norm_linear, passed(4), None, None, id="producer doesn't wait"),
    pytest.param(norm_linear, expecting(0.5), None, None, id="half the bytes expected"),
    pytest.param(norm_linear, expecting(1.25), "Deadlock", "mbarrier", id="more bytes expected"),
    pytest.param(linear_residual, flipped(2), None, None, id="residual tile flipped"),
    pytest.param(linear_residual, passed(2), None, None, id="residual tile not waited for"),
    pytest.param(linear_residual, passed(7), None, None, id="residual tile overwritten"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("build", "edit", "error", "message"), BUGS)
def test_planted_bugs_are_caught(
    build: Callable[[], gpu_cases.Case], edit: Callable[[str], str], error: str | None, message: str | None
) -> None:
    errors = ptxemu().errors
    hazards = (errors.AsyncHazard, errors.UninitializedRead, errors.SharedRace)
    with pytest.raises(hazards if error is None else getattr(errors, error), match=message):
        emulate(build(), 90, edit)


def test_autotuning_may_choose_it_where_tma_can_read_the_rows() -> None:
    calls: list[OpCall] = []

    class Collecting(CudaOps):
        def _run(self, call: OpCall) -> torch.Tensor:
            calls.append(call)
            return call.clips[call.result]

    model = AstConfig(num_hidden_layers=2, labels=("a",))
    recorded_launches.run(model, 2, Collecting(12, "bfloat16", "meta", target=Target(90, 132, "H100")))
    products = [
        (call.op, [other.variant for other in call.others].count("persistent"))
        for call in calls
        if call.op in ("norm_linear", "linear_residual")
    ]
    whole = [("norm_linear", 1), ("linear_residual", 1)] * 2
    last = [
        ("norm_linear", 0),
        ("norm_linear", 1),
        *[("linear_residual", 0), ("norm_linear", 0)],
        ("linear_residual", 0),
    ]
    assert (
        products == whole + last
    )  # of the last layer, keys and values: queries and the rest are two rows of each clip
    assert not persistent.fits(torch.empty(2, 8, 12, dtype=BF16)), "rows of 24 bytes"
    assert not persistent.fits(torch.empty(2, 8, 16)), "float32"


def test_the_environment_can_leave_persistent_kernels_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert target.persistent_kernels(90) is not None
    monkeypatch.setenv("ASTFAST_PERSISTENT_KERNELS", "0")
    assert target.persistent_kernels(90) is None


@pytest.mark.parametrize("arch", [80, 100, 120])
def test_other_gpus_have_no_persistent_kernels(arch: int) -> None:
    ops = CudaOps(12, "bfloat16", "meta", launcher=lambda launch: None, target=Target(arch, 100, "another"))
    assert ops._persistent is None
