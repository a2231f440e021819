"""Custom PyTorch operators ``torch.ops.astfast.*``, for torch.compile and torch.export; inference only, no gradients.

``import astfast.integrations.torch_ops`` registers them. CPU tensors run on the native engine, CUDA tensors on the GPU
backend. Contracts and formulas are those of ``astfast.ops``, on plain tensors with weights as a checkpoint has them (no
LayerNorm folded, nothing centred), and nothing is written in place.

The type of ``weight`` is that of the products and of the activations (float32 or bfloat16; on a GPU float16 too). The
residual stream (tokens, ``x`` of norm_linear, ``residual``) is float32 on a CPU and of the weight's type on a GPU.
"""

from __future__ import annotations

import torch

from astfast.front_end import KaldiFbank
from astfast.integrations.torch_op_impls import implementation
from astfast.ops import Embed, Head, LayerNorm, Linear, NormLinear, patch_grid

_Tensor = torch.Tensor


def stream_dtype(weight: torch.Tensor) -> torch.dtype:
    """The type of the residual stream of a model with this weight."""
    return torch.float32 if weight.device.type == "cpu" else weight.dtype


@torch.library.custom_op("astfast::log_mel", mutates_args=())
def log_mel(
    waves: torch.Tensor,
    lengths: torch.Tensor,
    sampling_rate: int,
    num_mel_bins: int,
    max_length: int,
    mean: float,
    std: float,
    do_normalize: bool,
) -> torch.Tensor:
    """waves [B, samples] in [-1, 1] or int16, lengths [B] of 1 to samples -> log-mel [B, max_length, num_mel_bins]."""
    if waves.dtype != torch.int16 and not waves.is_floating_point():
        raise ValueError(f"waves are {waves.dtype}: pass samples in [-1, 1], or int16")
    _check_shape("waves", waves, None, None)
    _check_shape("lengths", lengths, len(waves))
    if lengths.device.type == "cpu" and bool(((lengths < 1) | (lengths > waves.shape[1])).any()):
        raise ValueError(f"lengths are not all from 1 to the {waves.shape[1]} samples of a wave")
    front_end = KaldiFbank(sampling_rate, num_mel_bins, max_length, mean, std, do_normalize)
    with implementation(waves.device) as ops:
        return ops.log_mel(waves, lengths, front_end)


@log_mel.register_fake
def _(
    waves: _Tensor,
    lengths: _Tensor,
    sampling_rate: int,
    num_mel_bins: int,
    max_length: int,
    mean: float,
    std: float,
    do_normalize: bool,
) -> _Tensor:
    return waves.new_empty(waves.shape[0], max_length, num_mel_bins, dtype=torch.float32)


@torch.library.custom_op("astfast::patch_embed", mutates_args=())
def patch_embed(
    spectrogram: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    prefix: torch.Tensor,
    position: torch.Tensor,
    patch_size: int,
    frequency_stride: int,
    time_stride: int,
) -> torch.Tensor:
    """spectrogram [B, frames, mels] float32, weight [D, patch_size^2], prefix [P, D], position [T, D] -> [B, T, D]."""
    if not spectrogram.is_floating_point():
        raise ValueError(f"spectrogram is {spectrogram.dtype}: pass floating-point values")
    _check_shape("spectrogram", spectrogram, None, None, None)
    if min(frequency_stride, time_stride, patch_size) < 1 or patch_size > min(spectrogram.shape[1:]):
        raise ValueError(f"patches of {patch_size} don't fit in {tuple(spectrogram.shape[1:])}, or a stride is below 1")
    _check_linear(weight, bias, patch_size**2)
    _check_shape("prefix", prefix, None, len(weight))
    grid = patch_grid(spectrogram.shape[1], spectrogram.shape[2], patch_size, frequency_stride, time_stride)
    _check_shape("position", position, len(prefix) + grid[0] * grid[1], len(weight))
    w = Embed(Linear(weight, bias), prefix, position, patch_size, frequency_stride, time_stride)
    with implementation(spectrogram.device) as ops:
        return ops.patch_embed(spectrogram, w)


@patch_embed.register_fake
def _(
    spectrogram: _Tensor,
    weight: _Tensor,
    bias: _Tensor,
    prefix: _Tensor,
    position: _Tensor,
    patch_size: int,
    frequency_stride: int,
    time_stride: int,
) -> _Tensor:
    return spectrogram.new_empty(spectrogram.shape[0], *position.shape, dtype=stream_dtype(weight))


@torch.library.custom_op("astfast::norm_linear", mutates_args=())
def norm_linear(
    x: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor,
    gelu: bool,
) -> torch.Tensor:
    """x [B, T, K], weight [N, K] -> act(LN(x) weight^T + bias) [B, T, N], act the erf-GELU or nothing."""
    _check_stream("x", x, weight)
    _check_shape("x", x, None, None, None)
    _check_norm(norm_weight, norm_bias, x.shape[2])
    _check_linear(weight, bias, x.shape[2])
    w = NormLinear(LayerNorm(norm_weight, norm_bias, eps), Linear(weight, bias))
    with implementation(x.device) as ops:
        return ops.norm_linear(x, w, gelu)


@norm_linear.register_fake
def _(
    x: _Tensor, norm_weight: _Tensor, norm_bias: _Tensor, eps: float, weight: _Tensor, bias: _Tensor, gelu: bool
) -> _Tensor:
    return x.new_empty(*x.shape[:2], weight.shape[0], dtype=weight.dtype)


@torch.library.custom_op("astfast::attention", mutates_args=())
def attention(q: torch.Tensor, kv: torch.Tensor, heads: int) -> torch.Tensor:
    """q [B, R, D], kv [B, T, 2D] = [k, v] -> softmax(q k^T / sqrt(D / heads)) v per head [B, R, D]."""
    _check_shape("q", q, None, None, None)
    _check_shape("kv", kv, len(q), None, 2 * q.shape[2])
    if heads < 1 or q.shape[2] % heads:
        raise ValueError(f"{q.shape[2]} columns of q are no {heads} heads of one size")
    with implementation(q.device) as ops:
        return ops.attention(q, kv, heads)


@attention.register_fake
def _(q: _Tensor, kv: _Tensor, heads: int) -> _Tensor:
    return q.new_empty(q.shape)


@torch.library.custom_op("astfast::linear_residual", mutates_args=())
def linear_residual(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """x [B, T, K], weight [N, K], residual [B, T, N] -> residual + x weight^T + bias, a new tensor."""
    _check_stream("residual", residual, weight)
    _check_shape("x", x, None, None, None)
    _check_linear(weight, bias, x.shape[2])
    _check_shape("residual", residual, x.shape[0], x.shape[1], len(weight))
    with implementation(x.device) as ops:
        return ops.linear_residual(x, Linear(weight, bias), residual)


@linear_residual.register_fake
def _(x: _Tensor, weight: _Tensor, bias: _Tensor, residual: _Tensor) -> _Tensor:
    return residual.new_empty(residual.shape)


@torch.library.custom_op("astfast::pool", mutates_args=())
def pool(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """x [B, R, D] -> mean of LN(x) over the R rows [B, D] float32."""
    _check_shape("x", x, None, None, None)
    _check_norm(weight, bias, x.shape[2])
    with implementation(x.device) as ops:
        return ops.pool(x, LayerNorm(weight, bias, eps))


@pool.register_fake
def _(x: _Tensor, weight: _Tensor, bias: _Tensor, eps: float) -> _Tensor:
    return x.new_empty(x.shape[0], x.shape[2], dtype=torch.float32)


@torch.library.custom_op("astfast::head", mutates_args=())
def head(
    x: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    """x [B, D] float32, weight [L, D] -> LN(x) weight^T + bias [B, L] float32, computed in float32."""
    _check_shape("x", x, None, None)
    _check_norm(norm_weight, norm_bias, x.shape[1])
    _check_linear(weight, bias, x.shape[1])
    with implementation(x.device) as ops:
        return ops.head(x, Head(LayerNorm(norm_weight, norm_bias, eps), Linear(weight, bias)))


@head.register_fake
def _(x: _Tensor, norm_weight: _Tensor, norm_bias: _Tensor, eps: float, weight: _Tensor, bias: _Tensor) -> _Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _check_stream(name: str, x: torch.Tensor, weight: torch.Tensor) -> None:
    expected = stream_dtype(weight)
    if x.dtype != expected:
        raise ValueError(f"{name} is {x.dtype}: beside a {weight.dtype} weight on {x.device} it must be {expected}")


def _check_shape(name: str, x: torch.Tensor, *shape: int | None) -> None:
    """ValueError unless ``x`` has these sizes; None is any."""
    if x.dim() != len(shape) or any(n not in (None, size) for n, size in zip(shape, x.shape, strict=True)):
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} has the shape {tuple(x.shape)}: it must be ({expected})")


def _check_norm(weight: torch.Tensor, bias: torch.Tensor, width: int) -> None:
    _check_shape("weight of the norm", weight, width)
    _check_shape("bias of the norm", bias, width)


def _check_linear(weight: torch.Tensor, bias: torch.Tensor, columns: int) -> None:
    _check_shape("weight", weight, None, columns)
    _check_shape("bias", bias, len(weight))
