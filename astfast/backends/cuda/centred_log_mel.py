"""Front ends of centred frames on a GPU: their tables, their calls, and the same in PyTorch's ops."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from astfast.backends.cuda.fallback_ops import sensitivity_of_logs
from astfast.backends.cuda.op_call import OpCall
from astfast.centred_log_mel import CentredLogMel, analysis_window, mel_filters
from astfast.kernels import centred_log_mel as kernels
from astfast.pcm import INT16_FULL_SCALE


class Tables(NamedTuple):
    """Constants of a front end, float32 on the device."""

    matrix: torch.Tensor  # [half, 2 * bins], window and DFT of the frame folded at its centre
    mel: torch.Tensor  # [bins, mels rounded up to a power of two]
    scale: torch.Tensor  # [mels]
    offset: torch.Tensor  # [mels]
    ones: torch.Tensor  # [mels]
    zeros: torch.Tensor  # [mels]


def tables(front_end: CentredLogMel, device: torch.device) -> Tables:
    """The constants, made in float64.

    Sample ``half + i`` of a periodic window and sample ``half - i`` of it are as far from its centre, of a symmetric
    one ``half + i`` and ``half - 1 - i``: of their sum come the real parts of bins 0 to fft_length / 2 - 1, of their
    difference the imaginary parts, but for a phase that the power spectrum does not see.
    """
    mels, half, bins = front_end.num_mel_bins, front_end.window_length // 2, front_end.fft_length // 2
    distance = np.arange(half) + (0.0 if front_end.periodic else 0.5)  # from the centre
    window = analysis_window(front_end)[half:].copy()
    if front_end.periodic:
        window[0] *= 0.5  # the sample at the centre meets itself
    phase = 2.0 * np.pi * np.outer(distance, np.arange(bins)) / front_end.fft_length
    matrix = window[:, None] * np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
    filters = np.pad(mel_filters(front_end)[:, :-1].T, ((0, 0), (0, (1 << (mels - 1).bit_length()) - mels)))
    rows = (np.broadcast_to(x, mels) for x in (front_end.scale, front_end.offset, 1.0, 0.0))
    return Tables(*(torch.from_numpy(np.array(x, np.float32)).to(device) for x in (matrix, filters, *rows)))


def calls(
    waves: torch.Tensor, lengths: torch.Tensor, front_end: CentredLogMel, of: Tables, out: torch.Tensor, tile: Any
) -> Iterator[OpCall]:
    """The calls that write the spectrograms of waveforms [B, samples] to out [B, frames, mels], one after the other."""
    scale, offset = (of.scale, of.offset) if front_end.top_db is None else (of.ones, of.zeros)
    samples = {"fewest": front_end.fewest_samples, "hop": front_end.hop_length}
    yield OpCall(
        "centred_log_mel",
        kernels.centred_log_mel,
        log_mel,
        clips={"waves": waves, "lengths": lengths, "out": out},
        weights={"matrix": of.matrix, "mel": of.mel, "scale": scale, "offset": offset},
        settings={
            **samples,
            "own_centre": front_end.periodic,
            "emphasis": front_end.emphasis,
            "mirrored": front_end.edges == "reflect",
            "gain": 1.0 / INT16_FULL_SCALE if waves.dtype == torch.int16 else 1.0,
            "floor": front_end.floor,
            "addend": front_end.addend,
            "log_factor": front_end.log_factor,
        },
        result="out",
        written=("out",),
        tuning={"precision": "ieee", "tile": tile},
        sensitivity=partial(sensitivity_of_logs, unit=front_end.log_factor * scale, offset=offset),
    )
    if front_end.top_db is not None:
        yield OpCall(
            "raise_floor",
            kernels.raise_floor,
            raise_floor,
            clips={"lengths": lengths, "out": out},
            weights={"scale": of.scale, "offset": of.offset},
            settings={**samples, "top_db": front_end.top_db},
            result="out",
            written=(),
            updated=("out",),
        )


def log_mel(
    waves: torch.Tensor,  # [B, samples] float32 in [-1, 1] or int16
    lengths: torch.Tensor,  # [B] int32, samples that count
    matrix: torch.Tensor,  # [half, 2 * bins]
    mel: torch.Tensor,  # [bins, mels or more]
    scale: torch.Tensor,  # [mels]
    offset: torch.Tensor,  # [mels]
    out: torch.Tensor,  # [B, frames, mels]
    fewest: int,
    own_centre: bool,
    hop: int,
    emphasis: float,
    mirrored: bool,
    gain: float,
    floor: float,
    addend: float,
    log_factor: float,
) -> torch.Tensor:
    """log_factor log(max(mel . |DFT|^2, floor) + addend), 0 after the last frame, times scale plus offset."""
    _, frames, mels = out.shape
    device = waves.device
    x = waves.to(matrix.dtype) * gain
    signal_lengths = lengths.long().clamp(min=fewest) - int(emphasis != 0)  # [B]
    last, ends = (signal_lengths - 1)[:, None, None], lengths[:, None, None]

    def samples_at(place: torch.Tensor) -> torch.Tensor:
        found = x.gather(1, place.clamp(0, x.shape[1] - 1).flatten(1)).view(place.shape)
        return torch.where((place >= 0) & (place < ends), found, 0)

    def signal(place: torch.Tensor) -> torch.Tensor:
        place = place.expand(len(x), -1, -1)  # [B, frames, half]
        if mirrored:
            place = last - (last - place.abs()).abs()
        y = samples_at(place + 1) - emphasis * samples_at(place) if emphasis else samples_at(place)
        return torch.where((place >= 0) & (place <= last), y, 0)

    centre = hop * torch.arange(frames, device=device)[:, None]
    i = torch.arange(len(matrix), device=device)
    early, late = signal(centre - i - (0 if own_centre else 1)), signal(centre + i)
    cosines, sines = matrix.chunk(2, -1)
    power = ((late + early) @ cosines).square() + ((late - early) @ sines).square()  # [B, frames, bins]
    logarithm = log_factor * ((power @ mel[:, :mels]).clamp(min=floor) + addend).log()
    logarithm = torch.where(_covered(signal_lengths, hop, frames), logarithm, 0)
    return torch.add(logarithm * scale, offset, out=out)


def raise_floor(
    lengths: torch.Tensor,  # [B] int32
    scale: torch.Tensor,  # [mels]
    offset: torch.Tensor,  # [mels]
    out: torch.Tensor,  # [B, frames, mels]
    fewest: int,
    hop: int,
    top_db: float,
) -> torch.Tensor:
    """out = max(out, the clip's maximum - top_db) scale + offset; frames behind the clip are not raised."""
    covered = _covered(lengths.long().clamp(min=fewest), hop, out.shape[1])
    floor = torch.where(covered, out, -torch.inf).amax((1, 2), keepdim=True) - top_db
    return out.copy_(torch.where(covered, torch.maximum(out, floor), out) * scale + offset)


def _covered(signal_lengths: torch.Tensor, hop: int, frames: int) -> torch.Tensor:
    """Which frames begin in the signal, [B, frames, 1]."""
    full = 1 + signal_lengths // hop
    return (torch.arange(frames, device=full.device) < full[:, None])[..., None]
