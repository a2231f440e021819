"""The ops of images on the GPU backend, by interpreted kernels and by PyTorch's ops: the cases that judge the CPU's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from astfast.backends.cuda.ops import CudaOps
from astfast.backends.cuda.target import Target
from astfast.errors import UnsupportedModel
from astfast.ops import Scan
from tests import launchers
from tests.cases import gpu_family_cases, image_cases
from tests.cases.image_cases import QUICK, ImageGeometry
from tests.emulation.emulator import Emulator, ptxemu
from tests.fakes.recording_runtime import GPU, RecordingRuntime, torch_ops


def interpreted(dtype: torch.dtype) -> CudaOps:
    precision = str(dtype).removeprefix("torch.")
    target = Target("gfx942", 4, "a GPU that is not here")  # whose float32 products are no TF32
    return CudaOps(1, precision, "cpu", launcher=launchers.interpret, target=target, stream_scale=0.5)


def by_torch(dtype: torch.dtype) -> CudaOps:
    fast = torch_ops(1, RecordingRuntime())
    precision = str(dtype).removeprefix("torch.")
    return CudaOps(1, precision, "cpu", target=GPU, runtime=fast.runtime, autotuner=fast._autotuner, stream_scale=0.5)


def judge(geometry: ImageGeometry, ops: CudaOps, dtype: torch.dtype) -> None:
    for case in image_cases.cases(geometry, str(dtype).removeprefix("torch.")):
        gpu_family_cases.check_image_op(case, geometry, ops, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("name", "make"),
    [
        *((name, by_torch) for name in QUICK),
        *((name, interpreted) for name in ("one_pixel", "row", "column")),
        *(pytest.param(name, interpreted, marks=pytest.mark.slow) for name in ("odd", "even", "wide")),
    ],
)
def test_error_at_most_twice_torchs(name: str, make: Callable[[torch.dtype], CudaOps], dtype: torch.dtype) -> None:
    judge(QUICK[name], make(dtype), dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "dtype"), [(80, torch.float16), (90, torch.bfloat16), (120, torch.float32)])
def test_compiled_code_in_the_emulator(arch: int, dtype: torch.dtype) -> None:
    """With the race detectors: tiles that are cut off on both sides of the image and at its last channels."""
    ptxemu()
    precision, target = str(dtype).removeprefix("torch."), Target(arch, 4, "a GPU that is not here")
    ops = CudaOps(1, precision, "cpu", launcher=Emulator(arch), target=target, stream_scale=0.5)
    judge(ImageGeometry(2, 7, 11, 80, 100), ops, dtype)


def test_float8_is_refused_by_name() -> None:
    ops = CudaOps(1, "float8", "cpu", launcher=launchers.interpret, target=GPU)
    case = image_cases.cases(QUICK["odd"], "float32")[0]
    with pytest.raises(UnsupportedModel, match="doesn't run DASS models in float8: use bfloat16"):
        case.call(ops, lambda x, kind: torch.from_numpy(x))


def test_a_clips_scan_has_the_same_bits_in_any_batch() -> None:
    ops, grid = interpreted(torch.float32), (5, 9)
    rng = np.random.default_rng(0)
    x, projected, weight, vectors = (
        torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
        for shape in ((3, 45, 20), (3, 45, 4 * 4), (4, 20, 2), (4, 20))
    )
    packed = ops.pack_scan(Scan(weight, vectors, vectors, vectors))
    whole = ops.selective_scan(x, projected, packed, grid, ops.empty((3, 45, 20), "image"))
    alone = ops.selective_scan(x[2:], projected[2:], packed, grid, ops.empty((1, 45, 20), "image"))
    assert torch.equal(whole.x[2:], alone.x)
    assert torch.equal(whole.sumsq[2:], alone.sumsq)
