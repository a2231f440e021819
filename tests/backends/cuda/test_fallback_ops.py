"""PyTorch's ops in the place of kernels: any number of prefix tokens and of pooled rows, judged as kernels are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from astfast.backends.cuda import autotune, fallback_ops
from astfast.backends.cuda.op_call import OpCall
from astfast.backends.cuda.ops import CudaOps
from astfast.backends.cuda.target import Target
from astfast.front_end import KaldiFbank
from astfast.kernels import head, patch_embed
from astfast.kernels.tuning import Tile
from tests.backends.test_centred_log_mel import FRONT_ENDS
from tests.cases import gpu_cases

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_patch_embed(dtype: torch.dtype, prefix: int) -> None:
    case = gpu_cases.patch_embed_(dtype, 2, 45, 38, 16, (10, 9), 65, Tile(32, 64, 32, 4, 2), prefix=prefix)
    names = ("spectrogram_ptr", "w_ptr", "table_ptr", "scale", "stream_ptr", "sumsq_ptr")
    fallback_ops.patch_embed(*(case.launch.args[name] for name in names), prefix, 16, 10, 9)
    case.check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 5, 248])
def test_pool(dtype: torch.dtype, rows: int) -> None:
    case = gpu_cases.pool(dtype, 3, 65, rows=rows)
    fallback_ops.pool(*(case.launch.args[name] for name in ("stream_ptr", "weight_ptr", "bias_ptr", "eps", "out_ptr")))
    case.check()


def test_the_number_of_prefix_tokens_and_of_rows_is_part_of_the_key() -> None:
    """Models that differ in nothing else must not share a tuned choice, unless their rows are nearly as many."""

    def embed(prefix: int) -> OpCall:
        clips = {"spectrogram": torch.zeros(1, 16, 16), "stream": torch.zeros(1, 2, 8), "sumsq": torch.zeros(1, 2, 1)}
        settings = {"scale": 1.0, "prefix": prefix, "patch_size": 16, "frequency_stride": 10, "time_stride": 10}
        weights = {"weight": torch.zeros(8, 256), "table": torch.zeros(2, 8)}
        ops = patch_embed.patch_embed, fallback_ops.patch_embed
        return OpCall("patch_embed", *ops, clips, weights, settings, "stream", ("stream", "sumsq"))

    def pool(rows: int) -> OpCall:
        clips = {"stream": torch.zeros(1, rows, 8), "out": torch.zeros(1, 8)}
        weights = {"weight": torch.zeros(8), "bias": torch.zeros(8)}
        return OpCall("pool", head.pool, fallback_ops.pool, clips, weights, {"eps": 1e-6}, "out", ("out",))

    assert len({embed(0).key, embed(1).key, pool(1).key, pool(2).key}) == 4
    assert pool(1025).key == pool(1214).key == pool(1280).key != pool(1281).key


@pytest.fixture(params=["Kaldi", *FRONT_ENDS])
def log_mel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> OpCall:
    """The call that a front end makes of a tone and noise a thousandth as loud."""
    front_end = replace({"Kaldi": KaldiFbank(), **FRONT_ENDS}[request.param], max_length=40)
    taken: list[OpCall] = []
    ops = CudaOps(12, "float32", "cpu", target=Target("sm_80", 4, "nothing"))
    monkeypatch.setattr(ops, "_run", taken.append)
    noise = np.random.default_rng(0).standard_normal((2, 16000))
    waves = 0.4 * np.sin(0.1 * np.array([[1.0], [1.3]]) * np.arange(16000)) + 0.0003 * noise
    lengths = torch.tensor([16000, 9000], dtype=torch.int32)
    out = torch.empty(2, 40, front_end.num_mel_bins)
    ops.log_mel_on_device(torch.from_numpy(waves.astype(np.float32)), lengths, front_end, out)
    return taken[0]


def test_float32_is_as_far_off_as_the_sensitivity_of_logs_says(log_mel: OpCall) -> None:
    exact = log_mel.in_float64().run_torch()
    error = (log_mel.with_own_outputs().run_torch() - exact) / (log_mel.sensitivity(exact) * 2.0**-24)
    assert 0.25 <= float(error.square().mean().sqrt()) <= 2


@pytest.mark.parametrize(("share", "accepted"), [(0.95, True), (1.05, False)])
def test_what_roundings_do_to_quiet_bands_refuses_no_kernel(
    log_mel: OpCall, monkeypatch: pytest.MonkeyPatch, share: float, accepted: bool
) -> None:
    """Of a frame's quiet bands torch's own error says little: it may have summed in a luckier order."""
    exact = log_mel.in_float64().run_torch()
    of_torch = (log_mel.with_own_outputs().run_torch() - exact).abs().max()
    allowed = 2 * of_torch + autotune.ROUNDINGS * 2.0**-24 * log_mel.sensitivity(exact)
    monkeypatch.setattr(OpCall, "launch", lambda call: call)
    found = autotune.check(log_mel, lambda call: call.clips["out"].copy_(exact + share * allowed))
    assert (found is None) == accepted, found
