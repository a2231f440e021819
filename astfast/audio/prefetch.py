"""Audio inputs -> windows of samples, decoded ahead of the model on other threads."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from astfast import notes
from astfast.audio.inputs import Clip, checked_rate, load_audio, open_audio
from astfast.audio.windows import Window, window_samples, windows
from astfast.errors import AudioError
from astfast.notes import Note

DECODE_THREADS = 2  # a file takes a few milliseconds, a hundredth of the model's time
PREFETCH = 32  # inputs at most that are being decoded or wait for the model


@dataclass(frozen=True)
class ReadOptions:
    """What of each input is read: its beginning, or all of it in windows.

    Raises ValueError for a window or hop that is not a number of seconds or shorter than a frame, AudioError (a
    ValueError) for an impossible sampling rate.
    """

    rate: int  # Hz, of the model
    samples: int  # that fill the model's input
    sampling_rate: float | None = None  # Hz, of bare arrays
    window: float | None = None  # seconds; None for the beginning only
    hop: float | None = None  # seconds; None for windows side by side
    int16: bool = False  # whether the model takes such samples as they are

    def __post_init__(self) -> None:
        if self.sampling_rate is not None:
            checked_rate(self.sampling_rate, "sampling_rate")
        if self.window is not None:
            window_samples(self.rate, self.window, self.hop)
        elif self.hop is not None:
            raise ValueError(f"hop is {self.hop!r} without a window: pass window= too, in seconds")


def iter_windows(inputs: Iterable[Any], options: ReadOptions) -> Iterator[tuple[int, Window | AudioError]]:
    """(index of the input, one of its windows) in order; a bad input ends with its AudioError, the others go on.

    Notes on the inputs are shown on the thread that iterates.
    """
    items = _in_windows(inputs, options) if options.window is not None else _first_window_of_each(inputs, options)
    for index, window in items:
        if isinstance(window, AudioError) and str(window).startswith("<"):  # an array or bytes: no name of its own
            window.args = (f"input {index}, {window}",)
        yield index, window


def truncated(name: str, duration: float | None, used: float) -> Note:
    """The note on an input of ``duration`` seconds (None: unknown) of which only the first ``used`` are read."""
    length = "longer" if duration is None else f"{duration:.1f} s long"
    return Note(
        f"{name} is {length} and only its first {used:.2f} s are used: pass window= (in seconds) to "
        "tag all of it (shown once per call)"
    )


def _first_window_of_each(inputs: Iterable[Any], options: ReadOptions) -> Iterator[tuple[int, Window | AudioError]]:
    warned = False
    for index, clip in enumerate(_clips(inputs, options)):
        if isinstance(clip, AudioError):
            yield index, clip
            continue
        for note in clip.notes:
            notes.show(note)
        seconds = len(clip.wave) / options.rate
        if clip.truncated and not warned:
            warned = True
            notes.show(truncated(clip.name, clip.duration, seconds))
        yield index, Window(0.0, seconds, clip.wave)


def _clips(inputs: Iterable[Any], options: ReadOptions) -> Iterator[Clip | AudioError]:
    """Clips in order, decoded ahead on other threads."""
    ahead: deque[Future[Clip]] = deque()
    load = partial(load_audio, int16=options.int16)
    with ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="astfast-decode") as pool:
        try:
            for x in inputs:
                ahead.append(pool.submit(load, x, options.sampling_rate, options.rate, options.samples))
                if len(ahead) == PREFETCH:
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


def _in_windows(inputs: Iterable[Any], options: ReadOptions) -> Iterator[tuple[int, Window | AudioError]]:
    assert options.window is not None
    for index, x in enumerate(inputs):
        shown = 0
        try:
            stream = open_audio(x, options.sampling_rate, options.rate)
            with contextlib.closing(stream.blocks):
                for window in windows(stream.blocks, options.rate, options.window, options.hop):
                    for note in stream.notes[shown:]:
                        notes.show(note)
                    shown = len(stream.notes)
                    yield index, window
        except AudioError as error:
            yield index, error
