"""PyTorch's ops in the place of kernels: any number of prefix tokens and of pooled rows, judged as kernels are."""

import pytest
import torch

from astfast.backends.cuda import fallback_ops
from astfast.backends.cuda.op_call import OpCall
from astfast.kernels import head, patch_embed
from astfast.kernels.tuning import Tile
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
