"""Log-mel spectrogram of a waveform in one kernel: frames, DFT as a matrix product, power, mel, log, normalisation.

Window and DFT are one constant matrix, made in float64 (``folding.spectral_matrix``). It is half as high as a frame is
long: the frame is folded at its centre, sums of mirrored samples make the real parts and differences the imaginary
ones. Mean and pre-emphasis have no such symmetry and come before (in the matrix, the mean would also lose three digits
of a DC offset). Products are float32: the logarithm magnifies the error of quiet bins.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from astfast.kernels.launch import Launch, Work, await_grid
from astfast.kernels.tuning import Tile


@triton.jit
def mel_energies(
    FOLDED: tl.constexpr,  # (places from 0 to HALF - 1, of) -> the samples of a frame that mirror each other
    of,  # what FOLDED reads them by
    matrix_ptr,  # [HALF, 2 * BINS] float32: real parts, then imaginary parts
    mel_ptr,  # [BINS, PADDED_MELS] float32
    gain,  # waveform units to [-1, 1]
    HALF: tl.constexpr,  # places of a folded frame
    BINS: tl.constexpr,  # a multiple of BLOCK_N
    PADDED_MELS: tl.constexpr,  # a power of two
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """mel . |DFT|^2 of a tile of frames, [BLOCK_M, PADDED_MELS]."""
    k = tl.arange(0, BLOCK_K)
    mel_bin = tl.arange(0, PADDED_MELS)
    energy = tl.zeros((BLOCK_M, PADDED_MELS), dtype=tl.float32)
    for bin in range(0, BINS, BLOCK_N):
        n = bin + tl.arange(0, BLOCK_N)
        real = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        imaginary = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, HALF, BLOCK_K):
            inside = start + k < HALF
            early, late = FOLDED(tl.minimum(start + k, HALF - 1), of)
            column = matrix_ptr + (start + k)[:, None] * (2 * BINS) + n[None, :]
            cosine = tl.load(column, mask=inside[:, None], other=0.0)
            sine = tl.load(column + BINS, mask=inside[:, None], other=0.0)
            real = tl.dot(late + early, cosine, real, input_precision=PRECISION)
            imaginary = tl.dot(late - early, sine, imaginary, input_precision=PRECISION)
        power = (real * real + imaginary * imaginary) * (gain * gain)
        mel = tl.load(mel_ptr + n[:, None] * PADDED_MELS + mel_bin[None, :])
        energy = tl.dot(power, mel, energy, input_precision=PRECISION)
    return energy


@triton.jit
def emphasised(
    samples,  # pointers to the first sample of each frame, [BLOCK_M]
    left,  # samples that count from there on, [BLOCK_M]
    i,  # places in the frame, [BLOCK_K]
    mean,  # [BLOCK_M]
    emphasis,
):
    """Pre-emphasis: (x[i] - mean) - emphasis * (x[i - 1] - mean), x zero after the clip's end, [BLOCK_M, BLOCK_K]. The
    sample before x[0] is not read: the window is zero there."""
    x = samples[:, None] + i[None, :]
    here = tl.load(x, mask=i[None, :] < left[:, None], other=0).to(tl.float32)
    before = tl.load(x - 1, mask=(i > 0)[None, :] & (i[None, :] <= left[:, None]), other=0).to(tl.float32)
    return (here - mean[:, None]) - emphasis * (before - mean[:, None])


@triton.jit
def folded_frame(i, of):
    """Samples i and FRAME_LENGTH - 1 - i of each frame, emphasised."""
    samples, left, mean, emphasis, FRAME_LENGTH = of
    early = emphasised(samples, left, i, mean, emphasis)
    return early, emphasised(samples, left, FRAME_LENGTH - 1 - i, mean, emphasis)


@triton.jit(do_not_specialize=["clip_stride", "all_frames"])
def log_mel_kernel(
    wave_ptr,  # [clips, samples] float32 in [-1, 1] or int16
    length_ptr,  # [clips] int32, samples that count
    matrix_ptr,  # [HALF, 2 * BINS] float32: real parts, then imaginary parts
    mel_ptr,  # [BINS, PADDED_MELS] float32
    out_ptr,  # [clips, all_frames, MELS] float32
    emphasis,
    gain,  # waveform units to [-1, 1]
    floor,  # of the energy
    shift,
    scale,
    clip_stride,
    out_clip_stride,
    all_frames,
    FRAME_LENGTH: tl.constexpr,
    HALF: tl.constexpr,  # of it, rounded up
    FRAME_SHIFT: tl.constexpr,
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
    frames = 1 + tl.maximum(length - FRAME_LENGTH, 0) // FRAME_SHIFT
    mel_bin = tl.arange(0, PADDED_MELS)
    y = tl.zeros((BLOCK_M, PADDED_MELS), dtype=tl.float32)  # padded frames are zeros, normalised like the others
    if tl.program_id(0) * BLOCK_M < frames:
        k = tl.arange(0, BLOCK_K)
        first = frame * FRAME_SHIFT
        samples = wave_ptr + clip * clip_stride + first  # [BLOCK_M]
        total = tl.zeros((BLOCK_M,), dtype=tl.float32)
        for start in range(0, FRAME_LENGTH, BLOCK_K):
            valid = (start + k < FRAME_LENGTH)[None, :] & (first[:, None] + (start + k)[None, :] < length)
            x = tl.load(samples[:, None] + (start + k)[None, :], mask=valid, other=0).to(tl.float32)
            total += tl.sum(x, axis=1)
        mean = total / FRAME_LENGTH

        of = (samples, length - first, mean, emphasis, FRAME_LENGTH)
        energy = mel_energies(
            folded_frame, of, matrix_ptr, mel_ptr, gain, HALF, BINS, PADDED_MELS, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K
        )
        y = tl.where((frame < frames)[:, None], tl.log(tl.maximum(energy, floor)), 0.0)
    out = out_ptr + clip * out_clip_stride + frame[:, None] * MELS + mel_bin[None, :]
    tl.store(out, (y - shift) * scale, mask=(frame < all_frames)[:, None] & (mel_bin < MELS)[None, :])


def log_mel(
    waves: Any,
    lengths: Any,
    matrix: Any,
    mel: Any,
    out: Any,
    *,
    frame_length: int,
    frame_shift: int,
    emphasis: float,
    gain: float,
    floor: float,
    shift: float,
    scale: float,
    precision: str,
    tile: Tile,
) -> Launch:
    """waves [B, samples] (float32, or int16 with its gain), lengths [B], matrix of the folded frame -> out
    [B, frames, mels] float32,
    log(max(mel . |DFT|^2, floor)), zero frames after the end, then (x - shift) * scale."""
    clips, frames, mels = out.shape
    bins, padded_mels = mel.shape
    half = matrix.shape[0]
    args = {
        "wave_ptr": waves,
        "length_ptr": lengths,
        "matrix_ptr": matrix,
        "mel_ptr": mel,
        "out_ptr": out,
        "emphasis": emphasis,
        "gain": gain,
        "floor": floor,
        "shift": shift,
        "scale": scale,
        "clip_stride": waves.stride(0),
        "out_clip_stride": out.stride(0),
        "all_frames": frames,
        "FRAME_LENGTH": frame_length,
        "HALF": half,
        "FRAME_SHIFT": frame_shift,
        "BINS": bins,
        "MELS": mels,
        "PADDED_MELS": padded_mels,
        "PRECISION": precision,
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "BLOCK_K": tile.k,
    }
    work = Work(
        flops=2 * clips * frames * (2 * frame_length + bins * (2 * half + mels)),
        bytes=sum(a.numel() * a.element_size() for a in (waves, matrix, mel, out)),
    )
    grid = (triton.cdiv(frames, tile.m), clips, 1)
    return Launch(log_mel_kernel, grid, args, tile.warps, tile.stages, ("out_ptr",), work)
