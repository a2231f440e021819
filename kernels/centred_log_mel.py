"""Log-mel spectrogram of centred frames (CED, PaSST, MAEST): mirrored or zero-padded ends, any window and hop.

As in ``log_mel.py`` the window and the DFT are one constant matrix, folded at the window's centre, so that sums and
differences of mirrored samples make the real and imaginary parts. Where a clip's own maximum bounds the decibels from
below, ``raise_floor`` follows, one program a clip.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from astfast.kernels.launch import Launch, Work, await_grid
from astfast.kernels.log_mel import mel_energies
from astfast.kernels.tuning import Tile

FLOOR_FRAMES = 32  # that ``raise_floor`` reads at a time


@triton.jit
def signal(
    samples,  # pointer to the clip's first sample
    place,  # in the signal, which may lie before its start or behind its end, [BLOCK_M, BLOCK_K]
    length,  # of the clip, samples
    signal_length,
    emphasis,
    EMPHASISED: tl.constexpr,
    MIRRORED: tl.constexpr,
):
    """Values of the signal, x[i] or x[i + 1] - emphasis x[i], continued at its ends; zero behind the clip's."""
    if MIRRORED:
        last = signal_length - 1
        place = last - tl.abs(last - tl.abs(place))
        inside = place >= 0
    else:
        inside = (place >= 0) & (place < signal_length)
    here = tl.load(samples + place, mask=inside & (place < length), other=0).to(tl.float32)
    if EMPHASISED:
        after = tl.load(samples + place + 1, mask=inside & (place + 1 < length), other=0).to(tl.float32)
        here = after - emphasis * here
    return here


@triton.jit
def folded_frame(i, of):
    """Values of the signal that lie i places to the left and to the right of each frame's centre."""
    samples, centre, length, signal_length, emphasis, OWN_CENTRE, EMPHASISED, MIRRORED = of
    left = centre - i[None, :]
    if not OWN_CENTRE:
        left -= 1
    early = signal(samples, left, length, signal_length, emphasis, EMPHASISED, MIRRORED)
    return early, signal(samples, centre + i[None, :], length, signal_length, emphasis, EMPHASISED, MIRRORED)


@triton.jit(do_not_specialize=["clip_stride", "all_frames"])
def centred_log_mel_kernel(
    wave_ptr,  # [clips, samples] float32 in [-1, 1] or int16
    length_ptr,  # [clips] int32, samples that count
    matrix_ptr,  # [HALF, 2 * BINS] float32: real parts, then imaginary parts
    mel_ptr,  # [BINS, PADDED_MELS] float32
    scale_ptr,  # [MELS] float32
    offset_ptr,  # [MELS] float32
    out_ptr,  # [clips, all_frames, MELS] float32
    emphasis,
    gain,  # waveform units to [-1, 1]
    floor,  # of the energy
    addend,
    log_factor,
    clip_stride,
    out_clip_stride,
    all_frames,
    FEWEST: tl.constexpr,  # samples, to which a shorter clip is continued with zeros
    HALF: tl.constexpr,  # samples of the window on one side of its centre, the centre's own included
    OWN_CENTRE: tl.constexpr,  # whether the centre is a sample (periodic window), or between two
    HOP: tl.constexpr,
    EMPHASISED: tl.constexpr,
    MIRRORED: tl.constexpr,
    BINS: tl.constexpr,  # a multiple of BLOCK_N
    MELS: tl.constexpr,
    PADDED_MELS: tl.constexpr,  # a power of two
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """One tile of frames of one clip. Grid: frame tiles, clips."""
    await_grid(DEPENDENT)
    clip = tl.program_id(1).to(tl.int64)
    frame = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    length = tl.load(length_ptr + clip)
    signal_length = tl.maximum(length, FEWEST)
    if EMPHASISED:
        signal_length -= 1
    frames = 1 + signal_length // HOP
    mel_bin = tl.arange(0, PADDED_MELS)
    y = tl.zeros((BLOCK_M, PADDED_MELS), dtype=tl.float32)  # the logarithm of frames behind the clip
    if tl.program_id(0) * BLOCK_M < frames:
        samples = wave_ptr + clip * clip_stride
        centre = (tl.minimum(frame, frames - 1) * HOP)[:, None]
        of = (samples, centre, length, signal_length, emphasis, OWN_CENTRE, EMPHASISED, MIRRORED)
        energy = mel_energies(
            folded_frame, of, matrix_ptr, mel_ptr, gain, HALF, BINS, PADDED_MELS, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K
        )
        logarithm = log_factor * tl.log(tl.maximum(energy, floor) + addend)
        y = tl.where((frame < frames)[:, None], logarithm, 0.0)
    named = mel_bin < MELS
    scale = tl.load(scale_ptr + mel_bin, mask=named, other=0.0)
    offset = tl.load(offset_ptr + mel_bin, mask=named, other=0.0)
    out = out_ptr + clip * out_clip_stride + frame[:, None] * MELS + mel_bin[None, :]
    tl.store(out, y * scale[None, :] + offset[None, :], mask=(frame < all_frames)[:, None] & named[None, :])


@triton.jit(do_not_specialize=["all_frames"])
def raise_floor_kernel(
    out_ptr,  # [clips, all_frames, MELS] float32, logarithms
    length_ptr,  # [clips] int32
    scale_ptr,  # [MELS] float32
    offset_ptr,  # [MELS] float32
    top_db,
    out_clip_stride,
    all_frames,
    FEWEST: tl.constexpr,
    HOP: tl.constexpr,
    MELS: tl.constexpr,
    PADDED_MELS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    DEPENDENT: tl.constexpr = False,
):
    """out = max(out, the clip's maximum - top_db) * scale + offset, frames behind the clip not raised. Grid: clips."""
    await_grid(DEPENDENT)
    clip = tl.program_id(0).to(tl.int64)
    frames = tl.minimum(1 + tl.maximum(tl.load(length_ptr + clip), FEWEST) // HOP, all_frames)
    mel_bin = tl.arange(0, PADDED_MELS)
    named = mel_bin < MELS
    scale = tl.load(scale_ptr + mel_bin, mask=named, other=0.0)
    offset = tl.load(offset_ptr + mel_bin, mask=named, other=0.0)
    spectrogram = out_ptr + clip * out_clip_stride + mel_bin[None, :]
    largest = tl.full((BLOCK_M, PADDED_MELS), float("-inf"), dtype=tl.float32)
    for start in range(0, all_frames, BLOCK_M):
        frame = start + tl.arange(0, BLOCK_M)
        valid = (frame < frames)[:, None] & named[None, :]
        largest = tl.maximum(largest, tl.load(spectrogram + frame[:, None] * MELS, mask=valid, other=float("-inf")))
    floor = tl.max(tl.max(largest, axis=1), axis=0) - top_db
    for start in range(0, all_frames, BLOCK_M):
        frame = start + tl.arange(0, BLOCK_M)
        place = spectrogram + frame[:, None] * MELS
        valid = (frame < all_frames)[:, None] & named[None, :]
        x = tl.load(place, mask=valid, other=0.0)
        x = tl.where((frame < frames)[:, None], tl.maximum(x, floor), x)
        tl.store(place, x * scale[None, :] + offset[None, :], mask=valid)


def centred_log_mel(
    waves: Any,
    lengths: Any,
    matrix: Any,
    mel: Any,
    scale: Any,
    offset: Any,
    out: Any,
    *,
    fewest: int,
    own_centre: bool,
    hop: int,
    emphasis: float,
    mirrored: bool,
    gain: float,
    floor: float,
    addend: float,
    log_factor: float,
    precision: str,
    tile: Tile,
) -> Launch:
    """waves [B, samples] (float32, or int16 with its gain), lengths [B] -> out [B, frames, mels] float32:
    log_factor log(max(mel . |DFT|^2, floor) + addend), 0 after the clip's last frame; times scale, plus offset."""
    clips, frames, mels = out.shape
    bins, padded_mels = mel.shape
    half = matrix.shape[0]
    args = {
        "wave_ptr": waves,
        "length_ptr": lengths,
        "matrix_ptr": matrix,
        "mel_ptr": mel,
        "scale_ptr": scale,
        "offset_ptr": offset,
        "out_ptr": out,
        "emphasis": emphasis,
        "gain": gain,
        "floor": floor,
        "addend": addend,
        "log_factor": log_factor,
        "clip_stride": waves.stride(0),
        "out_clip_stride": out.stride(0),
        "all_frames": frames,
        "FEWEST": fewest,
        "HALF": half,
        "OWN_CENTRE": own_centre,
        "HOP": hop,
        "EMPHASISED": emphasis != 0,
        "MIRRORED": mirrored,
        "BINS": bins,
        "MELS": mels,
        "PADDED_MELS": padded_mels,
        "PRECISION": precision,
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "BLOCK_K": tile.k,
    }
    work = Work(
        flops=2 * clips * frames * bins * (2 * half + mels),
        bytes=sum(a.numel() * a.element_size() for a in (waves, matrix, mel, out)),
    )
    grid = (triton.cdiv(frames, tile.m), clips, 1)
    return Launch(centred_log_mel_kernel, grid, args, tile.warps, tile.stages, ("out_ptr",), work)


def raise_floor(lengths: Any, scale: Any, offset: Any, out: Any, *, fewest: int, hop: int, top_db: float) -> Launch:
    """out [B, frames, mels] float32, logarithms -> max(out, the clip's maximum - top_db) scale + offset, in place."""
    clips, frames, mels = out.shape
    args = {
        "out_ptr": out,
        "length_ptr": lengths,
        "scale_ptr": scale,
        "offset_ptr": offset,
        "top_db": top_db,
        "out_clip_stride": out.stride(0),
        "all_frames": frames,
        "FEWEST": fewest,
        "HOP": hop,
        "MELS": mels,
        "PADDED_MELS": triton.next_power_of_2(mels),
        "BLOCK_M": FLOOR_FRAMES,
    }
    work = Work(bytes=2 * out.numel() * 4)
    return Launch(raise_floor_kernel, (clips, 1, 1), args, 4, 1, (), work)
