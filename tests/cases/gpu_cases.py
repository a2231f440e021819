"""Cases of every GPU kernel, written once: for the interpreter, the emulator of compiled PTX, and a real GPU.

A case is a launch, its outputs (NaN before it runs), the exact results in float64 and those of torch's ops in the same
type, rounded alike on any machine (``PlainTorch``). A kernel passes if its error is at most twice theirs, plus one
rounding of the largest result. Only sums of squares, pooling and the logarithms of almost empty mel bins, where theirs
is the error of a few numbers, are allowed what any order of summation may cost, too.
"""

import importlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from astfast.backends.cuda import folding
from astfast.front_end import LOG_FLOOR, PRE_EMPHASIS, FrontEnd, analysis_window, mel_filters
from astfast.kernels import attention, head, linear, log_mel, patch_embed, statistics
from astfast.kernels.launch import Launch
from astfast.kernels.tuning import Tile
from astfast.ops import patch_grid
from tests.cases.plain_torch import PlainTorch

EPSILON = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@dataclass
class Case:
    launch: Launch
    outputs: dict[str, torch.Tensor]
    exact: dict[str, torch.Tensor]  # float64
    peer: dict[str, torch.Tensor]  # of torch's ops, in the type of the output
    summation: dict[str, torch.Tensor | float] = field(default_factory=dict)  # what any order of summation may cost

    def check(self) -> None:
        """Raises AssertionError for an output that is not finite, or less exact than allowed."""
        for name, got in self.outputs.items():
            exact, values = self.exact[name], got.cpu().double()
            assert values.isfinite().all(), f"{name}: {int((~values.isfinite()).sum())} of {got.numel()} not finite"
            error = (values - exact).abs()
            peer = (self.peer[name].double() - exact).abs().max()
            allowed = 2 * peer + EPSILON[got.dtype] * exact.abs().max() + self.summation.get(name, 0.0)
            worst = f"error {error.max():.2e}, torch's {peer:.2e}, allowed {allowed.max():.2e}"
            assert (error <= allowed).all(), f"{name}: {worst}"


def normal(shape: tuple[int, ...], dtype: torch.dtype, seed: int, size: float = 1.0) -> torch.Tensor:
    """By numpy: torch's normal numbers differ in the last bit by instruction set."""
    return torch.from_numpy(size * np.random.default_rng(seed).standard_normal(shape, np.float32)).to(dtype)


def any_order(a: torch.Tensor, b: torch.Tensor, size: float = 1.0) -> torch.Tensor:
    """What summing the products of a [.., K] and b [N, K] in float32 may cost, in any order: [.., N].

    Each of K additions rounds a partial sum, which random signs make about sqrt(sum of a^2 b^2), by 2^-24 of it.
    """
    squares = (a.double() ** 2) @ (b.double() ** 2).T
    return size * a.shape[-1] ** 0.5 * EPSILON[torch.float32] * squares.sqrt()


def of_squares(stream: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """What errors of the stream's elements cost ``sums_of_squares``."""
    return 2 * sums_of_squares(stream * error).sqrt()


def unwritten(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=dtype, device=device)


def stream(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Rows as the residual stream has them: zero-mean, with massive activations in two channels."""
    x = normal(shape, torch.float64, seed)
    x[..., 3 % shape[-1]] *= 40
    x[..., 7 % shape[-1]] -= 25
    return (x - x.mean(-1, keepdim=True)).to(dtype)


def sums_of_squares(x: torch.Tensor) -> torch.Tensor:
    """[.., D] -> [.., ceil(D / 64)] float64."""
    parts = statistics.statistics_parts(x.shape[-1])
    padded = F.pad(x.double(), (0, parts * statistics.STATISTICS_TILE - x.shape[-1]))
    return padded.unflatten(-1, (parts, statistics.STATISTICS_TILE)).square().sum(-1)


def persistent_kernels() -> Any:
    """Their module, which needs the Gluon of Triton 3.6."""
    return importlib.import_module("astfast.kernels.persistent")


def norm_linear(
    dtype: torch.dtype,
    shape: tuple[int, int, int],  # clips, tokens, K
    n: int,
    tile: Tile,
    activation: str | None = None,
    rows: int | None = None,  # only the first rows of each clip are read, as in the last layer
    device: str = "cpu",
    precision: str = "ieee",
    programs: int = 0,  # of the persistent kernel, which knows no clips; 0: the other kernel
) -> Case:
    x = stream(shape, dtype, seed=1)
    weight = normal((n, shape[-1]), dtype, 2, shape[-1] ** -0.5)
    bias = normal((n,), torch.float32, 3)
    eps = 1e-6
    used = x[:, :rows]
    normed = used.double() / (used.double().square().mean(-1, keepdim=True) + eps).sqrt()
    exact = normed @ weight.double().T + bias.double()
    with PlainTorch():
        peer = F.linear(F.layer_norm(used, used.shape[-1:], eps=eps), weight, bias.to(dtype))
        if activation == "gelu":
            exact, peer = F.gelu(exact), F.gelu(peer)
    out = unwritten(exact.shape, dtype, device)
    sumsq = sums_of_squares(x).float().to(device)
    operands = (x.to(device)[:, :rows], sumsq[:, :rows], weight.to(device), bias.to(device), eps, out)
    if programs:
        launch = persistent_kernels().norm_linear(*operands, activation=activation, tile=tile, programs=programs)
    else:
        launch = linear.norm_linear(*operands, activation=activation, precision=precision, tile=tile)
    return Case(launch, {"out": out}, {"out": exact}, {"out": peer})


def linear_residual(
    dtype: torch.dtype,
    shape: tuple[int, int, int],  # clips, tokens, K
    n: int,
    tile: Tile,
    rows: int | None = None,  # only the first rows of each clip of the stream are written, as in the last layer
    device: str = "cpu",
    precision: str = "ieee",
    programs: int = 0,  # of the persistent kernel, which knows no clips; 0: the other kernel
) -> Case:
    clips, tokens, k = shape
    residual = stream((clips, tokens, n), dtype, seed=4)
    x = normal((clips, rows or tokens, k), dtype, 5)
    weight = normal((n, k), dtype, 6, k**-0.5)
    bias = normal((n,), torch.float32, 7)
    scale = 0.5
    exact = residual[:, :rows].double() + scale * (x.double() @ weight.double().T) + bias.double()
    with PlainTorch():
        peer = residual[:, :rows] + F.linear(x, scale * weight, bias.to(dtype))
    summation = any_order(x, weight, scale)
    new = residual.to(device).clone()
    sumsq = unwritten((clips, tokens, statistics.statistics_parts(n)), torch.float32, device)
    operands = (x.to(device), weight.to(device), bias.to(device), scale, new[:, :rows], sumsq[:, :rows])
    if programs:
        launch = persistent_kernels().linear_residual(*operands, tile=tile, programs=programs)
    else:
        launch = linear.linear_residual(*operands, precision=precision, tile=tile)
    return Case(
        launch,
        {"stream": new[:, :rows], "sumsq": sumsq[:, :rows]},
        {"stream": exact, "sumsq": sums_of_squares(exact)},
        {"stream": peer, "sumsq": sums_of_squares(peer)},
        {"sumsq": of_squares(exact, summation)},
    )


def attention_(
    dtype: torch.dtype,
    clips: int,
    queries: int,
    keys: int,
    heads: int,
    head_dim: int,
    tile: Tile,
    device: str = "cpu",
    precision: str = "ieee",
    sized: bool = False,
) -> Case:
    """``sized``: each key stands for 1 to 40."""
    d = heads * head_dim
    qkv = normal((clips, max(queries, keys), 3 * d), dtype, 8, 1.5)
    q, kv = qkv[:, :queries, :d], qkv[:, :keys, d:]  # views of one buffer, as in a layer
    out = unwritten((clips, queries, d), dtype, device)
    sizes = torch.from_numpy(np.random.default_rng(9).integers(1, 41, (clips, keys)).astype(np.float32))

    def product(q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, kv[..., :d], kv[..., d:]))
        bias = sizes.double().log().to(q.dtype)[:, None, None] if sized else None
        return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)

    exact = product(q.double(), kv.double())
    with PlainTorch():
        peer = product(q, kv)
    qkv = qkv.to(device)
    launch = attention.attention(
        qkv[:, :queries, :d],
        qkv[:, :keys, d:],
        out,
        sizes.to(device) if sized else None,
        heads=heads,
        precision=precision,
        tile=tile,
    )
    return Case(launch, {"out": out}, {"out": exact}, {"out": peer})


def patch_embed_(
    dtype: torch.dtype,
    clips: int,
    frames: int,
    mels: int,
    patch: int,
    strides: tuple[int, int],  # along mel, along time
    n: int,
    tile: Tile,
    device: str = "cpu",
    precision: str = "ieee",
    prefix: int = 2,
) -> Case:
    patches = math.prod(patch_grid(frames, mels, patch, *strides))
    spectrogram = normal((clips, frames, mels), torch.float32, 9, 0.5)
    weight = normal((n, patch * patch), dtype, 10, 1 / patch)
    table = normal((prefix + patches, n), torch.float32, 11)
    scale = 2.0

    def tokens(spectrogram: torch.Tensor, weight: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        image = spectrogram.transpose(1, 2).unsqueeze(1)  # [B, 1, mels, frames]
        kernel = weight.unflatten(1, (1, patch, patch)).transpose(2, 3)  # columns of weight: mel bins fastest
        patches = F.conv2d(image, scale * kernel, stride=strides).flatten(2).transpose(1, 2)
        return F.pad(patches, (0, 0, prefix, 0)) + table

    exact = tokens(spectrogram.to(dtype).double(), weight.double(), table.double())
    with PlainTorch():
        peer = tokens(spectrogram.to(dtype), weight, table.to(dtype))
    kernel = weight.unflatten(1, (patch, patch)).transpose(1, 2).flatten(1)  # time fastest, as unfold has patches
    unfolded = F.unfold(spectrogram.to(dtype).transpose(1, 2).unsqueeze(1).double(), patch, stride=strides)
    summation = F.pad(any_order(unfolded.transpose(1, 2), kernel, scale), (0, 0, prefix, 0))  # none of prefix tokens
    out = unwritten(exact.shape, dtype, device)
    sumsq = unwritten((*exact.shape[:2], statistics.statistics_parts(n)), torch.float32, device)
    launch = patch_embed.patch_embed(
        spectrogram.to(device),
        weight.to(device),
        table.to(device),
        scale,
        out,
        sumsq,
        prefix=prefix,
        patch_size=patch,
        frequency_stride=strides[0],
        time_stride=strides[1],
        precision=precision,
        tile=tile,
    )
    return Case(
        launch,
        {"stream": out, "sumsq": sumsq},
        {"stream": exact, "sumsq": sums_of_squares(exact)},
        {"stream": peer, "sumsq": sums_of_squares(peer)},
        {"sumsq": of_squares(exact, summation)},
    )


def log_mel_(
    front_end: FrontEnd,
    lengths: list[int],
    tile: Tile,
    integers: bool = False,
    tones: bool = False,
    device: str = "cpu",
    precision: str = "ieee",
) -> Case:
    """Noise with a DC offset, or pure tones: most bins almost empty, which the logarithm shows. The peer is the same
    computation in float32, step by step, with sums in one order on every machine."""
    bins = front_end.fft_length // 2
    waves = torch.zeros(len(lengths), max(lengths))
    for i, length in enumerate(lengths):
        tone = 0.9 * torch.sin(0.17 * (1 + i) * torch.arange(length, dtype=torch.float64)).float()
        waves[i, :length] = tone if tones else 0.3 + 0.1 * normal((length,), torch.float32, 12 + i)
    if integers:
        waves = (waves * 32768).to(torch.int16)
    spectral = torch.from_numpy(folding.spectral_matrix(front_end))
    window = torch.from_numpy(analysis_window(front_end.frame_length))
    mel = torch.from_numpy(mel_filters(front_end)[:, :-1].T.copy())

    def spectrogram(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """And what any order of summation may cost it: an amplitude, whose square is the energy, sqrt(K) roundings of
        what a folded frame's K products sum to with random signs; a filter adds up bins whose errors are independent.
        """
        out = torch.zeros(len(lengths), front_end.max_length, front_end.num_mel_bins, dtype=dtype)
        cost = torch.zeros_like(out)
        for row, order, wave, length in zip(out, cost, waves, lengths, strict=True):
            samples = wave[:length].to(dtype) / (32768 if integers else 1)
            samples = F.pad(samples, (0, max(0, front_end.frame_length - length)))
            frames = samples.unfold(0, front_end.frame_length, front_end.frame_shift)[: front_end.max_length]
            frames = frames - frames.mean(1, keepdim=True)
            frames = (frames - PRE_EMPHASIS * torch.cat([frames[:, :1], frames[:, :-1]], 1)) * window.to(dtype)
            phase = 2 * torch.pi * torch.outer(torch.arange(front_end.frame_length), torch.arange(bins)).double()
            phase /= front_end.fft_length
            parts = frames @ phase.cos().to(dtype), frames @ phase.sin().to(dtype)
            power = parts[0] ** 2 + parts[1] ** 2
            energy = (power @ mel.to(dtype)).clamp(min=LOG_FLOOR)
            row[: len(frames)] = energy.log()
            amplitude = len(spectral) ** 0.5 * EPSILON[torch.float32] * frames.norm(dim=1, keepdim=True)
            order[: len(frames)] = 2 * amplitude * (power @ mel.to(dtype) ** 2).sqrt() / energy
        return (out - front_end.shift) * front_end.scale, cost * front_end.scale

    padded = F.pad(mel, (0, (1 << (front_end.num_mel_bins - 1).bit_length()) - front_end.num_mel_bins))
    out = unwritten((len(lengths), front_end.max_length, front_end.num_mel_bins), torch.float32, device)
    launch = log_mel.log_mel(
        waves.to(device),
        torch.tensor(lengths, dtype=torch.int32, device=device),
        spectral.float().to(device),
        padded.float().to(device),
        out,
        frame_length=front_end.frame_length,
        frame_shift=front_end.frame_shift,
        emphasis=PRE_EMPHASIS,
        gain=1 / 32768 if integers else 1.0,
        floor=LOG_FLOOR,
        shift=front_end.shift,
        scale=front_end.scale,
        precision=precision,
        tile=tile,
    )
    exact, summation = spectrogram(torch.float64)
    with PlainTorch():
        peer, _ = spectrogram(torch.float32)
    return Case(launch, {"out": out}, {"out": exact}, {"out": peer}, {"out": summation})


def pool(dtype: torch.dtype, clips: int, d: int, device: str = "cpu", rows: int = 2, sized: bool = False) -> Case:
    x = stream((clips, rows + 3, d), dtype, seed=13)  # of which the first rows are read
    weight, bias = normal((d,), torch.float32, 14), normal((d,), torch.float32, 15)

    sizes = torch.from_numpy(np.random.default_rng(9).integers(1, 41, (clips, rows + 3)).astype(np.float32))

    def mean(x: torch.Tensor) -> torch.Tensor:
        y = F.layer_norm(x[:, :rows], (d,), weight.to(x.dtype), bias.to(x.dtype), 1e-6)
        counts = sizes[:, :rows, None].to(x.dtype)
        return (y * counts).sum(1) / counts.sum(1) if sized else y.mean(1)

    out = unwritten((clips, d), torch.float32, device)
    counted = sizes.to(device)[:, :rows] if sized else None
    launch = head.pool(x.to(device)[:, :rows], weight.to(device), bias.to(device), 1e-6, out, counted)
    exact = mean(x.double())
    with PlainTorch():
        peer = mean(x.float())
    # sqrt(d) roundings of the variance, half of that of its root.
    normed = F.layer_norm(x[:, :rows].double(), (d,), weight.double(), eps=1e-6)
    summation = d**0.5 / 2 * EPSILON[torch.float32] * normed.abs().mean(1)
    return Case(launch, {"out": out}, {"out": exact}, {"out": peer}, {"out": summation})


def head_(clips: int, d: int, labels: int, tile: Tile, device: str = "cpu") -> Case:
    x = normal((clips, d), torch.float32, 16) + 3
    weight, bias = normal((labels, d), torch.float32, 17, d**-0.5), normal((labels,), torch.float32, 18)

    def logits(x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.layer_norm(x, (d,), eps=1e-6), weight.to(x.dtype), bias.to(x.dtype))

    out = unwritten((clips, labels), torch.float32, device)
    launch = head.head(x.to(device), weight.to(device), bias.to(device), 1e-6, out, precision="ieee", tile=tile)
    exact = logits(x.double())
    with PlainTorch():
        peer = logits(x)
    return Case(launch, {"out": out}, {"out": exact}, {"out": peer})
