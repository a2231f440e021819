"""PyTorch implementations of the GPU ops, with the arguments, folded weights and results of the Triton kernels.

They run where a kernel does not compile, fails its check or is slower; on float64 tensors they are the reference of
that check. Each returns its result, and writes what else its kernel writes. Shapes: B clips, R rows of each (all tokens
or the first ones), D hidden.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from astfast.kernels.quantise import float8_room
from astfast.kernels.statistics import STATISTICS_TILE, are_centred, statistics_parts

SCALED_MM_MULTIPLE = 16  # of both sides of a weight in torch._scaled_mm
QUIETEST = 4096.0  # times as quiet as its frame's loudest band: what is quieter counts as no quieter


def log_mel(
    waves: torch.Tensor,  # [B, samples] float32 in [-1, 1] or int16
    lengths: torch.Tensor,  # [B] int32, samples that count
    matrix: torch.Tensor,  # [ceil(frame_length / 2), 2 * bins], of the folded frame
    mel: torch.Tensor,  # [bins, mels or more]
    out: torch.Tensor,  # [B, frames, mels]
    frame_length: int,
    frame_shift: int,
    emphasis: float,
    gain: float,
    floor: float,
    shift: float,
    scale: float,
) -> torch.Tensor:
    """log(max(mel . |DFT|^2, floor)), zero frames after the end, then (x - shift) * scale."""
    _, frames, mels = out.shape
    inside = torch.arange(waves.shape[1], device=waves.device) < lengths[:, None]
    x = torch.where(inside, waves, 0).to(matrix.dtype)  # [B, samples]
    x = F.pad(x, (0, frame_shift * (frames - 1) + frame_length - x.shape[1]))
    x = x.unfold(1, frame_length, frame_shift)  # [B, frames, frame_length]
    x = (x - x.mean(-1, keepdim=True)) * gain
    x = x - emphasis * torch.cat([x[..., :1], x[..., :-1]], -1)
    early, late = (half[..., : len(matrix)] for half in (x, x.flip(-1)))  # [B, frames, ceil(frame_length / 2)]
    cosines, sines = matrix.chunk(2, -1)
    power = ((late + early) @ cosines).square() + ((late - early) @ sines).square()  # [B, frames, bins]
    energy = power @ mel[:, :mels]  # [B, frames, mels]
    full = 1 + (lengths - frame_length).clamp(min=0) // frame_shift  # frames that hold sound, [B]
    covered = torch.arange(frames, device=waves.device) < full[:, None]  # [B, frames]
    y = torch.where(covered[..., None], energy.clamp(min=floor).log(), 0)
    return torch.mul(y - shift, scale, out=out)


def sensitivity_of_logs(
    exact: torch.Tensor,  # [B, frames, mels]
    unit: float | torch.Tensor,  # of one natural logarithm, > 0, or [mels]
    offset: float | torch.Tensor = 0.0,
) -> torch.Tensor:
    """The sensitivity (see ``OpCall``) of unit * log(power) + offset, elementwise.

    Each amplitude of a frame is a sum of samples as large as the loudest one, whose roundings are as large: they change
    the power of a band by twice their share in its amplitude. Measured, the error of float32 is 0.5 to 1.0 of this
    times 2^-24 in root mean square, whoever sums.
    """
    logs = (exact - offset) / unit
    amplitudes = ((logs.amax(-1, keepdim=True) - logs) / 2).exp()  # of the loudest band, in those of each
    return 2 * amplitudes.clamp(max=QUIETEST) * unit


def patch_embed(
    spectrogram: torch.Tensor,  # [B, frames, mels]
    weight: torch.Tensor,  # [D, p * p], mel bins fastest
    table: torch.Tensor,  # [T, D]
    scale: float,
    stream: torch.Tensor,  # [B, T, D]
    sumsq: torch.Tensor,  # [B, T, ceil(D / 64)]
    prefix: int,
    patch_size: int,
    frequency_stride: int,
    time_stride: int,
) -> torch.Tensor:
    """stream = table, plus scale * patches weight^T in all rows but the first ``prefix``; and its sums of squares."""
    x = spectrogram.to(weight.dtype)
    patches = x.unfold(1, patch_size, time_stride).unfold(2, patch_size, frequency_stride)  # [B, T', F, p, p]
    patches = patches.transpose(1, 2).reshape(-1, patch_size * patch_size)  # [B * F * T', p * p]
    projected = (patches @ weight.T).view(len(x), -1, len(weight))
    torch.add(table[prefix:], projected, alpha=scale, out=stream[:, prefix:])
    stream[:, :prefix] = table[:prefix]
    sums_of_squares(stream, sumsq)
    return stream


def norm_linear(
    x: torch.Tensor,  # [B, R, K], zero-mean rows
    sumsq: torch.Tensor,  # [B, R, ceil(K / 64)]
    weight: torch.Tensor,  # [N, K]
    bias: torch.Tensor,  # [N]
    eps: float,
    out: torch.Tensor,  # [B, R, N]
    activation: str | None,
) -> torch.Tensor:
    """out = act(rstd(x) (x weight^T) + bias), rstd = 1 / sqrt(sum of squares / K + eps)."""
    rstd = row_rstd(x, sumsq, eps)
    if not are_centred(x.shape[-1], sumsq):
        x = x - x.to(rstd.dtype).mean(-1, keepdim=True)
    normed = torch.mul(x, rstd, out=torch.empty(x.shape, dtype=weight.dtype, device=x.device))
    torch.addmm(bias, normed.flatten(0, 1), weight.T, out=out.view(-1, len(weight)))
    return torch.ops.aten.gelu_(out) if activation == "gelu" else out


def quantise_rows(
    x: torch.Tensor,  # [B, R, K], zero-mean rows
    sumsq: torch.Tensor,  # [B, R, ceil(K / 64)]
    eps: float,
    out: torch.Tensor,  # [B, R, K] float8
) -> torch.Tensor:
    """out = float8_room(K) rstd(x) x; to float8 by way of float16, as the kernel does it."""
    y = x * (row_rstd(x, sumsq, eps) * float8_room(x.shape[-1]))
    return out.copy_(y.half() if out.itemsize == 1 else y)


def float8_linear(
    x: torch.Tensor,  # [B, R, K] float8
    weight: torch.Tensor,  # [N, K] float8
    bias: torch.Tensor,  # [N]
    out: torch.Tensor,  # [B, R, N]
    weight_scale: torch.Tensor,  # [N]
    activation: str | None,
    gain: float,
) -> torch.Tensor:
    """gain act(weight_scale (x weight^T) + bias), a new tensor: a copy to ``out`` would cost time."""
    y = float8_product(x, weight, weight_scale, bias)
    y = F.gelu(y) if activation == "gelu" else y
    return (y if gain == 1.0 else gain * y).to(out.dtype)


def float8_product(
    x: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """weight_scale (x weight^T) + bias of float8 x [B, R, K] and weight [N, K], in the type of the bias [N]."""
    rows, type_ = x.flatten(0, 1), bias.dtype
    if x.itemsize == 1 and not any(side % SCALED_MM_MULTIPLE for side in weight.shape) and has_scaled_mm(x.device):
        one = torch.ones(len(rows), 1, device=x.device)  # a row's scale is in x, see quantise_rows
        scales = one, weight_scale[None]
        y = torch._scaled_mm(rows, weight.T, *scales, bias=bias, out_dtype=type_, use_fast_accum=True)
    else:
        y = (rows.to(type_) @ weight.to(type_).T * weight_scale + bias).to(type_)
    return y.view(*x.shape[:2], -1)


@functools.cache
def has_scaled_mm(device: torch.device) -> bool:
    """Whether PyTorch has float8 products with a scale a row and a channel for a device: not for every GPU."""
    side = SCALED_MM_MULTIPLE
    a, one = torch.zeros(side, side, device=device).to(torch.float8_e4m3fn), torch.ones(side, 1, device=device)
    bias = torch.zeros(side, dtype=torch.bfloat16, device=device)
    try:
        torch._scaled_mm(a, a.T, one, one.T, bias=bias, out_dtype=bias.dtype, use_fast_accum=True)
    except (RuntimeError, ValueError):  # which of them, and what it says, differs by version
        return False
    return True


def attention(
    q: torch.Tensor, kv: torch.Tensor, out: torch.Tensor, heads: int, sizes: torch.Tensor | None = None
) -> torch.Tensor:
    """q [B, R, D], kv [B, T, 2D] = [k, v], sizes [B, T] -> [B, R, D], a new tensor: a copy to ``out`` would cost
    time."""
    dtype = out.dtype
    q, k, v = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, *kv.chunk(2, -1)))  # [B, H, .., head_dim]
    bias = None if sizes is None else sizes.log().to(q.dtype)[:, None, None]  # [B, 1, 1, T]
    return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2).to(dtype)


def linear(
    x: torch.Tensor,  # [B, R, K]
    weight: torch.Tensor,  # [N, K]
    bias: torch.Tensor,  # [N]
    out: torch.Tensor,  # [B, R, N] float32
) -> torch.Tensor:
    """out = x weight^T + bias."""
    return torch.add(F.linear(x, weight), bias, out=out)


def linear_residual(
    x: torch.Tensor,  # [B, R, K]
    weight: torch.Tensor,  # [N, K]
    bias: torch.Tensor,  # [N], scaled
    scale: float,
    stream: torch.Tensor,  # [B, R, N]
    sumsq: torch.Tensor,  # [B, R, ceil(N / 64)]
    weight_scale: torch.Tensor | None = None,  # [N] of a float8 weight
    x_sumsq: torch.Tensor | None = None,  # [B, R, 2 * ceil(K / 64)] of an x that is normalised
    eps: float = 0.0,
) -> torch.Tensor:
    """stream += scale * weight_scale * (LN(x) weight^T) + bias, and the new rows' sums of squares."""
    if x_sumsq is not None:
        x = ((x - x.to(x_sumsq.dtype).mean(-1, keepdim=True)) * row_rstd(x, x_sumsq, eps)).to(weight.dtype)
    if weight_scale is not None:
        stream += float8_product(x, weight, scale * weight_scale, bias)
        sums_of_squares(stream, sumsq)
        return stream
    stream += torch.addmm(bias, x.flatten(0, 1), weight.T, alpha=scale).view(stream.shape)
    sums_of_squares(stream, sumsq)
    return stream


def pool(
    stream: torch.Tensor,  # [B, R, D]
    weight: torch.Tensor,  # [D]
    bias: torch.Tensor,  # [D]
    eps: float,
    out: torch.Tensor,  # [B, D]
    sizes: torch.Tensor | None = None,  # [B, R]
) -> torch.Tensor:
    """out = mean of LN(stream) over the R rows, by their sizes."""
    normed = F.layer_norm(stream.to(out.dtype), weight.shape, weight, bias, eps)
    if sizes is None:
        return torch.mean(normed, 1, out=out)
    return torch.div((normed * sizes[..., None]).sum(1), sizes.sum(1, keepdim=True), out=out)


def head(
    x: torch.Tensor,  # [B, D]
    weight: torch.Tensor,  # [L, D]
    bias: torch.Tensor,  # [L]
    eps: float,
    out: torch.Tensor,  # [B, L]
) -> torch.Tensor:
    """out = LN(x) weight^T + bias, gamma and beta in weight and bias."""
    return torch.addmm(bias, F.layer_norm(x, x.shape[1:], eps=eps), weight.T, out=out)


def row_rstd(x: torch.Tensor, sumsq: torch.Tensor, eps: float) -> torch.Tensor:
    """1 / sqrt(sum of squares / K + eps) of each row of x [B, R, K], [B, R, 1]."""
    if not are_centred(x.shape[-1], sumsq):
        sumsq, means = sumsq.chunk(2, -1)
        widths = _part_widths(x, means)
        apart = means - (widths * means).sum(-1, keepdim=True) / x.shape[-1]
        sumsq = sumsq + widths * apart.square()
    return torch.rsqrt(sumsq.sum(-1, keepdim=True) / x.shape[-1] + eps)


def sums_of_squares(x: torch.Tensor, out: torch.Tensor) -> None:
    """Partial sums of squares of x [B, R, D], one per 64 columns and one of the rest, into out [B, R, ceil(D / 64)].
    Into an out of twice the size: each about its part's own mean, then those means."""
    if not are_centred(x.shape[-1], out):
        squares, means = out.chunk(2, -1)
        widths = _part_widths(x, means)
        padding = (0, squares.shape[-1] * STATISTICS_TILE - x.shape[-1])
        parts, inside = (
            F.pad(each, padding).view(*x.shape[:2], -1, STATISTICS_TILE)
            for each in (x.to(out.dtype), torch.ones_like(x))
        )
        means.copy_(parts.sum(-1) / widths)
        squares.copy_(((parts - means[..., None]) * inside).square().sum(-1))
        return
    full = x.shape[-1] // STATISTICS_TILE * STATISTICS_TILE
    if full:
        parts = x[..., :full].view(*x.shape[:2], -1, STATISTICS_TILE)
        torch.linalg.vector_norm(parts, dim=-1, dtype=out.dtype, out=out[..., : parts.shape[-2]])
    if full < x.shape[-1]:
        torch.linalg.vector_norm(x[..., full:], dim=-1, dtype=out.dtype, out=out[..., -1])
    out.square_()


def _part_widths(x: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Columns of each part of the rows of x that has a mean, [ceil(D / 64)]."""
    first = STATISTICS_TILE * torch.arange(means.shape[-1], device=x.device)
    widths: torch.Tensor = (x.shape[-1] - first).clamp(max=STATISTICS_TILE).to(means.dtype)
    return widths


def centred_sums_of_squares(x: torch.Tensor) -> torch.Tensor:
    """Partial sums of squares of the rows of x [B, R, D] minus their mean -> [B, R, ceil(D / 64)] float32."""
    wide = x.float()
    out = wide.new_empty(*x.shape[:2], statistics_parts(x.shape[2]))
    sums_of_squares(wide - wide.mean(-1, keepdim=True), out)
    return out
