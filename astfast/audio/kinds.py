"""Kinds of input: what a caller passed -> sources that can be read later, on another thread.

A source shares no state with its caller: file objects are read here, on the thread of the call, and arrays are copied
as far as they will be needed. What happens to them afterwards, such as a buffer that is filled again, changes nothing.
"""

from __future__ import annotations

import array
import os
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np

from astfast import notes
from astfast.audio.arrays import (
    MAX_CHANNELS,
    blocks_of,
    checked_rate,
    clip_samples,
    is_array,
    of_longer_axis,
    rate_of_array,
    to_numpy,
)
from astfast.audio.descriptors import name_of_file, taken
from astfast.audio.files import DecodedAudio, open_decoder, open_file
from astfast.audio.parts import Findings
from astfast.audio.windows import is_number
from astfast.errors import AudioError
from astfast.notes import Note
from astfast.spans import ignored_tail

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterator, ValuesView
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray

Pair: TypeAlias = "tuple[NDArray[Any], float] | tuple[float, NDArray[Any]]"  # samples and their rate
One: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Mapping[str, Any] | Pair"
Many: TypeAlias = (  # an array or tensor may be one or many
    "list[Any] | tuple[Any, ...] | Iterator[Any] | AbstractSet[Any] | deque[Any] | ValuesView[Any]"
)

MARGIN = 0.25  # seconds beyond those that are read: more than the resampler looks ahead
ALIKE = 0.5  # correlation of two rows that are channels of one recording, not two recordings
COMPARED_LEAST, COMPARED = 1000, 1 << 17  # samples of two rows that are compared


class Source(NamedTuple):
    """One input, recognised."""

    name: str  # what messages call it
    data: Any  # a path, bytes or an open file; samples, [samples] or [channels, samples]; or an AudioDecoder
    rate: int | None = None  # Hz, of samples
    duration: float | None = None  # seconds, of samples
    notes: tuple[Note, ...] = ()  # what the caller should be warned of
    channel: int | None = None  # the one that is read, whatever else is asked for

    def first(self, samples: int, rate: int) -> Source:
        """The source with no more of an array than its first ``samples`` at ``rate`` need, and whether it goes on."""
        if self.rate is None:
            return self
        return self._replace(data=self.data[..., : samples_read(samples, rate, self.rate)])

    def owned(self) -> Source:
        """The source with its own copy of an array."""
        return self if self.rate is None else self._replace(data=self.data.copy())

    def open(self, findings: Findings, seconds: float) -> DecodedAudio:
        """The source with its native rate and channels, files in blocks of ``seconds`` at most; ``findings``
        gets what is odd about a file, also while blocks are walked. Raises AudioError for what is no audio file."""
        if self.rate is not None:
            return DecodedAudio(self.rate, self.duration, blocks_of(self.data, self.rate))
        if hasattr(self.data, "get_all_samples"):
            return open_decoder(self.data, self.name)
        return open_file(self.data, findings, seconds)


def samples_read(samples: int, rate: int, native_rate: int) -> int:
    """Samples of an array at ``native_rate`` that its first ``samples`` at ``rate``, and what tells whether more
    follow, are made of."""
    read = samples + ignored_tail(rate) + 1
    return read if native_rate == rate else int(seconds_read(samples, rate) * native_rate)


def seconds_read(samples: int, rate: int) -> float:
    """Seconds of any input that its first ``samples`` at ``rate``, and what tells whether more follow, are made of."""
    return (samples + ignored_tail(rate) + 1) / rate + MARGIN


def recognised(x: Any, sampling_rate: float | None, assumed_rate: int) -> Source:
    """One input of any kind as a source. Raises AudioError, which names it, for any other object.

    ``sampling_rate``: Hz, of bare arrays; without it they are taken as ``assumed_rate``, with a note.
    """
    try:
        return _recognised(x, sampling_rate, assumed_rate)
    except AudioError:
        raise
    except Exception as error:  # of whoever wrote its type
        raise not_readable(f"<{type(x).__name__}>", error) from error


def not_readable(name: str, error: Exception) -> AudioError:
    """The error for an input whose own methods, or whose decoder, raised another one."""
    reason = str(error) or type(error).__name__
    return AudioError(
        f"{name}: can't be read ({reason}): pass a path, the bytes of a file, or a NumPy array", kind="undecodable"
    )


def _recognised(x: Any, sampling_rate: float | None, assumed_rate: int) -> Source:
    if isinstance(x, Mapping):
        return _of_dict(x, sampling_rate, assumed_rate)
    if hasattr(x, "get_all_samples"):
        return Source("<audio decoder>", x)
    if hasattr(x, "get_array_of_samples"):  # pydub: interleaved
        samples = np.asarray(x.get_array_of_samples()).reshape(-1, x.channels)
        return _of_samples(samples.T, x.frame_rate, "<audio segment>")
    if (pair := _pair(x)) is not None:
        samples, rate = pair
        return _of_samples(of_longer_axis(to_numpy(samples, "<array>"), "<array>"), rate, "<array>")
    if is_array(x) or isinstance(x, array.array):
        return _of_bare_array(x, sampling_rate, assumed_rate)
    return _of_file(x)


def _of_file(x: Any) -> Source:
    """A path or bytes as they are, since they can't change; any other file as an open one."""
    name = name_of_file(x)
    if name is None:
        hint = " (samples go into a NumPy array)" if isinstance(x, int | float | complex | list | tuple) else ""
        raise AudioError(
            f"<{type(x).__name__}>: not an audio input{hint}: pass a path, the bytes of a file, a binary file object, "
            "a 1-D array, or a dict with 'array' and 'sampling_rate'"
        )
    return Source(name, x if isinstance(x, str | bytes | os.PathLike) else taken(x, name))


def _of_dict(x: Mapping[str, Any], sampling_rate: float | None, assumed_rate: int) -> Source:
    """{"array" or "raw", "sampling_rate"}, {"bytes", "path"} of datasets, or a whole row of it with an "audio"."""
    path = x.get("path")
    name = path if isinstance(path, str) and path else "<dict>"
    key = next((key for key in ("array", "raw") if x.get(key) is not None), None)
    if key is not None and x.get("sampling_rate") is not None:
        return _of_samples(x[key], x["sampling_rate"], name)
    content = x.get("bytes")
    if isinstance(content, str):
        raise AudioError(f"{name}: its 'bytes' are a string: pass the bytes of the file, or a name as 'path'")
    if key is None and content:
        return Source(path, taken(content, path)) if isinstance(path, str) and path else _of_file(content)
    if key is None and isinstance(path, str | os.PathLike):
        return _of_file(path)
    if key is None and {"bytes", "path"} & x.keys() and content is None and path is None:
        raise AudioError(f"{name}: its 'bytes' and 'path' are both empty: one of them must be there", kind="empty")
    inner = x.get("audio")
    if inner is not None and not (isinstance(inner, Mapping) and "audio" in inner):
        return recognised(inner, x.get("sampling_rate", sampling_rate), assumed_rate)
    keys = ", ".join(map(repr, x)) or "nothing"
    raise AudioError(
        f"{name}: a dict needs 'array' (or 'raw') and 'sampling_rate', or the 'bytes' or 'path' of a file, this one "
        f"has {keys}"
    )


def _of_bare_array(x: Any, sampling_rate: float | None, assumed_rate: int) -> Source:
    name = "<array>"
    samples = to_numpy(x, name)
    if samples.ndim == 2:
        raise AudioError(
            f"{name}: shape {samples.shape}: one clip is 1-D; pass {{'array': x, 'sampling_rate': ...}} for "
            "(channels, samples)"
        )
    samples = clip_samples(samples, name)
    rate, notes = rate_of_array(sampling_rate, assumed_rate, name)
    return Source(name, samples, rate, len(samples) / rate, notes)


def _of_samples(x: Any, rate: Any, name: str) -> Source:
    samples, checked = clip_samples(x, name), checked_rate(rate, name)
    return Source(name, samples, checked, samples.shape[-1] / checked)


def _pair(x: Any) -> tuple[Any, Any] | None:
    """(samples, rate) as soundfile, librosa and torchaudio give them, or (rate, samples) as scipy and gradio do."""
    if isinstance(x, tuple) and len(x) == 2:
        for samples, rate in (x, x[::-1]):
            if is_number(rate) and (is_array(samples) or isinstance(samples, list | array.array)):
                return samples, rate
    return None


def is_one(x: Any) -> bool:
    """Whether this is one input by its kind: a path, bytes, a dict, a file object, a decoder, an (array, rate) pair.
    Arrays are either."""
    kinds = (str, bytes, bytearray, memoryview, os.PathLike, Mapping, array.array)
    methods = ("read", "get_all_samples", "get_array_of_samples")
    return isinstance(x, kinds) or any(hasattr(x, method) for method in methods) or _pair(x) is not None


def expand_batch(x: Any) -> tuple[Iterable[Any], bool]:
    """What a caller passed -> (inputs, whether it was one input).

    A list, tuple or other iterable is a batch of inputs, as is an array, series or column of paths; a bare 2-D array
    or tensor is a batch of clips; a path, bytes, file object, dict, decoder, (array, rate) pair or 1-D array of
    samples is one input. Raises AudioError for a 2-D array that is one clip of several channels.
    """
    try:
        if getattr(x, "is_nested", False):  # a tensor of clips of different lengths
            return list(x.unbind()), False
        if is_array(x):
            return _expand_array(x)
        single = is_one(x) or not isinstance(x, Iterable)
    except AudioError:
        raise
    except Exception:  # of whoever wrote its type: ``recognised`` reports it
        single = True
    return ([x], True) if single else (x, False)


def _expand_array(x: Any) -> tuple[Iterable[Any], bool]:
    shape = tuple(x.shape)
    if len(shape) == 1 and not hasattr(x, "detach"):
        items = np.asarray(x)
        if items.dtype.kind in "OUT" and len(items) and not isinstance(items[0], Real):
            return items.tolist(), False
    if len(shape) != 2:
        return [x], True
    if shape[0] > MAX_CHANNELS >= shape[1]:
        raise AudioError(
            f"an array of shape {shape} looks like (samples, channels), but a bare 2-D array is a batch of clips: pass "
            f"{{'array': x.T, 'sampling_rate': ...}} for one clip of {shape[1]} channels"
        )
    check_two_rows(x)
    return list(x), False


def check_two_rows(x: Any) -> None:
    """A bare array of two rows may be a stereo clip, as torchaudio gives it, or a batch of two clips, which it is
    taken as: AudioError where the rows correlate, as those of two clips never do, else a warning."""
    if len(x) != 2 or x.shape[1] < COMPARED_LEAST:
        return
    left, right = to_numpy(x[:, :COMPARED], "<array>").astype(np.float64)
    with np.errstate(all="ignore"):
        left, right = left - left.mean(), right - right.mean()
        correlation = abs(left @ right) / np.sqrt((left @ left) * (right @ right))
    shape, cure = (
        tuple(x.shape),
        "pass {'array': x, 'sampling_rate': ...} for one stereo clip, or list(x) for two clips",
    )
    if correlation >= ALIKE:
        raise AudioError(
            f"an array of shape {shape} looks like the two channels of one clip (their correlation is "
            f"{correlation:.2f}), and a bare 2-D array is a batch of clips: {cure}"
        )
    notes.show(Note(f"an array of shape {shape} is taken as a batch of two clips: {cure}", once=True))
