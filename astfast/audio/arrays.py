"""Arrays and tensors of samples -> blocks of float32: the rules for their shapes, types and sampling rates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.audio.parts import samples_per_block
from astfast.errors import AudioError
from astfast.notes import Note
from astfast.pcm import INT16_FULL_SCALE
from astfast.resampling import Rates

FloatArray = NDArray[np.float32]
LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000  # Hz
MAX_CHANNELS = 32  # of any array; of more, each channel must have SAMPLES_PER_CHANNEL times as many samples
SAMPLES_PER_CHANNEL = 100
INTEGER_PCM = {"uint8": (128, 128.0), "int8": (0, 128.0), "int16": (0, INT16_FULL_SCALE), "int32": (0, 2147483648.0)}


def is_array(x: Any) -> bool:
    """A NumPy array, or a tensor of any library: what has a shape and converts to NumPy. A class is neither."""
    return hasattr(type(x), "shape") and hasattr(type(x), "__array__")


def to_numpy(x: Any, name: str) -> NDArray[Any]:
    """An array, a tensor of any library and device, or a list as a NumPy array. Raises AudioError naming ``name``."""
    if hasattr(x, "filled") and np.any(x.mask):
        raise AudioError(f"{name}: a masked array: pass x.filled(0), or the samples that count")
    try:
        if hasattr(x, "detach"):  # torch, without importing it
            x = x.detach().cpu()
            x = x.float() if str(x.dtype).startswith(("torch.bfloat16", "torch.float8")) else x
        array = np.asarray(x)
        return np.array(array.tolist()) if array.dtype.kind == "O" else array  # Python's numbers, in an array
    except Exception as error:  # each library has its own exceptions
        raise AudioError(f"{name}: can't be made a NumPy array ({error})") from error


def clip_samples(x: Any, name: str) -> NDArray[Any]:
    """One clip: [samples], or [channels, samples] of a dict, of floats or integer PCM, at least one sample."""
    samples = to_numpy(x, name)
    if samples.ndim not in (1, 2):
        raise AudioError(
            f"{name}: {samples.ndim}-D array of shape {samples.shape}: a clip is 1-D, or 2-D (channels, samples) in a "
            "dict {'array', 'sampling_rate'}; a batch of such clips is a list of dicts"
        )
    if 0 in samples.shape:
        raise AudioError(f"{name}: no samples in it (shape {samples.shape})", kind="empty")
    if samples.dtype.kind != "f" and samples.dtype.name not in INTEGER_PCM:
        raise AudioError(
            f"{name}: samples of type {samples.dtype}: convert them to float32 in [-1, 1], or to int16 or int32 PCM"
        )
    if samples.ndim == 2 and not _channels_first(*samples.shape):
        raise AudioError(
            f"{name}: shape {samples.shape} means {len(samples)} channels: the array is (channels, samples), "
            "transpose it"
        )
    return samples


def of_longer_axis(samples: NDArray[Any], name: str) -> NDArray[Any]:
    """(channels, samples) as torchaudio and librosa give it, or (samples, channels) as soundfile, scipy and gradio do,
    as (channels, samples); raises AudioError where the shape fits neither or both."""
    if samples.ndim != 2:
        return samples
    rows, columns = samples.shape
    if (rows < columns) != (rows > columns) and _channels_first(min(rows, columns), max(rows, columns)):
        return samples if rows < columns else samples.T
    raise AudioError(
        f"{name}: shape {samples.shape} may be (channels, samples) or (samples, channels): pass {{'array': x, "
        "'sampling_rate': ...}} with (channels, samples)"
    )


def blocks_of(samples: NDArray[Any], rate: int) -> Iterator[FloatArray]:
    """[samples] or [channels, samples] of a PCM type at ``rate`` Hz -> blocks [samples, channels] in [-1, 1].

    None is a view.
    """
    frames = np.atleast_2d(samples).T  # [samples, channels]
    size = samples_per_block(rate, frames.shape[1])
    return (_scaled(frames[start : start + size]) for start in range(0, len(frames), size))


def _channels_first(channels: int, samples: int) -> bool:
    return channels <= MAX_CHANNELS or channels * SAMPLES_PER_CHANNEL <= samples


def _scaled(block: NDArray[Any]) -> FloatArray:
    if block.dtype.kind == "f":
        with np.errstate(over="ignore", under="ignore"):  # what overflows float32 is refused as not finite
            return block.astype(np.float32)
    offset, scale = INTEGER_PCM[block.dtype.name]
    scaled: FloatArray = (block.astype(np.float32) - np.float32(offset)) / np.float32(scale)
    return scaled


def rate_of_array(sampling_rate: float | None, assumed: int, name: str) -> tuple[int, tuple[Note, ...]]:
    """Rate in Hz of a bare array that came with this ``sampling_rate``; without one ``assumed``, and a note. Raises
    AudioError where the models have several."""
    if sampling_rate is not None:
        return checked_rate(sampling_rate, name), ()
    if isinstance(assumed, Rates):
        rates = " and ".join(map(str, assumed.each))
        raise AudioError(
            f"{name}: an array came without sampling_rate, and the models are at {rates} Hz: pass sampling_rate=, or a "
            "dict {'array', 'sampling_rate'}"
        )
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
    except Exception:  # a tensor's own, an integer beyond any float
        raise AudioError(f"{name}: sampling_rate {shortened(rate)} is not a number: give it in Hz") from None
    if not whole or not LOWEST_RATE <= value <= HIGHEST_RATE:
        raise AudioError(
            f"{name}: a sampling rate of {shortened(rate)} Hz is not possible: it is a whole number from "
            f"{LOWEST_RATE} to {HIGHEST_RATE}"
        )
    return int(value)


def shortened(value: Any) -> str:
    """The repr of a value for a message, or its type where that is long or fails."""
    try:
        text = repr(value)
    except Exception:  # of whoever wrote the type; an integer of 5,000 digits
        text = ""
    return text if 0 < len(text) <= 80 else f"<{type(value).__name__}>"
