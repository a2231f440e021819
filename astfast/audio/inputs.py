"""Every kind of audio input -> mono float32 at the model's rate.

``open_audio`` gives a stream of blocks, so that a day-long file is never held whole; ``load_audio`` collects its first
samples. Streams depend on no global state: any number of threads may open inputs of their own.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.audio.arrays import checked_rate
from astfast.audio.files import DecodedAudio
from astfast.audio.kinds import Source, not_readable, recognised, seconds_read
from astfast.audio.mono import Channel, checked_channel, to_mono, too_long
from astfast.audio.parts import SECONDS_PER_BLOCK, Findings
from astfast.audio.windows import is_number
from astfast.errors import AstfastError, AudioError
from astfast.notes import Note
from astfast.resampling import resampled
from astfast.spans import ignored_tail

FloatArray = NDArray[np.float32]

DEFAULT_RATE = 16_000  # Hz, of ``load_audio`` and ``open_audio`` without a model
MAX_DURATION = 24 * 3600.0  # seconds
DAMAGE = ("warn", "error")


@dataclass(frozen=True)
class Clip:
    """The beginning of an input, or all of it."""

    wave: NDArray[Any]  # [samples], mono, at the rate that was asked for; float32, or int16 where that may stay
    truncated: bool  # whether the input goes on, by more than an ignored tail
    duration: float | None  # seconds of the whole input; None when it is truncated and its header doesn't say
    name: str  # what messages call the input
    notes: tuple[Note, ...] = ()  # what its caller should be warned of


@dataclass(frozen=True)
class AudioStream:
    """An opened input. ``blocks`` can be walked once and raises AudioError where the input goes bad."""

    name: str
    rate: int  # Hz, of the blocks
    duration: float | None  # seconds of the whole input, None when its header doesn't say
    blocks: Generator[FloatArray, None, None]  # [samples] each, mono, at least one in all; close() frees the file
    notes: list[Note]  # what its caller should be warned of; grows while blocks are walked


def load_audio(
    x: Any,
    sampling_rate: float | None = None,
    target_rate: int = DEFAULT_RATE,
    max_samples: int | None = None,
    max_duration: float = MAX_DURATION,
    int16: bool = False,
    channel: Channel = "mean",
    on_damage: str = "warn",
) -> Clip:
    """One input -> its first ``max_samples`` samples at ``target_rate``, or all; no more of a file is decoded.

    With ``int16`` a 1-D NumPy array of that type and rate stays as it is. The other arguments and errors are those of
    ``open_audio``.
    """
    source = as_source(x, sampling_rate, target_rate)
    if max_samples is not None:
        source = source.first(max_samples, target_rate)
    channel = checked_channel(channel) if source.channel is None else source.channel
    as_it_is = int16 and source.rate == target_rate and channel in ("mean", "max", 0)
    if as_it_is and source.data.ndim == 1 and source.data.dtype == np.int16:
        assert source.duration is not None
        if source.duration <= max_duration:
            wave = source.data[:max_samples].copy()
            truncated = round(source.duration * target_rate) - len(wave) > ignored_tail(target_rate)
            return Clip(wave, truncated, source.duration, source.name, source.notes)
    stream = open_audio(source, None, target_rate, max_duration, max_samples, channel, on_damage)
    parts: list[FloatArray] = []
    length = 0
    truncated = False
    with contextlib.closing(stream.blocks), only_audio_errors(stream.name), np.errstate(all="ignore"):
        for block in stream.blocks:
            parts.append(block)
            length += len(block)
            if max_samples is not None and length > max_samples + ignored_tail(target_rate):
                truncated = True
                break
    wave = (parts[0] if len(parts) == 1 else np.concatenate(parts))[:max_samples]
    duration = stream.duration if truncated else length / target_rate
    return Clip(wave, truncated, duration, stream.name, tuple(stream.notes))


def open_audio(
    x: Any,
    sampling_rate: float | None = None,
    target_rate: int = DEFAULT_RATE,
    max_duration: float = MAX_DURATION,
    max_samples: int | None = None,
    channel: Channel = "mean",
    on_damage: str = "warn",
) -> AudioStream:
    """One input -> a stream of mono float32 blocks at ``target_rate``, resampled by soxr (HQ) where need be.

    ``max_samples``: how many of them the caller will read, if not all; no more of a file is decoded at a time.

    ``x`` is a path, the bytes of a file, a binary file object, a 1-D array or tensor of samples, a dict
    ``{"array" or "raw", "sampling_rate"}`` whose array may be (channels, samples) or ``{"bytes", "path"}`` as datasets
    gives it, a row with such a dict under "audio", a pair (array, rate) or (rate, array), a segment of pydub, an
    AudioDecoder of datasets or torchcodec, or a ``Source``. ``sampling_rate`` (Hz) is that of bare arrays and of
    nothing else; without it they are taken as ``target_rate``, with a note. Integer PCM (int8, uint8, int16, int32) is
    scaled to [-1, 1].

    ``channel`` is "mean" (the default), the number of a channel from 0, or "max": the channel with the greatest energy
    in the first million values that are not silence (12 s of stereo at 44.1 kHz). What a damaged or cut file lacks, and
    what is behind samples of a file that are not finite, is lost with a note; with ``on_damage="error"`` it raises.

    Raises ValueError for another ``channel`` or ``on_damage``, AudioError for anything that is no audio or has no
    such channel, and for more than ``max_duration`` seconds of it: at once where all
    will be read and the header tells the length, else on reaching them.
    """
    checked_channel(channel)
    source = as_source(x, sampling_rate, target_rate)
    if source.channel is not None:
        channel = source.channel
    read = SECONDS_PER_BLOCK if max_samples is None else seconds_read(max_samples, target_rate)
    decoded, findings = _decoded(source, max_duration, read, max_samples is None, on_damage)
    return _stream(decoded, findings, channel, target_rate, max_duration, read, keep=source.rate is None)


def open_channels(
    x: Any,
    sampling_rate: float | None = None,
    target_rate: int = DEFAULT_RATE,
    max_duration: float = MAX_DURATION,
    max_samples: int | None = None,
    on_damage: str = "warn",
) -> list[AudioStream]:
    """One input -> a stream for each of its channels, as ``open_audio`` gives it for one.

    It is decoded once: what one stream has walked is held until the others have, so walk them side by side. They share
    ``notes``.
    """
    source = as_source(x, sampling_rate, target_rate)
    read = SECONDS_PER_BLOCK if max_samples is None else seconds_read(max_samples, target_rate)
    decoded, findings = _decoded(source, max_duration, read, max_samples is None, on_damage)
    with only_audio_errors(source.name):
        first = next(decoded.blocks, None)
    if first is None:
        raise AudioError(f"{source.name}: no samples in it", kind="empty")
    shared = itertools.tee(itertools.chain([first], decoded.blocks), first.shape[1])
    keep = source.rate is None
    return [
        _stream(replace(decoded, blocks=blocks), findings, channel, target_rate, max_duration, read, keep)
        for channel, blocks in enumerate(shared)
    ]


def _decoded(
    source: Source, max_duration: float, seconds_per_block: float, decode_all: bool, on_damage: str
) -> tuple[DecodedAudio, Findings]:
    findings = Findings(source.name, list(source.notes), strict=checked_damage(on_damage) == "error")
    with only_audio_errors(source.name):
        decoded = source.open(findings, seconds_per_block)
    checked_rate(decoded.rate, source.name)
    if decode_all and decoded.duration is not None and decoded.duration > max_duration:
        raise too_long(source.name, decoded.duration, max_duration, known=True)
    return decoded, findings


def _stream(
    decoded: DecodedAudio,
    findings: Findings,
    channel: Channel,
    target_rate: int,
    max_duration: float,
    read: float,
    keep: bool,
) -> AudioStream:
    """``read``: seconds that are decoded at a time; shorter audio is resampled as a whole."""
    rate, name = checked_rate(decoded.rate, findings.name), findings.name
    mono = to_mono(decoded.blocks, rate, channel, max_duration, findings, keep)
    is_short = decoded.duration is not None and decoded.duration <= read
    waves = resampled(mono, rate, target_rate, name, may_be_one=is_short)
    return AudioStream(name, target_rate, decoded.duration, waves, findings.notes)


def checked_duration(max_duration: float) -> float:
    """``max_duration``. Raises ValueError if it is no positive number of seconds."""
    if not (is_number(max_duration) and max_duration > 0):
        raise ValueError(f"max_duration is {max_duration!r}: it must be a positive number of seconds")
    return max_duration


def checked_damage(on_damage: str) -> str:
    """``on_damage``. Raises ValueError if it is none of DAMAGE."""
    if on_damage not in DAMAGE:
        raise ValueError(f"on_damage is {on_damage!r}: it must be 'warn' or 'error'")
    return on_damage


@contextlib.contextmanager
def only_audio_errors(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises into an AudioError that names the input."""
    try:
        yield
    except AstfastError:
        raise
    except Exception as error:
        raise not_readable(name, error) from error


def as_source(x: Any, sampling_rate: float | None, target_rate: int) -> Source:
    """An input of any kind as a source at its native rate. Raises AudioError for another object, and one that is given,
    of an input that was refused before."""
    if isinstance(x, AudioError):
        raise x
    checked_rate(target_rate, "target_rate")
    return x if isinstance(x, Source) else recognised(x, sampling_rate, target_rate)
