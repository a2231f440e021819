"""Audio inputs -> windows of samples, decoded ahead of the model on other threads."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from astfast import notes
from astfast.audio.arrays import checked_rate
from astfast.audio.inputs import (
    MAX_DURATION,
    Clip,
    as_source,
    checked_damage,
    checked_duration,
    load_audio,
    only_audio_errors,
    open_audio,
)
from astfast.audio.kinds import Source
from astfast.audio.mono import Channel, Channels, checked_channel
from astfast.audio.windows import Window, window_samples, windows
from astfast.errors import AudioError
from astfast.notes import Note

DECODE_THREADS = 2  # a file takes a few milliseconds, a hundredth of the model's time
AHEAD = 32  # inputs at most that are being decoded or wait for the model

Load: TypeAlias = Callable[[], "Clip | AudioError"]
Submit: TypeAlias = Callable[[Load], Load]


@dataclass(frozen=True)
class ReadOptions:
    """What of each input is read: its beginning, or all of it in windows.

    Raises ValueError for a window or hop that is not a number of seconds or shorter than a frame, and for another
    ``channel``, ``on_damage`` or ``max_duration``; AudioError (a ValueError) for an impossible sampling rate.
    """

    rate: int  # Hz, of the model
    samples: int  # that fill the model's input
    sampling_rate: float | None = None  # Hz, of bare arrays
    window: float | None = None  # seconds; None for the beginning only
    hop: float | None = None  # seconds; None for windows side by side
    int16: bool = False  # whether the model takes such samples as they are
    ahead: int = AHEAD  # inputs that are taken before the first one is handed on
    prefetch: int | None = None  # inputs that are taken before the first result; None: ``ahead`` and a full batch
    channel: Channels = "mean"  # or "max", a channel's number, or "each", see ``channels.EachChannel``
    on_damage: str = "warn"  # or "error"
    max_duration: float = MAX_DURATION  # seconds of an input; a longer one is refused

    def __post_init__(self) -> None:
        checked_duration(self.max_duration)
        if self.channel != "each":
            checked_channel(self.channel, each=True)
        checked_damage(self.on_damage)
        if self.sampling_rate is not None:
            checked_rate(self.sampling_rate, "sampling_rate")
        if self.window is not None:
            window_samples(self.rate, self.window, self.hop)
        elif self.hop is not None:
            raise ValueError(f"hop is {self.hop!r} without a window: pass window= too, in seconds")

    @property
    def one_channel(self) -> Channel:
        """What is read of a source that names no channel; with "each", every source names one."""
        return "mean" if self.channel == "each" else self.channel


class Part(NamedTuple):
    """A window of an input, or the error with which it ends."""

    input: int  # its index
    window: Window | AudioError
    is_last: bool  # of its input


def iter_windows(inputs: Iterable[Any], options: ReadOptions) -> Iterator[Part]:
    """The windows of all inputs in order; a bad input ends with its AudioError, the others go on.

    Inputs are recognised, copied as far as they may change, and warned of on the thread that iterates. What was taken
    of them before they raise an exception comes out before it.
    """
    parts = _in_windows(inputs, options) if options.window is not None else _first_window_of_each(inputs, options)
    for part in parts:
        if isinstance(part.window, AudioError) and str(part.window).startswith("<"):  # it has no name of its own
            part.window.args = (f"input {part.input}, {part.window}",)
        yield part


def truncated(name: str, duration: float | None, used: float) -> Note:
    """The note on an input of ``duration`` seconds (None: unknown) of which only the first ``used`` are read."""
    length = "longer" if duration is None else f"{duration:.1f} s long"
    return Note(
        f"{name} is {length} and only its first {used:.2f} s are used: pass window= (in seconds) to tag all of it",
        kind=f"truncated to {used:.2f} s",
    )


def _first_window_of_each(inputs: Iterable[Any], options: ReadOptions) -> Iterator[Part]:
    for index, clip in enumerate(_clips(inputs, options)):
        if isinstance(clip, AudioError):
            yield Part(index, clip, True)
            continue
        for note in clip.notes:
            notes.show(note)
        seconds = len(clip.wave) / options.rate
        if clip.truncated:
            notes.show(truncated(clip.name, clip.duration, seconds))
        yield Part(index, Window(0.0, seconds, clip.wave), True)


def _clips(inputs: Iterable[Any], options: ReadOptions) -> Iterator[Clip | AudioError]:
    """Clips in order, decoded ahead on other threads.

    The input that the model waits for, an array at the model's rate and a decoder are decoded on the caller's thread:
    a single input starts no thread.
    """
    ahead: deque[Load] = deque()
    iterator = iter(inputs)
    failed: BaseException | None = None
    with contextlib.ExitStack() as stack:
        submit: Submit | None = None
        while failed is None:
            try:
                x = next(iterator)
            except StopIteration:
                break
            except (Exception, SystemExit) as error:  # of the caller's generator
                failed = error
                break
            taken = _taken(x, options)
            if not isinstance(taken, Source):
                ahead.append(partial(_as_it_is, taken))
            elif not ahead:
                ahead.append(partial(_loaded, taken, options))
            else:
                submit = submit or _decoder_threads(stack)
                ahead.append(submit(partial(_loaded, taken, options)))
            if len(ahead) >= options.ahead:
                yield ahead.popleft()()
        while ahead:
            yield ahead.popleft()()
    if failed is not None:
        raise failed


def _decoder_threads(stack: contextlib.ExitStack) -> Submit:
    """A function that starts a call on one of DECODE_THREADS, until the stack is left, and returns what waits for it.

    Once the interpreter exits no thread can be started: then the one that waits makes the call.
    """
    try:
        from concurrent.futures import ThreadPoolExecutor  # which takes a few milliseconds

        pool = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="astfast-decode")
    except RuntimeError:
        return lambda load: load
    stack.callback(pool.shutdown, cancel_futures=True)

    def submit(load: Load) -> Load:
        try:
            future = pool.submit(lambda: [load()])
        except RuntimeError:
            return load
        # Taken out of the future, which the traceback of an error leads to: in a circle they would keep the file open.
        return lambda: future.result().pop()

    return submit


def _as_it_is(loaded: Clip | AudioError) -> Clip | AudioError:
    return loaded


def _taken(x: Any, options: ReadOptions) -> Clip | AudioError | Source:
    """An input as a source that shares nothing with the caller, or decoded already where that is as cheap as a copy."""
    try:
        source = as_source(x, options.sampling_rate, options.rate)
    except AudioError as error:
        return error
    if source.rate == options.rate or hasattr(source.data, "get_all_samples"):
        return _loaded(source, options)
    return source.first(options.samples, options.rate).owned()


def _loaded(source: Source, options: ReadOptions) -> Clip | AudioError:
    try:
        return load_audio(
            source,
            None,
            options.rate,
            options.samples,
            options.max_duration,
            int16=options.int16,
            channel=options.one_channel,
            on_damage=options.on_damage,
        )
    except AudioError as error:
        return error


def _in_windows(inputs: Iterable[Any], options: ReadOptions) -> Iterator[Part]:
    """Windows are read when they are asked for, and all of an input before the next one is taken."""
    for index, x in enumerate(inputs):
        window: Window | None = None  # the last one, until it is known whether another follows
        for found in _windows_of(x, options):
            if window is not None:
                yield Part(index, window, False)
            if isinstance(found, AudioError):
                yield Part(index, found, True)
                window = None
            else:
                window = found
        if window is not None:
            yield Part(index, window, True)


def _windows_of(x: Any, options: ReadOptions) -> Iterator[Window | AudioError]:
    assert options.window is not None
    shown = 0
    try:
        stream = open_audio(
            x,
            options.sampling_rate,
            options.rate,
            options.max_duration,
            channel=options.one_channel,
            on_damage=options.on_damage,
        )
        with contextlib.closing(stream.blocks):
            found = windows(stream.blocks, options.rate, options.window, options.hop)
            while True:
                with only_audio_errors(stream.name), np.errstate(all="ignore"):
                    window = next(found, None)
                for note in stream.notes[shown:]:
                    notes.show(note)
                shown = len(stream.notes)
                if window is None:
                    return
                yield window
    except AudioError as error:
        yield error
