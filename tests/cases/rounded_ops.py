"""What an op in a type costs at least, on any machine: computed in float64, rounded where the type is.

Torch's own ops in float32 and bfloat16 are other kernels on each processor (MKL's and oneDNN's, by instruction set),
with other errors, and their random numbers differ in the last bit; bounds that are made of them do too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from astfast.backends.reference import ReferenceOps
from astfast.ops import ConvNorm, Depthwise, Embed, Head, LayerNorm, Linear, NormLinear, Scan


class RoundedOps(ReferenceOps):
    """The ops of the CPU engine in a type, in float64: operands of products, probabilities and what ops exchange are
    rounded to it; LayerNorms are rounded as operands; the residual stream, pooling and the head are in float32."""

    def __init__(self, heads: int, dtype: torch.dtype) -> None:
        super().__init__(heads, torch.float64)
        self._type = dtype
        self.kind = (False, False)  # as ``QuantisedOps.kind``

    def patch_embed(self, spectrogram: Any, w: Embed, out: Any = None) -> torch.Tensor:
        projection = replace(w.projection, weight=self._rounded(w.projection.weight))
        image = self._rounded(torch.as_tensor(spectrogram))
        return _float32(super().patch_embed(image, replace(w, projection=projection)))

    def norm_linear(self, x: Any, w: NormLinear, out: Any = None, activation: Any = None) -> torch.Tensor:
        y = self._linear(self._norm(x, w.norm), w.linear)
        return self._rounded(torch.nn.functional.gelu(y) if activation == "gelu" else y)

    def attention(self, q: Any, kv: Any, out: Any = None, sizes: Any = None) -> torch.Tensor:
        parts = (q, *kv.chunk(2, dim=-1))
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in parts)  # [B, H, T, head_dim]
        scores = q @ k.mT / q.shape[-1] ** 0.5
        if sizes is not None:
            scores = scores + sizes.log()[:, None, None]
        p = self._rounded(torch.exp(scores - scores.amax(-1, keepdim=True)))
        return self._rounded((p @ v / p.sum(-1, keepdim=True)).transpose(1, 2).flatten(2))

    def linear_residual(self, x: Any, w: Linear, residual: Any) -> torch.Tensor:
        return _float32(residual + self._linear(x, w))

    def pool(self, x: Any, w: LayerNorm, out: Any = None, sizes: Any = None) -> torch.Tensor:
        sizes = torch.ones_like(x[..., 0]) if sizes is None else sizes
        y = _float32(self._norm(x, w))
        return _float32((y * sizes[..., None]).sum(dim=1) / sizes.sum(dim=1, keepdim=True))

    def head(self, x: Any, w: Head | Linear, out: Any = None) -> torch.Tensor:
        if isinstance(w, Head):
            x, w = _float32(self._norm(x, w.norm)), w.linear
        return _float32(torch.nn.functional.linear(x, w.weight, w.bias))

    def norm_linear_residual(self, x: Any, w: NormLinear, residual: Any) -> torch.Tensor:
        return _float32(residual + self._linear(self._norm(x, w.norm), w.linear))

    def linear(self, x: Any, w: Linear, out: Any = None) -> torch.Tensor:
        return _float32(self._linear(x, w))

    def conv_norm(self, x: Any, w: ConvNorm, grid: Any, out: Any = None, activation: Any = None) -> torch.Tensor:
        conv = replace(w.conv, weight=self._rounded(w.conv.weight))
        return _float32(
            super().conv_norm(self._rounded(torch.as_tensor(x)), replace(w, conv=conv), grid, out, activation)
        )

    def depthwise_silu(self, x: Any, w: Depthwise, grid: Any, out: Any = None) -> torch.Tensor:
        return self._rounded(super().depthwise_silu(x, w, grid))

    def selective_scan(self, x: Any, projected: Any, w: Scan, grid: Any, out: Any = None) -> torch.Tensor:
        return _float32(super().selective_scan(x, projected, w, grid))

    def _linear(self, x: torch.Tensor, w: Linear) -> torch.Tensor:
        return torch.nn.functional.linear(self._rounded(x), self._rounded(w.weight), w.bias)

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self._type).double()


def _float32(x: torch.Tensor) -> torch.Tensor:
    return x.float().double()
