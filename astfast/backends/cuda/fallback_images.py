"""PyTorch implementations of the ops on images, as ``fallback_ops.py`` has those of tokens.

Shapes: B clips, images of rows x columns positions, C channels. A scan's directions and segments are those of
``kernels/scan.py``: loops run over the few positions of a segment, all segments at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F

from astfast.backends.cuda.fallback_ops import sums_of_squares


def convolution(
    x: torch.Tensor,  # [B, rows * columns, K]
    weight: torch.Tensor,  # [N, 9 * K]
    bias: torch.Tensor,  # [N], scaled
    scale: float,
    out: torch.Tensor,  # [B, positions, N]
    rows: int,
    columns: int,
) -> torch.Tensor:
    """out = scale * (3 x 3 convolution of stride 2 and padding 1) + bias."""
    kernel = weight.view(len(weight), 3, 3, -1).permute(0, 3, 1, 2)  # [N, K, 3, 3]
    image = x.to(weight.dtype).mT.reshape(len(x), -1, rows, columns)
    y = F.conv2d(image, kernel, stride=2, padding=1).flatten(2).mT
    return out.copy_(y * scale + bias)


def image_norm(
    stream: torch.Tensor,  # [B, R, N]
    sumsq: torch.Tensor,  # [B, R, 2 * ceil(N / 64)]
    weight: torch.Tensor,  # [N]
    bias: torch.Tensor,  # [N]
    scale: float,
    eps: float,
    activation: str | None,
) -> torch.Tensor:
    """stream = scale * act(LN(stream)), and its rows' statistics."""
    y = F.layer_norm(stream.to(weight.dtype), weight.shape, weight, bias, eps)
    stream.copy_(scale * (F.gelu(y) if activation == "gelu" else y))
    sums_of_squares(stream, sumsq)
    return stream


def depthwise_silu(
    x: torch.Tensor,  # [B, rows * columns, C]
    weight: torch.Tensor,  # [9, C]
    out: torch.Tensor,  # [B, rows * columns, C]
    rows: int,
    columns: int,
) -> torch.Tensor:
    """out = silu(3 x 3 convolution of each channel, padding 1)."""
    kernel = weight.T.reshape(-1, 1, 3, 3)
    image = x.to(weight.dtype).mT.reshape(len(x), -1, rows, columns)
    return out.copy_(F.silu(F.conv2d(image, kernel, padding=1, groups=len(kernel))).flatten(2).mT)


def scan_segments(
    x: torch.Tensor,  # [B, rows * columns, C]
    projected: torch.Tensor,  # [B, rows * columns, 4 * (R + 2)]
    factors: torch.Tensor,  # [B, segments, C]
    states: torch.Tensor,  # [B, segments, C]
    weight: torch.Tensor,  # [4, R, C]
    bias: torch.Tensor,  # [4, C]
    decay: torch.Tensor,  # [4, C]
    rows: int,
    columns: int,
    block_rows: int,
    block_columns: int,
) -> torch.Tensor:
    """The factor and the addend that each segment by itself is for the state."""
    first = 0
    for _, factor, addend in _directions(x, projected, weight, bias, decay, rows, columns, block_rows, block_columns):
        *_, (kept, state) = _steps(factor, addend, torch.zeros_like(factor[:, :, 0]))
        last = first + factor.shape[1]
        factors[:, first:last], states[:, first:last] = kept, state
        first = last
    return states


def scan_states(
    factors: torch.Tensor,  # [B, segments, C]
    states: torch.Tensor,  # [B, segments, C]
    rows: int,
    columns: int,
    block_rows: int,
    block_columns: int,
) -> torch.Tensor:
    """states of each segment by itself -> behind it and all before it, in place, by doubling."""
    for direction, span in enumerate(_spans(rows, columns, block_rows, block_columns)):
        factor, state = factors[:, span].clone(), states[:, span].clone()
        if direction >= 2:
            factor, state = factor.flip(1), state.flip(1)
        step = 1
        while step < factor.shape[1]:
            state[:, step:] += factor[:, step:] * state[:, :-step].clone()
            factor[:, step:] *= factor[:, :-step].clone()
            step *= 2
        states[:, span] = state.flip(1) if direction >= 2 else state
    return states


def scan_outputs(
    x: torch.Tensor,  # [B, rows * columns, C]
    projected: torch.Tensor,  # [B, rows * columns, 4 * (R + 2)]
    states: torch.Tensor,  # [B, segments, C]
    stream: torch.Tensor,  # [B, rows * columns, C]
    sumsq: torch.Tensor,  # [B, rows * columns, 2 * ceil(C / 64)]
    weight: torch.Tensor,  # [4, R, C]
    bias: torch.Tensor,  # [4, C]
    decay: torch.Tensor,  # [4, C]
    skip: torch.Tensor,  # [C]
    scale: float,
    rows: int,
    columns: int,
    block_rows: int,
    block_columns: int,
) -> torch.Tensor:
    """stream = scale * the sum of all directions' outputs, from the states behind all segments, and its statistics."""
    channels = x.shape[2]
    y = x.to(skip.dtype).view(len(x), rows, columns, channels) * skip
    spans = _spans(rows, columns, block_rows, block_columns)
    parts = projected.view(len(x), rows, columns, 4, -1)
    for direction, factor, addend in _directions(
        x, projected, weight, bias, decay, rows, columns, block_rows, block_columns
    ):
        behind = states[:, spans[direction]]
        none = torch.zeros_like(behind[:, :1])
        before = torch.cat([behind[:, 1:], none] if direction >= 2 else [none, behind[:, :-1]], dim=1)
        found = torch.stack([state for _, state in _steps(factor, addend, before)], dim=2)  # [B, S, size, C]
        found = found.flip(2) if direction >= 2 else found
        lines, length = (columns, rows) if direction % 2 else (rows, columns)
        found = found.reshape(len(x), lines, -1, channels)[:, :, :length]
        found = found.transpose(1, 2) if direction % 2 else found
        y = y + parts[..., direction, -1:] * found
    stream.copy_(scale * y.flatten(1, 2))
    sums_of_squares(stream, sumsq)
    return stream


def _spans(rows: int, columns: int, block_rows: int, block_columns: int) -> list[slice]:
    """Where each direction's segments lie."""
    across, down = rows * -(-columns // block_columns), columns * -(-rows // block_rows)
    starts = (0, across, across + down, 2 * across + down, 2 * (across + down))
    return [slice(first, last) for first, last in pairwise(starts)]


def _directions(
    x: torch.Tensor,
    projected: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    decay: torch.Tensor,
    rows: int,
    columns: int,
    block_rows: int,
    block_columns: int,
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(direction, factors, addends) of all steps, [B, segments, steps, C] in the order of the direction's steps."""
    rank = weight.shape[1]
    image = x.to(weight.dtype).view(len(x), rows, columns, -1)
    parts = projected.view(len(x), rows, columns, 4, rank + 2)
    for direction in range(4):
        part = parts[..., direction, :]
        step = F.softplus(part[..., :rank] @ weight[direction] + bias[direction])  # [B, rows, columns, C]
        factor, addend = torch.exp(decay[direction] * step), step * part[..., rank : rank + 1] * image
        size = block_rows if direction % 2 else block_columns
        yield direction, _segments(factor, direction, size, 1.0), _segments(addend, direction, size, 0.0)


def _segments(values: torch.Tensor, direction: int, size: int, outside: float) -> torch.Tensor:
    """[B, rows, columns, C] -> [B, segments, size, C] in the order of a direction's steps."""
    values = values.transpose(1, 2) if direction % 2 else values
    padded = F.pad(values, (0, 0, 0, -values.shape[2] % size), value=outside)
    segments = padded.reshape(len(padded), -1, size, padded.shape[3])
    return segments.flip(2) if direction >= 2 else segments


def _steps(
    factor: torch.Tensor, addend: torch.Tensor, state: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(product of factors, state) behind each step of all segments, [B, segments, C], from the states before them."""
    kept = torch.ones_like(state)
    for each, added in zip(factor.unbind(2), addend.unbind(2), strict=True):
        kept, state = kept * each, state * each + added
        yield kept, state
