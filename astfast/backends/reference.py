"""Plain PyTorch, float32 (or float64): the one oracle that every other backend is judged by, and what training uses.

Every op is differentiable and says its formula in torch's own words. Nothing here is fast, and nothing is clever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from astfast import centred_log_mel
from astfast.centred_log_mel import CentredLogMel
from astfast.front_end import FrontEnd, KaldiFbank, unknown
from astfast.ops import (
    Array,
    ConvNorm,
    Depthwise,
    Embed,
    Head,
    LayerNorm,
    Linear,
    NormLinear,
    Ops,
    Scan,
    map_arrays,
    patch_grid,
    position_rows,
)

T = TypeVar("T")


class ReferenceOps:
    """The Ops protocol on torch tensors of one dtype on one device; ``out`` is ignored."""

    name = "reference"
    engine = "eager"

    def __init__(self, heads: int, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> None:
        self.heads = heads
        self.dtype = dtype
        self.device = torch.device(device)
        self.precision = str(dtype).removeprefix("torch.")
        self.hardware = f"PyTorch {torch.__version__} on {self.device}"

    def _pack(self, w: T) -> T:
        """The same dataclass with every array as a tensor of this backend's dtype; tensors keep their gradient."""

        def packed(x: Any) -> torch.Tensor:
            tensor = x if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x))
            return tensor.to(self.device, self.dtype)

        return map_arrays(packed, w)

    def pack_embed(self, w: Embed) -> Embed:
        return self._pack(w)

    def pack_norm_linear(self, w: NormLinear, value_columns: int = 0) -> NormLinear:
        return self._pack(w)

    def pack_linear(self, w: Linear, input_layer: NormLinear | None = None, into: str = "stream") -> Linear:
        return self._pack(w)

    def pack_norm(self, w: LayerNorm) -> LayerNorm:
        return self._pack(w)

    def pack_head(self, w: Head | Linear) -> Head | Linear:
        return self._pack(w)

    def pack_norm_linear_residual(self, w: NormLinear) -> NormLinear:
        return self._pack(w)

    def pack_conv_norm(self, w: ConvNorm) -> ConvNorm:
        return self._pack(w)

    def pack_depthwise(self, w: Depthwise) -> Depthwise:
        return self._pack(w)

    def pack_scan(self, w: Scan) -> Scan:
        return self._pack(w)

    def empty(self, shape: tuple[int, ...], kind: str) -> None:
        return None  # out is ignored: autograd needs fresh tensors

    def micro_batch(self, num_tokens: int) -> int:
        return 8

    def inference(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()

    def record(self, forward: Callable[[Ops, Array], Array], buffer: Array) -> Callable[[Array], Array]:
        return partial(forward, self)

    def to_host(self, x: torch.Tensor) -> NDArray[np.float32]:
        return np.array(x.detach().cpu().float().numpy())

    def log_mel(self, waves: Sequence[Any], front_end: FrontEnd, out: Any = None) -> torch.Tensor:
        frames = max(front_end.frames_read(len(wave)) for wave in waves)
        spectrograms = torch.zeros(len(waves), frames, front_end.num_mel_bins, dtype=self.dtype)  # [B, frames, mels]
        for spectrogram, wave in zip(spectrograms, waves, strict=True):
            samples = torch.as_tensor(wave).to(self.dtype)
            if isinstance(front_end, KaldiFbank):
                filter_bank = self._filter_bank(samples, front_end)[:frames]
            elif isinstance(front_end, CentredLogMel):
                filter_bank = self._centred(samples, front_end)
            else:
                raise unknown(front_end, self.name)
            spectrogram[: len(filter_bank)] = filter_bank
        if isinstance(front_end, CentredLogMel):
            scale, offset = (torch.tensor(x, dtype=self.dtype) for x in (front_end.scale, front_end.offset))
            return (spectrograms * scale + offset).to(self.device)
        assert isinstance(front_end, KaldiFbank)
        return ((spectrograms - front_end.shift) * front_end.scale).to(self.device)

    @staticmethod
    def _filter_bank(wave: torch.Tensor, front_end: KaldiFbank) -> torch.Tensor:
        """[samples] -> log-mel energies [frames, mels], by the very function that the checkpoints were trained with."""
        from torchaudio.compliance.kaldi import fbank

        wave = F.pad(wave, (0, max(0, front_end.frame_length - len(wave))))
        filter_bank: torch.Tensor = fbank(
            wave.unsqueeze(0),
            htk_compat=True,
            sample_frequency=front_end.sampling_rate,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=front_end.num_mel_bins,
            dither=0.0,
            frame_shift=10,
        )
        return filter_bank

    def _centred(self, wave: torch.Tensor, front_end: CentredLogMel) -> torch.Tensor:
        """[samples] -> logarithms [frames, mels], at most ``max_length`` frames."""
        wave = F.pad(wave, (0, max(0, front_end.fewest_samples - len(wave))))
        if front_end.emphasis:
            wave = wave[1:] - front_end.emphasis * wave[:-1]
        spectrum = torch.stft(
            wave,
            front_end.fft_length,
            front_end.hop_length,
            front_end.window_length,
            torch.from_numpy(centred_log_mel.analysis_window(front_end)).to(self.dtype),
            center=True,
            pad_mode=front_end.edges,
            return_complex=True,
        )  # [bins, frames]
        power = spectrum.real.square() + spectrum.imag.square()
        filters = torch.from_numpy(centred_log_mel.mel_filters(front_end)).to(self.dtype)
        energies = (filters @ power).T[: front_end.max_length]
        logarithms = (energies.clamp(min=front_end.floor) + front_end.addend).log() * front_end.log_factor
        if front_end.top_db is not None:
            logarithms = logarithms.clamp(min=logarithms.max() - front_end.top_db)
        return logarithms

    def patch_embed(self, spectrogram: Any, w: Embed, out: Any = None) -> torch.Tensor:
        spectrogram = torch.as_tensor(spectrogram, dtype=self.dtype, device=self.device)
        image = spectrogram.transpose(1, 2).unsqueeze(1)  # [B, 1, mels, frames]
        kernel = w.projection.weight.view(-1, 1, w.patch_size, w.patch_size)
        patches = F.conv2d(image, kernel, w.projection.bias, stride=(w.frequency_stride, w.time_stride))
        patches = patches.flatten(2).transpose(1, 2)  # [B, F * T', D]
        prefix = w.prefix.expand(len(patches), -1, -1)  # [B, P, D]
        _, frames, mels = spectrogram.shape
        grid = patch_grid(frames, mels, *w.geometry)
        rows = position_rows(len(w.prefix), len(w.position), grid)
        position = w.position if rows is None else w.position[torch.from_numpy(rows)]
        return torch.cat([prefix, patches], dim=1).add(position)

    def norm_linear(
        self, x: torch.Tensor, w: NormLinear, out: Any = None, activation: Literal["gelu"] | None = None
    ) -> torch.Tensor:
        y = F.linear(self._norm(x, w.norm), w.linear.weight, w.linear.bias)
        return F.gelu(y) if activation == "gelu" else y

    def attention(
        self, q: torch.Tensor, kv: torch.Tensor, out: Any = None, sizes: torch.Tensor | None = None
    ) -> torch.Tensor:
        k, v = kv.chunk(2, dim=-1)
        q, k, v = (x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in (q, k, v))  # [B, H, T, head_dim]
        bias = None if sizes is None else sizes.log()[:, None, None]
        return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)

    def merge_tokens(
        self, x: torch.Tensor, keys: torch.Tensor, sizes: torch.Tensor | None, count: int, prefix: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sizes = torch.ones_like(x[..., 0]) if sizes is None else sizes
        metric = keys.reshape(*keys.shape[:2], self.heads, -1).mean(2)[:, prefix:]  # [B, T - P, head_dim]
        metric = F.normalize(metric, dim=-1)
        best, partner = (metric[:, ::2] @ metric[:, 1::2].mT).max(dim=-1)
        order = best.argsort(dim=-1, descending=True, stable=True)[:, :count]  # of the tokens at even places
        source, target = prefix + 2 * order, prefix + 1 + 2 * partner.gather(1, order)
        summed = sizes.scatter_add(1, target, sizes.gather(1, source))
        weighted, columns = x * sizes[..., None], (-1, -1, x.shape[-1])
        added = weighted.gather(1, source[..., None].expand(columns))
        weighted = weighted.scatter_add(1, target[..., None].expand(columns), added)
        kept = torch.ones_like(sizes, dtype=torch.bool).scatter(1, source, value=False)
        means = torch.where((summed == sizes)[..., None], x, weighted / summed[..., None])
        return means[kept].view(len(x), -1, x.shape[-1]), summed[kept].view(len(x), -1)

    def linear_residual(self, x: torch.Tensor, w: Linear, residual: torch.Tensor) -> torch.Tensor:
        return residual + F.linear(x, w.weight, w.bias)

    def pool(self, x: torch.Tensor, w: LayerNorm, out: Any = None, sizes: torch.Tensor | None = None) -> torch.Tensor:
        y = self._norm(x, w)
        return y.mean(dim=1) if sizes is None else (y * sizes[..., None]).sum(1) / sizes.sum(1, keepdim=True)

    def head(self, x: Any, w: Head | Linear, out: Any = None) -> torch.Tensor:
        x = torch.as_tensor(x, dtype=self.dtype, device=self.device)
        if isinstance(w, Head):
            x, w = self._norm(x, w.norm), w.linear
        return F.linear(x, w.weight, w.bias)

    def norm_linear_residual(self, x: torch.Tensor, w: NormLinear, residual: torch.Tensor) -> torch.Tensor:
        return residual + self.norm_linear(x, w)

    def linear(self, x: torch.Tensor, w: Linear, out: Any = None) -> torch.Tensor:
        return F.linear(x, w.weight, w.bias)

    def conv_norm(
        self, x: Any, w: ConvNorm, grid: tuple[int, int], out: Any = None, activation: Literal["gelu"] | None = None
    ) -> torch.Tensor:
        x = torch.as_tensor(x, dtype=self.dtype, device=self.device)
        kernel = w.conv.weight.view(len(w.conv.weight), 3, 3, -1).permute(0, 3, 1, 2)  # [N, K, 3, 3]
        y = F.conv2d(x.mT.reshape(len(x), -1, *grid), kernel, w.conv.bias, stride=2, padding=1)  # [B, N, R', C']
        y = self._norm(y.flatten(2).mT, w.norm)
        return F.gelu(y) if activation == "gelu" else y

    def depthwise_silu(self, x: torch.Tensor, w: Depthwise, grid: tuple[int, int], out: Any = None) -> torch.Tensor:
        kernel = w.weight.view(-1, 1, 3, 3)
        return F.silu(F.conv2d(x.mT.reshape(len(x), -1, *grid), kernel, padding=1, groups=len(kernel)).flatten(2).mT)

    def selective_scan(
        self, x: torch.Tensor, projected: torch.Tensor, w: Scan, grid: tuple[int, int], out: Any = None
    ) -> torch.Tensor:
        rows = torch.arange(x.shape[1], device=self.device).view(grid)
        y = torch.zeros_like(x)
        for direction, parts in enumerate(projected.chunk(4, dim=-1)):
            order = (rows.T if direction % 2 else rows).flatten()  # of the tokens
            order = order.flip(0) if direction >= 2 else order
            u = x[:, order]  # [B, T, C]
            dt, b, c = torch.split(parts[:, order], [w.weight.shape[2], 1, 1], dim=-1)
            step = F.softplus(F.linear(dt, w.weight[direction], w.bias[direction]))  # [B, T, C]
            decay = torch.exp(-torch.exp(w.log_decay[direction]) * step)
            state, states = torch.zeros_like(u[:, 0]), []
            for kept, added in zip(decay.unbind(1), (step * b * u).unbind(1), strict=True):
                state = kept * state + added  # [B, C]
                states.append(state)
            y = y.index_add(1, order, c * torch.stack(states, dim=1) + w.skip[direction] * u)
        return y

    @staticmethod
    def _norm(x: torch.Tensor, w: LayerNorm) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], w.weight, w.bias, w.eps)


def unavailable(device: str | list[str] = "auto") -> str | None:
    """Why this backend can't run on this machine; None when it can. PyTorch itself is there, or this module isn't."""
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        return "PyTorch finds no GPU: use device='cpu'"
    return None


def precisions() -> tuple[str, ...]:
    """Names of the precisions that ``astfast.load`` offers; tests make ReferenceOps in float64 themselves."""
    return ("float32",)


def fastest_precision() -> str:
    """The oracle computes in float32."""
    return "float32"


def describe() -> list[str]:
    """Lines for ``astfast doctor``."""
    return [f"PyTorch {torch.__version__}"]


def open(num_heads: int, precision: str, device: str, threads: int | None, deterministic: bool) -> ReferenceOps:
    """The ops for a model with so many attention heads on a torch device; the last two arguments are ignored."""
    return ReferenceOps(num_heads, getattr(torch, precision), device)
