"""Weights and buffers as the GPU's kernels read them: folded in float64, then rounded once to the compute type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from astfast.backends import folding
from astfast.backends.base import Embed, Head, LayerNorm, Linear, NormLinear
from astfast.front_end import FrontEnd, mel_filters

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
STREAM_SCALE = {"float32": 1.0, "float16": 2.0**-5, "bfloat16": 1.0}  # keeps massive activations below 65,504


@dataclass(frozen=True)
class Stream:
    """The residual stream and the sums of squares of every 64 columns of it, which its next reader turns into rstd."""

    x: torch.Tensor  # [B, T, D]
    sumsq: torch.Tensor  # [B, T, ceil(D / 64)] float32

    @property
    def shape(self) -> torch.Size:
        return self.x.shape

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Stream:
        return Stream(self.x[index], self.sumsq[index])


@dataclass(frozen=True)
class PackedLinear:
    """A folded weight [N, K] in the compute type and its bias [N] in float32; eps of the norm in front, if any."""

    weight: torch.Tensor
    bias: torch.Tensor
    rounded_bias: torch.Tensor  # [N] in the type of the weight: torch's own product takes no other
    eps: float = 0.0


@dataclass(frozen=True)
class PackedEmbed:
    """Folded patch projection [D, p * p] and the table [T, D] of all that is added to it."""

    weight: torch.Tensor
    table: torch.Tensor
    geometry: Embed  # patch size and strides are read from it


@dataclass(frozen=True)
class PackedFrontEnd:
    """The constant matrices of the log-mel front end, float32."""

    spectral: torch.Tensor  # [frame_length, fft_length]
    mel: torch.Tensor  # [fft_length / 2, mels rounded up to a power of two]


class Packing:
    """Packs the leaves of a model for one device, compute type and scale of the residual stream."""

    def __init__(self, precision: str, device: torch.device, scale: float | None = None) -> None:
        self.dtype = DTYPES[precision]
        self.scale = STREAM_SCALE[precision] if scale is None else scale
        self.device = device

    def embed(self, w: Embed) -> PackedEmbed:
        weight, table = folding.embedding(w, self.scale)
        return PackedEmbed(self._constant(weight, self.dtype), self._constant(table), w)

    def norm_linear(self, w: NormLinear) -> PackedLinear:
        return self._linear(*folding.rms_linear(w), self.dtype, w.norm.eps * self.scale**2)

    def linear(self, w: Linear) -> PackedLinear:
        return self._linear(*folding.residual_linear(w, self.scale), self.dtype)

    def norm(self, w: LayerNorm) -> PackedLinear:
        """gamma and beta of the final norm, which no product follows, as weight and bias."""
        weight, bias = folding.float64(w.weight), folding.float64(w.bias)
        return self._linear(weight, bias, torch.float32, w.eps * self.scale**2)

    def head(self, w: Head) -> PackedLinear:
        return self._linear(*folding.normalised_linear(NormLinear(w.norm, w.linear)), torch.float32, w.norm.eps)

    def front_end(self, front_end: FrontEnd) -> PackedFrontEnd:
        filters = mel_filters(front_end)[:, :-1].T  # [bins, mels], without the unused Nyquist bin
        padded = 1 << (front_end.num_mel_bins - 1).bit_length()
        filters = np.pad(filters, ((0, 0), (0, padded - front_end.num_mel_bins)))
        return PackedFrontEnd(self._constant(folding.spectral_matrix(front_end)), self._constant(filters))

    def _linear(
        self, weight: folding.Matrix, bias: folding.Matrix, dtype: torch.dtype, eps: float = 0.0
    ) -> PackedLinear:
        return PackedLinear(self._constant(weight, dtype), self._constant(bias), self._constant(bias, dtype), eps)

    def _constant(self, x: folding.Matrix, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(dtype).to(self.device)
