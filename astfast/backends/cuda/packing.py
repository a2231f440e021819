"""Packing of weights for the GPU's kernels: folded in float64, then rounded once to the compute type."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from astfast.backends.cuda import folding
from astfast.front_end import KaldiFbank, mel_filters
from astfast.kernels.quantise import FLOAT8_MAX, float8_room
from astfast.ops import Embed, Head, LayerNorm, Linear, NormLinear, patch_grid

# Of the residual stream and the activations; in float8 the operands of the layers' products are of 8 bits.
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float8": torch.bfloat16}
STREAM_SCALE = {"float32": 1.0, "float16": 2.0**-5, "bfloat16": 1.0, "float8": 1.0}  # massive activations below 65,504
# Bound on the growth of a row's norm by e4m3 rounding (relative error 1/16 per element), with margin.
E4M3_NORM_GROWTH = 1.25


@dataclass(frozen=True)
class Stream:
    """The residual stream and its partial sums of squares, one per 64 columns, which the next op reduces to rstd."""

    x: torch.Tensor  # [B, T, D]
    sumsq: torch.Tensor  # [B, T, ceil(D / 64)] float32
    quantised: torch.Tensor | None = None  # [B, T, D] in float8, for the product that reads the stream next

    @property
    def shape(self) -> torch.Size:
        return self.x.shape

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Stream:
        return Stream(self.x[index], self.sumsq[index], None if self.quantised is None else self.quantised[index])


@dataclass(frozen=True)
class PackedLinear:
    """A linear layer with the LayerNorm in front of it, if any, folded in."""

    weight: torch.Tensor  # [N, K] in the compute type
    bias: torch.Tensor  # [N] float32
    rounded_bias: torch.Tensor  # [N] in the type of the activations, which torch's own product demands
    eps: float | None = 0.0  # of the LayerNorm; None of a head without one
    weight_scale: torch.Tensor | None = None  # [N] float32 of a float8 weight
    gain: float = 1.0  # of its output where that is float8

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights of a product's call, by the names that kernels have for them."""
        weights = {"weight": self.weight, "bias": self.bias}
        return weights if self.weight_scale is None else {**weights, "weight_scale": self.weight_scale}


@dataclass(frozen=True)
class PackedEmbed:
    """Folded patch projection, and the table of prefix tokens, positions and bias that is added to it."""

    weight: torch.Tensor  # [D, patch_size * patch_size]
    table: torch.Tensor  # [T, D] float32
    prefix: int  # tokens before the patches
    patch_size: int
    frequency_stride: int
    time_stride: int

    def rows_of(self, frames: int, mels: int) -> torch.Tensor:
        """The rows of the table for a spectrogram of as many frames or fewer than it was made for."""
        frequency, time = patch_grid(frames, mels, self.patch_size, self.frequency_stride, self.time_stride)
        prefix, patches = self.table[: self.prefix], self.table[self.prefix :]
        if frequency * time == len(patches):
            return self.table
        return torch.cat([prefix, patches.view(frequency, -1, patches.shape[1])[:, :time].flatten(0, 1)])


@dataclass(frozen=True)
class PackedFrontEnd:
    """The constant matrices of the log-mel front end, float32."""

    spectral: torch.Tensor  # [frame_length, fft_length]
    mel: torch.Tensor  # [fft_length / 2, mels rounded up to a power of two]


class Packing:
    """Packs the layers of a model for one device and precision.

    - ``scale``: factor of the residual stream in memory; None for the one that suits the precision.
    - ``centred``: whether rows of the stream are made zero-mean by the layers that write it, see ``folding.py``.
    """

    def __init__(self, precision: str, device: torch.device, scale: float | None = None, centred: bool = True) -> None:
        self.dtype = DTYPES[precision]
        self.scale = STREAM_SCALE[precision] if scale is None else scale
        self.centred = centred
        self.device = device
        self.float8 = precision == "float8"
        self.operand_dtype = torch.float8_e4m3fn if self.float8 else self.dtype  # of the layers' products

    def embed(self, w: Embed) -> PackedEmbed:
        weight, table = folding.embedding(w, self.scale, self.centred)
        return PackedEmbed(self.constant(weight, self.dtype), self.constant(table), w.prefix.shape[0], *w.geometry)

    def norm_linear(self, w: NormLinear, value_columns: int = 0) -> PackedLinear:
        """``value_columns``: how many of the last outputs are attention's values, whose average float8 quantises."""
        weight, bias = folding.rms_linear(w)
        eps = w.norm.eps * self.scale**2
        if not self.float8:
            return self.packed(weight, bias, self.dtype, eps)
        if value_columns:
            gain = float8_gain(weight[-value_columns:], bias[-value_columns:])
            weight[-value_columns:] *= gain
            bias[-value_columns:] *= gain
        room = float8_room(weight.shape[1])
        return self._float8_linear(weight, bias, room, eps, float8_gain(weight, bias))

    def linear(self, w: Linear, input_layer: NormLinear | None = None, centred: bool = True) -> PackedLinear:
        """``input_layer``: layer whose last outputs, through attention or the GELU, are the input; float8 needs it."""
        weight, bias = folding.residual_linear(w, self.scale, self.centred and centred)
        if not self.float8:
            return self.packed(weight, bias, self.dtype)
        assert input_layer is not None, "a float8 layer needs the layer in front of it for the range of its input"
        width = weight.shape[1]
        writer, writers_bias = folding.rms_linear(input_layer)
        return self._float8_linear(weight, bias, float8_gain(writer[-width:], writers_bias[-width:]))

    def output_linear(self, w: Linear, scale: float = 1.0) -> PackedLinear:
        """A layer whose outputs are added to nothing; ``scale`` multiplies its bias."""
        return self.packed(folding.float64(w.weight), scale * folding.float64(w.bias), self.dtype)

    def norm(self, w: LayerNorm) -> PackedLinear:
        """The final LayerNorm, which no product follows: gamma as weight, beta as bias."""
        weight, bias = folding.float64(w.weight), folding.float64(w.bias)
        return self.packed(weight, bias, torch.float32, w.eps * self.scale**2)

    def head(self, w: Head | Linear) -> PackedLinear:
        if isinstance(w, Linear):
            return replace(self.packed(folding.float64(w.weight), folding.float64(w.bias), torch.float32), eps=None)
        return self.packed(*folding.normalised_linear(NormLinear(w.norm, w.linear)), torch.float32, w.norm.eps)

    def front_end(self, front_end: KaldiFbank) -> PackedFrontEnd:
        filters = mel_filters(front_end)[:, :-1].T  # [bins, mels], without the unused Nyquist bin
        padded = 1 << (front_end.num_mel_bins - 1).bit_length()
        filters = np.pad(filters, ((0, 0), (0, padded - front_end.num_mel_bins)))
        return PackedFrontEnd(self.constant(folding.spectral_matrix(front_end)), self.constant(filters))

    def _float8_linear(
        self,
        weight: folding.Matrix,
        bias: folding.Matrix,
        input_gain: float,
        eps: float = 0.0,
        gain: float = 1.0,
    ) -> PackedLinear:
        quantised, scale = float8_weight(torch.from_numpy(weight))
        return PackedLinear(
            quantised.to(self.device),
            self.constant(bias),
            self.constant(bias, self.dtype),
            eps,
            (scale / input_gain).to(self.device),
            gain,
        )

    def packed(
        self, weight: folding.Matrix, bias: folding.Matrix, dtype: torch.dtype, eps: float = 0.0
    ) -> PackedLinear:
        return PackedLinear(self.constant(weight, dtype), self.constant(bias), self.constant(bias, dtype), eps)

    def constant(self, x: folding.Matrix, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(dtype).to(self.device)


def float8_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantises weight [N, K] per output channel -> (e4m3 [N, K], scale [N] float32).

    Row n is about scale[n] * quantised[n]; scale[n] is the power of two that brings its largest element into
    (224, 448].
    """
    largest = weight.abs().amax(1).double()  # [N]
    scale = torch.where(largest > 0, torch.exp2(torch.ceil(torch.log2(largest / FLOAT8_MAX))), 1.0)
    return (weight.double() / scale[:, None]).float().to(torch.float8_e4m3fn), scale.float()


def float8_gain(weight: folding.Matrix, bias: folding.Matrix) -> float:
    """Power of two that keeps every output of a norm_linear with these folded weights within the range of e4m3.

    A normalised row has a norm of at most sqrt(K), so that |y_n| <= sqrt(K) |w_n| + |b_n|, and neither the GELU nor an
    average makes it larger. Typical outputs are sqrt(K) times smaller (28 for K = 768), which costs five of the 17
    binades of e4m3.
    """
    longest = E4M3_NORM_GROWTH * np.sqrt(weight.shape[1]) * np.linalg.norm(weight, axis=1) + np.abs(bias)
    largest = float(longest.max())
    return float(2.0 ** np.floor(np.log2(FLOAT8_MAX / largest))) if largest > 0 else 1.0
