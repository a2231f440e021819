"""float8, the opt-in precision of GPUs from compute capability 8.9 on: its kernels, its quantisation, a whole model.

The kernels are held against torch on operands quantised alike; the quantisation against a bound of its own.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from astfast import backends
from astfast.backends.cuda import autotune
from astfast.backends.cuda import fallback_ops as cuda_torch_ops
from astfast.backends.cuda import packing as cuda_packing
from astfast.backends.cuda.op_call import OpCall
from astfast.backends.cuda.ops import CudaOps, Target
from astfast.backends.reference import ReferenceOps
from astfast.engines.eager import EagerEngine
from astfast.errors import BackendError
from astfast.kernels import tuning
from astfast.kernels.quantise import float8_room
from astfast.kernels.tuning import Tile
from astfast.models import recognise as checkpoint
from tests import launchers
from tests.backends.cuda import test_ops as test_cuda_backend
from tests.cases import checkpoints, float8_cases, recorded_launches
from tests.cases.float8_cases import FLOAT8
from tests.emulation import emulator
from tests.kernels import test_compiled as compiler

ARCHS = [89, 90, 100, 120]
MATRIX = {89: "QMMA", 90: "QGMMA", 100: "UTC[A-Z]*MMA", 120: "QMMA"}
SMALL = Tile(32, 64, 32, 4, 2)
ADA = Target(89, 4, "a GPU that is not here")
LARGE = test_cuda_backend.LARGE


@pytest.mark.parametrize(
    ("shape", "rows"), [((1, 1, 32), None), ((1, 17, 65), None), ((3, 5, 63), None), ((2, 40, 130), 2)]
)
def test_quantise_rows(shape, rows) -> None:
    case = float8_cases.quantise_rows(torch.float16, shape, Tile(16, 64, 0, 4, 1), rows)
    launchers.interpret(case.launch)
    case.check()


@pytest.mark.parametrize(
    ("shape", "n", "activation", "out_type", "rows"),
    [
        ((1, 1, 32), 64, None, None, None),
        ((1, 33, 65), 65, "gelu", FLOAT8, None),  # one past every tile
        ((3, 21, 31), 63, "gelu", None, None),  # one short of them; tiles that span clips
        ((2, 65, 96), 200, None, FLOAT8, 2),
    ],
)
def test_linear(shape, n, activation, out_type, rows) -> None:
    case = float8_cases.linear_(torch.float16, shape, n, SMALL, activation, out_type, rows)
    launchers.interpret(case.launch)
    case.check()


@pytest.mark.parametrize(
    ("shape", "n", "rows"),
    [((1, 1, 32), 64, None), ((1, 33, 65), 129, None), ((3, 21, 31), 63, None), ((2, 65, 37), 96, 2)],
)
def test_linear_residual(shape, n, rows) -> None:
    case = float8_cases.linear_residual(torch.float16, shape, n, SMALL, rows)
    launchers.interpret(case.launch)
    case.check()


def test_attention_writes_float8() -> None:
    case = float8_cases.attention_(torch.float16, 2, 33, 65, 2, 16, Tile(32, 32, 0, 4, 2))
    launchers.interpret(case.launch)
    case.check()


def test_the_quantisation_of_rows_is_as_coarse_as_its_format_and_never_saturates() -> None:
    """One channel holds all of a row at worst, and is still within the range."""
    k = 768
    x = float8_cases.stream((2, 50, k), torch.bfloat16, seed=1)
    x[0, 0] = 0
    x[0, 0, 5] = 1e4  # nothing but one outlier: |x| rstd = sqrt(K)
    x[0, 1] *= 2.0**-40
    sumsq = float8_cases.sums_of_squares(x).float()
    quantised = cuda_torch_ops.quantise_rows(x, sumsq, 1e-12, torch.empty(x.shape, dtype=FLOAT8))
    exact = float8_room(k) * x.double() * cuda_torch_ops.row_rstd(x.double(), sumsq.double(), 1e-12)
    float8_cases.assert_rounded(quantised.double(), exact)
    assert float8_room(k) * k**0.5 <= 448 < 2 * float8_room(k) * k**0.5


@pytest.mark.parametrize("k", [768, 3072])
def test_hoppers_sums_cost_less_than_the_rounding_of_their_result(k: int) -> None:
    """Its float8 products are summed 32 at a time and at 14 bits: operands aligned to the largest and cut off. Neither
    the kernels nor torch's product (``use_fast_accum``) sum more exactly, since that costs time on each 32."""
    x = float8_cases.normal((48, k), torch.float64, 1, float8_room(k)).half().to(FLOAT8).double()
    weight = cuda_packing.float8_weight(float8_cases.normal((48, k), torch.float64, 2, k**-0.5))[0].double()
    exact = x @ weight.T
    total = torch.zeros(48, 48, 1, dtype=torch.float64)
    for first in range(0, k, 32):
        step = slice(first, first + 32)
        terms = torch.cat([total, x[:, None, step] * weight[None, :, step]], -1)
        last_place = torch.exp2(torch.frexp(terms.abs().amax(-1, keepdim=True)).exponent - 14)
        total = (torch.trunc(terms / last_place) * last_place).sum(-1, keepdim=True)
    cost, rounding = ((y - exact).square().mean() for y in (total[..., 0], exact.to(torch.bfloat16).double()))
    assert 0 < cost < rounding


def torch_product(x: torch.Tensor, weight: torch.Tensor, out_type: torch.dtype) -> torch.Tensor:
    weight8, scale = cuda_packing.float8_weight(weight)
    bias = float8_cases.normal((len(weight),), torch.bfloat16, 3)
    exact = F.gelu(x.double() @ weight8.double().T * scale + bias.double())
    out = torch.empty((*x.shape[:2], len(weight)), dtype=out_type)
    y = cuda_torch_ops.float8_linear(x, weight8, bias, out, scale, "gelu", 2.0)
    assert y.dtype == out_type
    coarse = 2.0**-8 if out_type == torch.bfloat16 else 2.0**-4
    assert (y.double() - 2 * exact).abs().max() <= 2 * coarse * 2 * exact.abs().max()
    return y


@pytest.mark.parametrize("out_type", [torch.bfloat16, FLOAT8])
@pytest.mark.parametrize(("n", "k", "ours"), [(48, 32, False), (40, 32, True), (48, 40, True)])
def test_torchs_own_product_serves_where_it_can(monkeypatch: pytest.MonkeyPatch, n, k, ours, out_type) -> None:
    """Of sides that are multiples of 16, and on devices that have it; elsewhere the same in 16 bits."""
    x, calls, scaled_mm = float8_cases.normal((2, 5, k), torch.float32, 1).to(FLOAT8), [], torch._scaled_mm
    monkeypatch.setattr(torch, "_scaled_mm", lambda *args, **how: calls.append(how) or scaled_mm(*args, **how))
    cuda_torch_ops.has_scaled_mm.cache_clear()
    weight = float8_cases.normal((n, k), torch.float32, 2, k**-0.5)
    here = torch_product(x[:, :3], weight, out_type)
    assert bool(calls) != ours

    def refused(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("torch._scaled_mm is only supported on devices of another kind")

    monkeypatch.setattr(torch, "_scaled_mm", refused)
    cuda_torch_ops.has_scaled_mm.cache_clear()
    elsewhere = torch_product(x[:, :3], weight, out_type)
    assert not ours or torch.equal(here, elsewhere)
    monkeypatch.undo()
    cuda_torch_ops.has_scaled_mm.cache_clear()


def test_weights_fill_the_range() -> None:
    weight = float8_cases.normal((5, 33), torch.float64, 1)
    weight[1] *= 1e-6
    weight[2] = 0
    weight[3, 4] = 448 * 2.0**-3  # fills it exactly
    quantised, scale = cuda_packing.float8_weight(weight)
    largest = quantised.double().abs().amax(1)
    assert ((largest > 208) & (largest <= 448))[[0, 1, 3, 4]].all()
    assert torch.equal(torch.frexp(scale).mantissa, torch.full((5,), 0.5)), "scales are powers of two"
    error = (quantised.double() * scale[:, None] - weight).abs()
    assert (error <= weight.abs() / 16 + scale[:, None] * 2.0**-10).all()


def test_gains_keep_the_worst_output_within_the_range() -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((40, 96)), rng.standard_normal(40)
    gain = cuda_packing.float8_gain(weight, bias)
    worst = weight / np.linalg.norm(weight, axis=1, keepdims=True) * 96**0.5  # rows that are normalised, along each w
    outputs = np.abs(worst @ weight.T + bias) * gain
    assert 448 / 4 < outputs.max() <= 448
    assert cuda_packing.float8_gain(np.zeros((2, 3)), np.zeros(2)) == 1.0


@pytest.mark.parametrize(
    "target", [Target(80, 108, "A100"), Target(86, 84, "RTX 3090"), Target("gfx942", 304, "MI300X")]
)
def test_older_gpus_are_refused_with_the_reason(target: Target) -> None:
    with pytest.raises(BackendError, match=rf"{target.name}.*8\.9: use bfloat16"):
        CudaOps(3, "float8", "meta", launcher=launchers.interpret, target=target)


def test_float8_is_never_chosen_unasked() -> None:
    from astfast.backends.cuda import backend

    assert "float8" in backends.module_of("cuda").precisions()
    assert backend.fastest_precision() != "float8"
    with pytest.raises(BackendError, match="no precision 'float8'"):
        backends.choose("cpu").open(3, "float8")


def with_torchs_ops(heads: int, precision: str) -> CudaOps:
    """The GPU backend with torch's own ops in the place of every kernel: on a CPU, in bfloat16 too."""
    ops = CudaOps(heads, precision, "cpu", launcher=launchers.interpret, target=ADA, tiles=LARGE)
    ops._run = lambda call: call.run_torch()  # type: ignore[method-assign]
    return ops


@pytest.fixture
def odd(tmp_path: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(checkpoints.write_v4(checkpoints.random_model(seed=3, **test_cuda_backend.ODD), tmp_path))


class Textbook(ReferenceOps):
    """Each operand of the layers' products divided by its row's largest element (weights: channel's), as is usual."""

    def norm_linear(self, x, w, out=None, activation=None):
        y = F.linear(quantised(self._norm(x, w.norm)), quantised(w.linear.weight), w.linear.bias)
        return F.gelu(y) if activation == "gelu" else y

    def linear_residual(self, x, w, residual):
        return residual + F.linear(quantised(x), quantised(w.weight), w.bias)


def quantised(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(-1, keepdim=True) / 448
    return (x / scale).to(FLOAT8).to(x.dtype) * scale


def test_whole_model_is_no_coarser_than_with_scales_that_are_searched_for(odd: checkpoint.Checkpoint) -> None:
    """Random weights with outlier channels, the logits' distance from float64."""
    rng = np.random.default_rng(0)
    spectrogram = (0.5 * rng.standard_normal((8, odd.config.max_length, odd.config.num_mel_bins))).astype(np.float32)

    def logits(ops) -> np.ndarray:
        return EagerEngine(ops, odd).logits(spectrogram)

    exact = logits(ReferenceOps(3, torch.float64))
    error = {
        name: np.sqrt(np.mean((logits(ops) - exact) ** 2))
        for name, ops in (
            ("ours", with_torchs_ops(3, "float8")),
            ("textbook", Textbook(3)),
            ("bfloat16", with_torchs_ops(3, "bfloat16")),
        )
    }
    assert error["bfloat16"] < error["ours"] <= 1.5 * error["textbook"], error


def test_operands_of_the_products_are_of_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compiler.AST_BASE
    for entry in recorded_launches.record(config, 2, "float8", compiler.GPUS[90]):
        if entry.name in ("norm_linear_kernel", "linear_residual_kernel"):
            assert entry.args["x_ptr"].dtype == entry.args["w_ptr"].dtype == FLOAT8
            assert entry.args["w_scale_ptr"].dtype == torch.float32
        if entry.name == "attention_kernel":
            assert entry.args["kv_ptr"].dtype == torch.bfloat16


def check_compiled(arch: int, names: slice = slice(None)) -> None:
    failures = []
    configurations = {
        name: entry
        for name, entry in compiler.configurations(arch, "float8").items()
        if entry.name in ("quantise_rows_kernel", "norm_linear_kernel", "linear_residual_kernel")
        or entry.args.get("BLOCK_M", 0) >= 64
    }
    for name, entry in list(configurations.items())[names]:
        try:
            made = compiler.compiled(entry, arch)
            assert made.spills == 0, f"{made.spills} accesses to spilled registers"
            assert made.shared <= compiler.SHARED_LIMIT[arch] * 1024, f"{made.shared} bytes of shared memory"
            if entry.name == "quantise_rows_kernel":
                assert re.search(r"LDG\S*\.(?:64|128)", made.code), "rows are not read by 8 or 16 bytes"
            elif "w_scale_ptr" in entry.args:
                assert re.search(MATRIX[arch], made.code), f"no {MATRIX[arch]}"
                assert compiler.tiles_move_by_16_bytes(made.code, arch), "tiles are not copied by 16 bytes"
        except Exception as error:
            failures.append(f"{name}: {error}")
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_every_configuration_compiles_as_it_should(arch: int) -> None:
    check_compiled(arch)


def test_one_configuration_compiles_as_it_should() -> None:
    check_compiled(89, slice(-1, None))


EMULATED = {
    "quantise_rows": lambda t: float8_cases.quantise_rows(torch.bfloat16, (3, 13, 322), t.quantise_rows, rows=11),
    "linear": lambda t: float8_cases.linear_(torch.bfloat16, (1, 70, 96), 200, t.norm_linear[-1], "gelu", FLOAT8),
    "qkv, largest tile": lambda t: float8_cases.linear_(torch.bfloat16, (1, 300, 768), 2304, t.norm_linear[0]),
    "linear_residual": lambda t: float8_cases.linear_residual(torch.bfloat16, (2, 37, 64), 129, t.residual[-1]),
    "attention": lambda t: float8_cases.attention_(torch.bfloat16, 1, 70, 70, 2, 64, t.attention),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EMULATED)
@pytest.mark.parametrize("arch", [89, 90])
def test_compiled_code_in_the_emulator(arch: int, name: str) -> None:
    case = EMULATED[name](tuning.tiles_for(arch, 1))
    emulator.Emulator(arch)(case.launch)
    case.check()


@pytest.mark.slow
@pytest.mark.parametrize("arch", [89, 90])
def test_autotuning_finds_the_compiled_kernels_right(
    odd: checkpoint.Checkpoint, arch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same check as on a GPU, beside torch's own product, of every op of a model."""
    launcher, target = emulator.Emulator(arch), Target(arch, 4, "a GPU that is not here")
    ops = CudaOps(3, "float8", "cpu", launcher=launcher, target=target)
    failures, run = {}, ops._run

    def checked(call: OpCall) -> torch.Tensor:
        failures.setdefault(call.op, set()).add(autotune.check(call, launcher))
        return run(call)

    monkeypatch.setattr(ops, "_run", checked)
    rng = np.random.default_rng(0)
    EagerEngine(ops, odd).logits(rng.standard_normal((2, odd.config.max_length, odd.config.num_mel_bins), np.float32))
    assert {"quantise_rows", "norm_linear", "linear_residual", "attention"} <= failures.keys()
    assert all(failure == {None} for failure in failures.values()), failures
