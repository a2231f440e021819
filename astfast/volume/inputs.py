"""An input that is being read: its windows, a slice at a time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.audio.inputs import only_audio_errors, open_audio, open_channels
from astfast.audio.prefetch import Part, ReadOptions
from astfast.audio.windows import Window, windows
from astfast.errors import AudioError
from astfast.spans import ignored_tail
from astfast.volume.items import Item
from astfast.volume.records import Row
from astfast.volume.remote import Remote

SLICE = 16  # windows of one input in a row


class Input:
    """An item that is being read, and what is known of it so far."""

    def __init__(self, number: int, item: Item) -> None:
        self.number = number  # in the order of the list
        self.item = item
        self.rows: list[Row] = []
        self.arrays: list[Any] = []  # (window, scores, embedding) of each window
        self.seconds = 0.0  # of audio that was heard
        self.duration = 0.0  # seconds of the file
        self.cut = False  # whether it goes on after what was heard
        self.warnings: list[str] = []
        self.error: AudioError | None = None

    def windows(self, options: ReadOptions) -> Iterator[Window]:
        """The windows that the model is to hear; raises AudioError where the input goes bad."""
        audio = self.item.audio
        if isinstance(audio, AudioError):
            raise audio
        if isinstance(audio, Remote):
            audio = audio.fetch()
        wanted = options.samples if options.window is None else None
        shared = audio, options.sampling_rate, options.rate, options.max_duration, wanted
        with contextlib.ExitStack() as opened:
            if options.channel == "each":
                streams = open_channels(*shared, options.on_damage)
            else:
                streams = [open_audio(*shared, options.channel, options.on_damage)]
            for stream in streams:
                opened.enter_context(contextlib.closing(stream.blocks))
            self.duration = streams[0].duration or 0.0
            first = self.item.start or 0.0
            for channel, window in _in_turns([self._windows_of(stream.blocks, options) for stream in streams]):
                self.seconds = max(self.seconds, window.end)
                self.duration = max(self.duration, first + window.end)
                number = channel if options.channel == "each" else None
                yield Window(first + window.start, first + window.end, window.wave, number)
        self.warnings += dict.fromkeys(note.message for note in streams[0].notes)

    def _windows_of(self, blocks: Iterator[NDArray[np.float32]], options: ReadOptions) -> Iterator[Window]:
        if self.item.start is not None or self.item.end is not None:
            blocks = _part(blocks, options.rate, self.item.start or 0.0, self.item.end, self.item.file)
        if options.window is None:
            return self._beginning(blocks, options)
        return windows(blocks, options.rate, options.window, options.hop)

    def _beginning(self, blocks: Iterable[NDArray[np.float32]], options: ReadOptions) -> Iterator[Window]:
        parts: list[NDArray[np.float32]] = []
        length = 0
        for block in blocks:
            parts.append(block)
            length += len(block)
            if length > options.samples + ignored_tail(options.rate):
                self.cut = True
                break
        wave = np.concatenate(parts)[: options.samples]
        yield Window(0.0, len(wave) / options.rate, wave)


def _in_turns(channels: Sequence[Iterator[Window]]) -> Iterator[tuple[int, Window]]:
    """(channel, window): the first window of each channel, then the second, …"""
    left = dict(enumerate(channels))
    while left:
        for channel, of_channel in list(left.items()):
            window = next(of_channel, None)
            if window is None:
                del left[channel]
            else:
                yield channel, window


def _part(
    blocks: Iterable[NDArray[np.float32]], rate: int, start: float, end: float | None, name: str
) -> Iterator[NDArray[np.float32]]:
    """The samples from ``start`` to ``end`` seconds. Raises AudioError if the audio ends before its start."""
    first, last = round(start * rate), None if end is None else round(end * rate)
    if last is not None and last <= first:
        raise AudioError(
            f"{name}: the part from start {start:.12g} s to end {end:.12g} s has no sample: make it longer"
        )
    at = 0
    for block in blocks:
        begin, at = at, at + len(block)
        kept = block[max(0, first - begin) : None if last is None else max(0, last - begin)]
        if len(kept):
            yield kept
        if last is not None and at >= last:
            return
    if at <= first:
        raise AudioError(f"{name}: ends after {at / rate:.2f} s, and the part to tag starts at {start:.2f} s")


class Stream:
    """An input whose windows are taken a slice at a time, with a look ahead that tells its last one."""

    def __init__(self, input_: Input, options: ReadOptions, skip: int = 0) -> None:
        """``skip``: windows that were taken of it before, by a process that has ended."""
        self.input = input_
        self.taken = skip  # windows so far
        self._windows = itertools.islice(input_.windows(options), skip, None) if skip else input_.windows(options)
        self._next: list[Window] = []

    @property
    def is_new(self) -> bool:
        """Whether nothing was read of it yet."""
        return not self.taken

    def advance(self, stopped: Callable[[], bool]) -> tuple[list[Part], bool]:
        """The next windows, and whether they were the last; fewer once ``stopped``, when nobody wants them."""
        name = self.input.item.file
        try:
            with only_audio_errors(name), np.errstate(all="ignore"):
                wanted = itertools.islice(self._windows, SLICE + 1 - len(self._next))
                found = [*self._next, *itertools.takewhile(lambda _: not stopped(), wanted)]
        except AudioError as error:
            return [Part(self.input.number, _named(error, name), True)], True
        is_last = len(found) <= SLICE
        self._next = found[SLICE:]
        self.taken += min(len(found), SLICE)
        number, last = self.input.number, len(found) - 1 if is_last else SLICE
        return [Part(number, window, i == last) for i, window in enumerate(found[:SLICE])], is_last


def _named(error: AudioError, name: str) -> AudioError:
    """The error of an input, bytes and arrays by its name; without a traceback, which would keep its file open."""
    message = str(error)
    return AudioError(f"{name}: {message.split('>: ', 1)[-1]}" if message.startswith("<") else message, kind=error.kind)
