"""Inputs to windows of samples, read ahead of the model on other threads."""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from astfast.audio.inputs import Clip, load_audio, open_audio
from astfast.audio.windows import Window, window_samples, windows
from astfast.errors import AudioError

THREADS = 2  # that decode: files take a few milliseconds each, a hundredth of the model's time
AHEAD = 32  # inputs at most that are being read or wait for the model


@dataclass(frozen=True)
class Reading:
    """What of each input is read: its beginning, or all of it in windows.

    Raises ValueError for a window or hop that is not a positive number of seconds.
    """

    rate: int  # Hz, of the model
    samples: int  # that fill the model's input
    sampling_rate: float | None = None  # Hz, of bare arrays
    window: float | None = None  # seconds; None for the beginning only
    hop: float | None = None  # seconds; None for windows side by side
    int16: bool = False  # whether the model takes such samples as they are

    def __post_init__(self) -> None:
        if self.window is not None:
            window_samples(self.rate, self.window, self.hop)
        elif self.hop is not None:
            raise ValueError(f"hop is {self.hop!r} without a window: pass window= too, in seconds")


def read(inputs: Iterable[Any], reading: Reading) -> Iterator[tuple[int, Window | AudioError]]:
    """(index of the input, one of its windows) in order; a bad input ends with its AudioError, the others go on."""
    items = _in_windows(inputs, reading) if reading.window is not None else _beginnings(inputs, reading)
    for index, window in items:
        if isinstance(window, AudioError) and str(window).startswith("<"):  # an array or bytes: no name of its own
            window.args = (f"input {index}, {window}",)
        yield index, window


def _beginnings(inputs: Iterable[Any], reading: Reading) -> Iterator[tuple[int, Window | AudioError]]:
    """The beginning of each input; says so, once, where an input goes on."""
    warned = False
    for index, clip in enumerate(_clips(inputs, reading)):
        if isinstance(clip, AudioError):
            yield index, clip
            continue
        seconds = len(clip.wave) / reading.rate
        if clip.truncated and not warned:
            warned = True
            warn_of_rest(clip.name, clip.duration, seconds)
        yield index, Window(0.0, seconds, clip.wave)


def warn_of_rest(name: str, duration: float | None, heard: float) -> None:
    """Says that an input of ``duration`` seconds (None: not known) is heard for its first ``heard`` seconds only."""
    length = "longer" if duration is None else f"{duration:.1f} s long"
    warnings.warn(
        f"{name} is {length} and only its first {heard:.2f} s are heard: pass window= (in seconds) to classify(), or "
        "call segments(), to tag all of it. Of other inputs of this call it goes without saying",
        stacklevel=3,
    )


def _clips(inputs: Iterable[Any], reading: Reading) -> Iterator[Clip | AudioError]:
    """Clips in order, read ahead on other threads."""
    ahead: deque[Future[Clip]] = deque()
    load = partial(load_audio, int16=reading.int16)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="astfast-read") as pool:
        try:
            for x in inputs:
                ahead.append(pool.submit(load, x, reading.sampling_rate, reading.rate, reading.samples))
                if len(ahead) == AHEAD:
                    yield _result(ahead.popleft())
            while ahead:
                yield _result(ahead.popleft())
        finally:
            for future in ahead:
                future.cancel()


def _result(future: Future[Clip]) -> Clip | AudioError:
    try:
        return future.result()
    except AudioError as error:
        return error


def _in_windows(inputs: Iterable[Any], reading: Reading) -> Iterator[tuple[int, Window | AudioError]]:
    assert reading.window is not None
    for index, x in enumerate(inputs):
        try:
            stream = open_audio(x, reading.sampling_rate, reading.rate)
            with contextlib.closing(stream.blocks):
                for window in windows(stream.blocks, reading.rate, reading.window, reading.hop):
                    yield index, window
        except AudioError as error:
            yield index, error
