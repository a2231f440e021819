"""Every kind of audio input -> mono float32 at the model's rate.

``open_audio`` gives a stream of blocks, so that a day-long file is never held whole; ``load_audio`` collects its first
samples. Streams depend on no global state: any number of threads may open inputs of their own.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from astfast.audio.descriptors import name_of_file
from astfast.audio.files import VALUES_PER_BLOCK, DecodedAudio, open_decoder, open_file
from astfast.errors import AudioError
from astfast.notes import Note
from astfast.pcm import INT16_FULL_SCALE
from astfast.spans import ignored_tail

FloatArray = NDArray[np.float32]
One: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Mapping[str, Any]"
Many: TypeAlias = "list[Any] | tuple[Any, ...] | Generator[Any, Any, Any]"  # an array or tensor may be one or many

DEFAULT_RATE = 16_000  # Hz, of ``load_audio`` and ``open_audio`` without a model
LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000  # Hz
MAX_CHANNELS = 32  # of an array: more are samples and channels mixed up
MAX_DURATION = 24 * 3600.0  # seconds
SUSPICIOUS_PEAK = 16.0  # that no recording in [-1, 1] reaches, headroom and all
MAX_ABS_SAMPLE = 1e12  # far above any 32-bit integer; its square is still finite in float32
INTEGER_PCM = {"uint8": (128, 128.0), "int8": (0, 128.0), "int16": (0, INT16_FULL_SCALE), "int32": (0, 2147483648.0)}


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
) -> Clip:
    """One input -> its first ``max_samples`` samples at ``target_rate``, or all; no more of a file is decoded.

    With ``int16`` a 1-D NumPy array of that type and rate stays as it is. The other arguments and errors are those of
    ``open_audio``.
    """
    if int16 and isinstance(x, np.ndarray) and x.dtype == np.int16 and x.ndim == 1 and len(x) > 0:
        rate, notes = rate_of_array(sampling_rate, target_rate, "<array>")
        if rate == target_rate and len(x) <= max_duration * rate:
            wave = x[:max_samples]
            truncated = len(x) - len(wave) > ignored_tail(rate)
            return Clip(wave, truncated, len(x) / rate, "<array>", tuple(notes))
    stream = open_audio(x, sampling_rate, target_rate, max_duration, decode_all=max_samples is None)
    parts: list[FloatArray] = []
    length = 0
    truncated = False
    with contextlib.closing(stream.blocks):
        for block in stream.blocks:
            parts.append(block)
            length += len(block)
            if max_samples is not None and length > max_samples + ignored_tail(target_rate):
                truncated = True
                break
    wave = np.concatenate(parts)[:max_samples]
    duration = stream.duration if truncated else length / target_rate
    return Clip(wave, truncated, duration, stream.name, tuple(stream.notes))


def open_audio(
    x: Any,
    sampling_rate: float | None = None,
    target_rate: int = DEFAULT_RATE,
    max_duration: float = MAX_DURATION,
    decode_all: bool = True,
) -> AudioStream:
    """One input -> a stream of mono float32 blocks at ``target_rate``, resampled by soxr (HQ) where need be.

    ``x`` is a path, the bytes of a file, a binary file object, a 1-D array or tensor of samples, a dict
    ``{"array" or "raw", "sampling_rate"}`` whose array may be (channels, samples), or an AudioDecoder of datasets or
    torchcodec. ``sampling_rate`` (Hz) is that of bare arrays and of nothing else; without it they are taken as
    ``target_rate``, with a note. Integer PCM (int8, uint8, int16, int32) is scaled to [-1, 1], channels are averaged.

    Raises AudioError for anything that is no audio, and for more than ``max_duration`` seconds of it: at once when
    ``decode_all`` says that everything will be decoded and the header tells the length, else on reaching them.
    """
    checked_rate(target_rate, "target_rate")
    notes: list[Note] = []
    source, name = _open(x, sampling_rate, target_rate, notes)
    rate = checked_rate(source.rate, name)
    if decode_all and source.duration is not None and source.duration > max_duration:
        raise _too_long(name, source.duration, max_duration)
    mono = _mono(source.blocks, rate, name, max_duration, notes)
    return AudioStream(name, target_rate, source.duration, _resampled(mono, rate, target_rate, name), notes)


def expand_batch(x: Any) -> tuple[list[Any], bool]:
    """What a caller passed -> (list of inputs, whether it was one input).

    A list, tuple or other iterable is a batch of inputs, a bare 2-D array or tensor a batch of clips; a path, bytes,
    file object, dict, decoder or 1-D array is one input. Raises AudioError for a 2-D array that is (samples, channels).
    """
    if _is_array(x):
        if len(x.shape) != 2:
            return [x], True
        rows, columns = x.shape
        if rows > MAX_CHANNELS >= columns:
            raise AudioError(
                f"an array of shape {tuple(x.shape)} looks like (samples, channels), but a bare 2-D array is a batch "
                f"of clips: pass {{'array': x.T, 'sampling_rate': ...}} for one clip of {columns} channels"
            )
        return list(x), False
    if is_one(x) or not isinstance(x, Iterable):
        return [x], True
    return list(x), False


def is_one(x: Any) -> bool:
    """Whether this is one input by its kind: a path, bytes, a dict, a file object or a decoder. Arrays are either."""
    kinds = (str, bytes, bytearray, memoryview, os.PathLike, Mapping)
    return isinstance(x, kinds) or hasattr(x, "read") or hasattr(x, "get_all_samples")


def _is_array(x: Any) -> bool:
    """A numpy array, or a tensor of any library: what has a shape and converts to numpy. A class is neither."""
    return hasattr(x, "shape") and hasattr(x, "__array__") and not isinstance(x, type)


def _open(x: Any, sampling_rate: float | None, target_rate: int, notes: list[Note]) -> tuple[DecodedAudio, str]:
    """The input with its native rate and channels, and its name."""
    name = name_of_file(x)
    if name is not None:
        return open_file(x, name, notes), name
    if hasattr(x, "get_all_samples"):
        return open_decoder(x, "<audio decoder>"), "<audio decoder>"
    if isinstance(x, Mapping):
        return _open_dict(x)
    if _is_array(x):
        name = "<array>"
        samples = to_numpy(x, name)
        if samples.ndim == 2:
            raise AudioError(
                f"{name}: shape {samples.shape}: one clip is 1-D; pass {{'array': x, 'sampling_rate': ...}} for "
                "(channels, samples)"
            )
        rate, of_rate = rate_of_array(sampling_rate, target_rate, name)
        notes += of_rate
        return _open_array(samples, rate, name), name
    hint = " (samples go into a NumPy array)" if isinstance(x, int | float | complex | list | tuple) else ""
    raise AudioError(
        f"<{type(x).__name__}>: not an audio input{hint}: pass a path, the bytes of a file, a binary file object, a "
        "1-D array, or a dict with 'array' and 'sampling_rate'"
    )


def _open_dict(x: Mapping[str, Any]) -> tuple[DecodedAudio, str]:
    path = x.get("path")
    name = path if isinstance(path, str) and path else "<dict>"
    key = next((key for key in ("array", "raw") if x.get(key) is not None), None)
    if key is None or x.get("sampling_rate") is None:
        keys = ", ".join(map(repr, x)) or "nothing"
        raise AudioError(f"{name}: a dict needs 'array' (or 'raw') and 'sampling_rate', this one has {keys}")
    samples = to_numpy(x[key], name)
    if samples.ndim == 2 and len(samples) > MAX_CHANNELS:
        raise AudioError(
            f"{name}: shape {samples.shape} means {len(samples)} channels: the array is (channels, samples), "
            "transpose it"
        )
    return _open_array(samples, x["sampling_rate"], name), name


def _open_array(samples: NDArray[Any], rate: Any, name: str) -> DecodedAudio:
    """[samples] or [channels, samples] of a PCM type -> blocks [samples, channels] in [-1, 1]."""
    if samples.ndim not in (1, 2):
        raise AudioError(
            f"{name}: {samples.ndim}-D array of shape {samples.shape}: a clip is 1-D, or 2-D (channels, samples) in a "
            "dict"
        )
    if 0 in samples.shape:
        raise AudioError(f"{name}: no samples in it (shape {samples.shape})")
    if samples.dtype.kind != "f" and samples.dtype.name not in INTEGER_PCM:
        raise AudioError(
            f"{name}: samples of type {samples.dtype}: convert them to float32 in [-1, 1], or to int16 or int32 PCM"
        )
    checked = checked_rate(rate, name)
    frames = np.atleast_2d(samples).T  # [samples, channels]
    size = max(1, VALUES_PER_BLOCK // frames.shape[1])
    starts = range(0, len(frames), size)
    return DecodedAudio(checked, len(frames) / checked, (_scaled(frames[start : start + size]) for start in starts))


def to_numpy(x: Any, name: str) -> NDArray[Any]:
    """An array, a tensor of any library and device, or a list as a NumPy array. Raises AudioError naming ``name``."""
    try:
        if hasattr(x, "detach"):  # torch, without importing it
            x = x.detach().cpu()
            x = x.float() if str(x.dtype) == "torch.bfloat16" else x
        return np.asarray(x)
    except Exception as error:  # each library has its own exceptions
        raise AudioError(f"{name}: can't be made a NumPy array ({error})") from error


def _scaled(block: NDArray[Any]) -> FloatArray:
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what overflows float32 is refused as not finite
            return block.astype(np.float32)
    offset, scale = INTEGER_PCM[block.dtype.name]
    scaled: FloatArray = (block.astype(np.float32) - np.float32(offset)) / np.float32(scale)
    return scaled


def rate_of_array(sampling_rate: float | None, assumed: int, name: str) -> tuple[int, tuple[Note, ...]]:
    """Rate in Hz of a bare array that came with this ``sampling_rate``; without one ``assumed``, and a note."""
    if sampling_rate is not None:
        return checked_rate(sampling_rate, name), ()
    note = Note(
        f"an array came without sampling_rate and is taken as {assumed} Hz: pass sampling_rate=, or a dict "
        "{'array', 'sampling_rate'}",
        once=True,
    )
    return assumed, (note,)


def checked_rate(rate: Any, name: str) -> int:
    """A sampling rate in Hz as an int. Raises AudioError naming ``name`` for an impossible one."""
    try:
        if isinstance(rate, bool | str | bytes):
            raise TypeError
        value = float(rate)
        whole = math.isfinite(value) and value == int(value)
    except (TypeError, ValueError):
        raise AudioError(f"{name}: sampling_rate {rate!r} is not a number: give it in Hz") from None
    if not whole or not LOWEST_RATE <= value <= HIGHEST_RATE:
        raise AudioError(
            f"{name}: a sampling rate of {rate!r} Hz is not possible: it is a whole number from {LOWEST_RATE} to "
            f"{HIGHEST_RATE}"
        )
    return int(value)


def _mono(
    blocks: Iterator[FloatArray], rate: int, name: str, max_duration: float, notes: list[Note]
) -> Generator[FloatArray, None, None]:
    """Blocks [samples, channels] -> blocks [samples]: averaged and checked."""
    done = 0
    suspicious = False
    for block in blocks:
        wave = mean_of_channels(block)
        peak = max(float(wave.max()), -float(wave.min()))
        if not peak <= MAX_ABS_SAMPLE:
            where = (done + int(np.argmin(np.abs(wave) <= MAX_ABS_SAMPLE))) / rate
            raise not_finite(name, f"at {where:.3f} s")
        if peak > SUSPICIOUS_PEAK and not suspicious:
            suspicious = True
            notes.append(
                Note(
                    f"{name}: a peak of {peak:.4g}, though float samples lie in [-1, 1]: integer samples in a float "
                    "array? Pass them as int16 or int32, or divide them"
                )
            )
        done += len(wave)
        if done > max_duration * rate:
            raise _too_long(name, done / rate, max_duration)
        yield wave
    if not done:
        raise AudioError(f"{name}: no samples in it")


def mean_of_channels(block: FloatArray) -> FloatArray:
    """[samples, channels] -> [samples]. Added column by column in float32: a fraction of the time of ``block.mean``."""
    if block.shape[1] == 1:
        return block[:, 0]
    wave: FloatArray = block[:, 0].copy()
    with np.errstate(all="ignore"):  # what overflows is refused as not finite
        for channel in range(1, block.shape[1]):
            wave += block[:, channel]
        wave /= np.float32(block.shape[1])
    return wave


def _resampled(
    blocks: Generator[FloatArray, None, None], rate: int, target_rate: int, name: str
) -> Generator[FloatArray, None, None]:
    """Blocks at ``rate`` -> the same audio at ``target_rate``, at least one sample of it.

    soxr's streaming gives the very samples that resampling the whole clip would, whatever the sizes of the blocks.
    """
    with contextlib.closing(blocks):
        if rate == target_rate:
            yield from blocks
            return
        resampler = _resampler(rate, target_rate, name)
        last = np.zeros(1, np.float32)
        made = 0
        for block in blocks:
            last = block
            resampled = resampler.resample_chunk(np.ascontiguousarray(block))
            made += len(resampled)
            if len(resampled):
                yield resampled
        resampled = resampler.resample_chunk(last[:0], last=True)
        if len(resampled):
            yield resampled
        elif not made:  # a few samples at a high rate
            yield last.mean(keepdims=True)


def _resampler(rate: int, target_rate: int, name: str) -> Any:
    try:
        import soxr
    except ImportError as error:
        raise AudioError(
            f"{name}: {rate} Hz must be resampled to {target_rate} Hz, which needs the package soxr ({error}): "
            "pip install soxr"
        ) from error
    return soxr.ResampleStream(rate, target_rate, 1, dtype="float32", quality="HQ")


def _too_long(name: str, duration: float, max_duration: float) -> AudioError:
    return AudioError(
        f"{name}: {duration:,.0f} s of audio or more, above the limit of {max_duration:,.0f} s: split it, or raise "
        "max_duration"
    )


def not_finite(name: str, where: str) -> AudioError:
    """The error for samples that are NaN, infinite or beyond MAX_ABS_SAMPLE."""
    return AudioError(
        f"{name}: not finite, or beyond any audio, {where}: find out where NaN, infinity or huge samples come from"
    )
