"""What DASS, CED, PaSST and MAEST ask of the GPU backend beside AST's kernels, on a GPU, interpreted or emulated.

DASS's ops are the cases that judge the CPU's (image_cases.py). Errors are at most twice torch's, and a rounding of the
largest result in the type, and the case's own floor. Front ends: see ``check_front_end``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from astfast.backends.cuda import fallback_ops
from astfast.backends.cuda.ops import CudaOps
from astfast.backends.cuda.packing import Stream
from astfast.backends.reference import ReferenceOps
from astfast.centred_log_mel import CentredLogMel
from astfast.models.ced.front_end import front_end as ced
from astfast.models.maest.front_end import front_end as maest
from astfast.models.passt.front_end import front_end as passt
from astfast.pcm import INT16_FULL_SCALE
from tests.cases import op_cases
from tests.cases.gpu_cases import EPSILON
from tests.cases.image_cases import ImageGeometry
from tests.cases.log_mel_error import allowed_error
from tests.cases.plain_torch import PlainTorch

FRONT_ENDS = {"CED": ced(), "PaSST": passt(), "MAEST": maest(1875, hub=False), "MAEST, hub": maest(1876, hub=True)}


def check_image_op(case: op_cases.OpCase, geometry: ImageGeometry, ops: CudaOps, dtype: torch.dtype) -> None:
    """Raises AssertionError for a result that is less exact than allowed."""
    with torch.inference_mode():
        exact = op_cases.result_of(case, geometry, torch.float64)
        with PlainTorch():
            peer = case.call(ReferenceOps(1, dtype), op_cases.on_torch(dtype)).double().numpy()
        error = np.abs(result_on(ops, case, dtype) - exact)
    allowed = 2 * np.abs(peer - exact).max() + EPSILON[dtype] * np.abs(exact).max() + case.floor
    assert (error <= allowed).all(), f"{case.name}: {error.max():.2e} of {np.max(allowed):.2e}"


def result_on(ops: CudaOps, case: op_cases.OpCase, dtype: torch.dtype) -> np.ndarray:
    """The case's result in float64, of buffers that were NaN."""
    scale, names = ops._packing.scale, {"depthwise_silu", "x_proj", "selective_scan"}

    def put(x: np.ndarray, kind: str) -> Any:
        values = torch.from_numpy(np.ascontiguousarray(x)).to(ops.device)
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
        return result.double().cpu().numpy()
    expected = torch.empty_like(result.sumsq)
    fallback_ops.sums_of_squares(result.x, expected)
    torch.testing.assert_close(result.sumsq, expected, rtol=1e-5, atol=1e-5)
    return result.x.double().cpu().numpy() / scale


def check_front_end(front_end: CentredLogMel, ops: CudaOps) -> None:
    """A clip that fills the model's input, one sample, and no whole hops in one batch, as float32 and as int16.

    Raises AssertionError for an error above that of allowed_error.
    """
    rng, full = np.random.default_rng(0), front_end.input_samples
    lengths = [full, 1, full // 2 + 7]
    samples = np.round(0.1 * INT16_FULL_SCALE * rng.standard_normal((len(lengths), full)))
    waves = torch.from_numpy(samples.clip(-INT16_FULL_SCALE, INT16_FULL_SCALE - 1).astype(np.int16))
    unit = front_end.log_factor * front_end.scale[0]
    counts = torch.tensor(lengths, dtype=torch.int32, device=ops.device)
    for kind in (waves, waves.float() / INT16_FULL_SCALE):
        shape = (len(lengths), front_end.max_length, front_end.num_mel_bins)
        out = torch.full(shape, torch.nan, device=ops.device)
        found = ops.log_mel_on_device(kind.to(ops.device), counts, front_end, out).cpu().numpy()
        for row, wave, length in zip(found, waves, lengths, strict=True):
            clip = wave[:length].float().numpy() / INT16_FULL_SCALE
            exact, theirs = (
                ReferenceOps(1, dtype).log_mel([clip], front_end)[0].numpy() for dtype in (torch.float64, torch.float32)
            )
            errors, allowed = np.abs(row[: len(exact)] - exact), allowed_error(exact, theirs, unit)
            worst = float((errors / allowed).max())
            assert worst <= 1, f"{length} samples, {kind.dtype}: {worst:.2f} times what is allowed"


def short(front_end: CentredLogMel, frames: int) -> CentredLogMel:
    """The same for spectrograms of so many frames at most."""
    return replace(front_end, max_length=frames)
