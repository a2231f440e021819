"""Channels -> one: their mean, the loudest of them, or a certain one. Samples of every input are checked here."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from astfast.audio import memory
from astfast.audio.parts import Findings
from astfast.errors import AudioError
from astfast.notes import Note

Channel: TypeAlias = 'int | Literal["mean", "max"]'  # what is read of an input
Channels: TypeAlias = 'int | Literal["mean", "max", "each"]'  # "each": a result for every channel
FloatArray = NDArray[np.float32]

SUSPICIOUS_PEAK = 16.0  # that no recording in [-1, 1] reaches, headroom and all
MAX_ABS_SAMPLE = 1e12  # far above any 32-bit integer; its square is still finite in float32
VALUES_COMPARED = 1 << 20  # samples times channels by which the loudest channel is found
SAMPLED = 61  # of so many samples one is looked at to find channels that cancel; a prime, unlike periods of sounds
CANCELLED = 0.02  # of the quietest channel's energy, over the number of channels: the mean of unlike ones has far more
AUDIBLE = 1e-8  # energy of a sample, -80 dB: below it there is nothing to lose


def checked_channel(channel: Channel, each: bool = False) -> Channel:
    """``channel``. Raises ValueError if it is neither "mean", "max" nor a number from 0, and names "each" if ``each``
    may be asked for too."""
    if channel in ("mean", "max") or (isinstance(channel, int) and not isinstance(channel, bool) and channel >= 0):
        return channel
    raise ValueError(
        f"channel is {channel!r}: it must be 'mean', 'max'{', ' + repr('each') if each else ''}, or the number of a "
        "channel, from 0"
    )


def to_mono(
    blocks: Iterator[FloatArray], rate: int, channel: Channel, max_duration: float, findings: Findings, keep: bool
) -> Generator[FloatArray, None, None]:
    """Blocks [samples, channels] -> checked blocks [samples].

    "max" is the channel with the greatest energy in the first VALUES_COMPARED values that are not silence.

    Raises AudioError for a channel that is not there, for more than ``max_duration`` seconds, for no samples at all,
    and for samples that are not finite; with ``keep`` what is before those is kept, and the rest is lost.
    """
    done = 0
    name = findings.name
    suspicious = False
    for wave in _chosen(blocks, channel, findings):
        peak = max(float(wave.max()), -float(wave.min()))
        good = wave
        if not peak <= MAX_ABS_SAMPLE:
            good = wave[: int(np.argmin(np.abs(wave) <= MAX_ABS_SAMPLE))]
            if not keep or not done + len(good):
                raise not_finite(name, f"at {(done + len(good)) / rate:.3f} s")
        elif peak > SUSPICIOUS_PEAK and not suspicious:
            suspicious = True
            findings.notes.append(
                Note(
                    f"{name}: a peak of {peak:.4g}, though float samples lie in [-1, 1]: integer samples in a float "
                    "array? Pass them as int16 or int32, or divide them"
                )
            )
        done += len(good)
        if done > max_duration * rate:
            raise too_long(name, done / rate, max_duration)
        if len(good):
            yield good
        if len(good) < len(wave):
            findings.lost(f"not finite from {done / rate:.3f} s on: what is before it is kept")
            return
    if not done:
        raise AudioError(f"{name}: no samples in it", kind="empty")


def _chosen(blocks: Iterator[FloatArray], channel: Channel, findings: Findings) -> Iterator[FloatArray]:
    if channel == "mean":
        return _means(blocks, findings)
    return _loudest(blocks) if channel == "max" else _numbered(blocks, int(channel), findings.name)


def _numbered(blocks: Iterator[FloatArray], channel: int, name: str) -> Iterator[FloatArray]:
    for block in blocks:
        count = block.shape[1]
        if channel >= count:
            raise AudioError(
                f"{name}: has {count} channel{'s' * (count > 1)}: channel {channel} is not there, 0 is the first"
            )
        yield np.ascontiguousarray(block[:, channel])


def _loudest(blocks: Iterator[FloatArray]) -> Iterator[FloatArray]:
    held: list[FloatArray] = []
    values = 0
    energies: NDArray[np.float64] | float = 0.0
    for block in blocks:
        with np.errstate(all="ignore"):
            energy = np.square(block, dtype=np.float64).sum(axis=0)
        if not held and not energy.any():
            yield np.ascontiguousarray(block[:, 0])  # silence in every channel
            continue
        held.append(block)
        energies = energies + energy
        values += block.size
        if values >= VALUES_COMPARED:
            break
    channel = int(np.argmax(energies))
    for block in held:
        yield np.ascontiguousarray(block[:, channel])
    del held
    for block in blocks:
        yield np.ascontiguousarray(block[:, channel])


def _means(blocks: Iterator[FloatArray], findings: Findings) -> Iterator[FloatArray]:
    warned = False
    for block in blocks:
        wave = mean_of_channels(block)
        if not warned and block.shape[1] > 1 and _cancels(block[::SAMPLED], wave[::SAMPLED]):
            warned = True
            findings.notes.append(
                Note(
                    f"{findings.name}: its channels cancel each other in their mean (opposite phase): pass channel=0 "
                    "to hear the first of them, or channel='max' for the loudest"
                )
            )
        yield wave


def _cancels(block: FloatArray, wave: FloatArray) -> bool:
    """Whether the mean of channels has far less energy than the quietest of them."""
    with np.errstate(all="ignore"):
        quietest = min(float(column @ column) for column in block.T)
        mean = float(wave @ wave)
    return quietest > AUDIBLE * len(wave) and mean < CANCELLED / block.shape[1] * quietest


def mean_of_channels(block: FloatArray) -> FloatArray:
    """[samples, channels] -> [samples]. Added column by column in float32: a fraction of the time of ``block.mean``."""
    if block.shape[1] == 1:
        return block[:, 0]
    with np.errstate(all="ignore"):  # what overflows is refused as not finite
        wave: FloatArray = np.add(block[:, 0], block[:, 1], out=memory.empty(len(block)))
        for channel in range(2, block.shape[1]):
            wave += block[:, channel]
        wave /= np.float32(block.shape[1])
    return wave


def too_long(name: str, duration: float, max_duration: float, known: bool = False) -> AudioError:
    """The error for more seconds of audio than are allowed: ``duration`` so far, or of all if that is ``known``."""
    digits = next((n for n in range(4) if f"{duration:.{n}f}" != f"{max_duration:.{n}f}"), 6)
    return AudioError(
        f"{name}: {duration:,.{digits}f} s of audio{'' if known else ' or more'}, above the limit of "
        f"{max_duration:,.10g} s: split it, or pass a larger max_duration=",
        kind="too_long",
    )


def not_finite(name: str, where: str) -> AudioError:
    """The error for samples that are NaN, infinite or beyond MAX_ABS_SAMPLE."""
    return AudioError(
        f"{name}: not finite, or beyond any audio, {where}: find out where NaN, infinity or huge samples come from",
        kind="not_finite",
    )
