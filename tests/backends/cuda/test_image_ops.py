"""The ops of images on the GPU backend, by interpreted kernels and by PyTorch's ops: the cases that judge the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from astfast.backends.cuda import fallback_ops
from astfast.backends.cuda.ops import CudaOps
from astfast.backends.cuda.packing import Stream
from astfast.backends.cuda.target import Target
from astfast.backends.reference import ReferenceOps
from astfast.errors import UnsupportedModel
from astfast.ops import Scan
from tests import launchers
from tests.cases import image_cases, op_cases
from tests.cases.gpu_cases import EPSILON
from tests.cases.image_cases import QUICK, ImageGeometry
from tests.cases.plain_torch import PlainTorch
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


def on(ops: CudaOps, case: op_cases.OpCase, dtype: torch.dtype) -> np.ndarray:
    """The case's result in float64, of buffers that were NaN."""
    scale, names = ops._packing.scale, {"depthwise_silu", "x_proj", "selective_scan"}

    def put(x: np.ndarray, kind: str) -> Any:
        values = torch.from_numpy(np.ascontiguousarray(x))
        if kind == "activation":
            return values.to(dtype)
        if case.name in ("stem", "head_without_norm") or (case.name in names and kind == "stream"):
            return values  # a spectrogram, an embedding, an output of ``linear``
        stream = ops.empty(tuple(values.shape), "image")
        stream.x.copy_(scale * values)
        fallback_ops.sums_of_squares(stream.x, stream.sumsq)
        return stream

    class Empty:
        def __getattr__(self, name: str) -> Any:
            return getattr(ops, name)

        def empty(self, shape: tuple[int, ...], kind: str) -> Any:
            out = ops.empty(shape, "image" if kind == "stream" else kind)
            for buffer in (out.x, out.sumsq) if isinstance(out, Stream) else (out,):
                buffer.fill_(torch.nan)
            return out

    result = case.call(Empty(), put)
    if not isinstance(result, Stream):
        return result.double().numpy()
    expected = torch.empty_like(result.sumsq)
    fallback_ops.sums_of_squares(result.x, expected)
    torch.testing.assert_close(result.sumsq, expected, rtol=1e-5, atol=1e-5)
    return result.x.double().numpy() / scale


def judge(geometry: ImageGeometry, ops: CudaOps, dtype: torch.dtype) -> None:
    """Errors are at most twice torch's, and a rounding of the largest result in the type, and the case's own floor."""
    failures = []
    with torch.inference_mode():
        for case in image_cases.cases(geometry, str(dtype).removeprefix("torch.")):
            exact = op_cases.result_of(case, geometry, torch.float64)
            with PlainTorch():
                peer = case.call(ReferenceOps(1, dtype), op_cases.on_torch(dtype)).double().numpy()
            error = np.abs(on(ops, case, dtype) - exact)
            allowed = 2 * np.abs(peer - exact).max() + EPSILON[dtype] * np.abs(exact).max() + case.floor
            if not (error <= allowed).all():
                failures.append(f"{case.name}: {error.max():.2e} of {np.max(allowed):.2e}")
    assert not failures


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
