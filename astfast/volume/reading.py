"""Items -> batches of windows: listed, decoded and handed to the model at the same time, in bounded memory.

Decoder threads take turns between the inputs that are open: a slice of each. So a day-long recording goes through the
model beside short ones, and holds none of them up.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.audio.inputs import as_source, only_audio_errors, open_audio, open_channels
from astfast.audio.prefetch import Part, ReadOptions
from astfast.audio.windows import Window, windows
from astfast.errors import AudioError
from astfast.spans import ignored_tail
from astfast.volume.items import Item
from astfast.volume.records import Row
from astfast.volume.remote import Remote

OPEN_INPUTS = 16  # at most, that are decoded in turns
SLICE = 16  # windows of one input in a row
LISTED_BYTES = 64 << 20  # of items that wait for a decoder, with the audio that they hold
ITEM_BYTES = 1_000  # about what an item takes beside its audio
PATIENCE = 0.1  # seconds that the model waits for a batch to fill up, if something is there for it
CLOSING = 1.0  # seconds that threads have to come to their end
AHEAD_IN_ORDER = 10_000  # inputs that may be done before the one whose turn it is


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


def _owned(item: Item, options: ReadOptions) -> Item:
    """The item with audio that its maker can't change any more, as ``audio.prefetch`` takes it."""
    if isinstance(item.audio, str | bytes | Remote | AudioError):
        return item
    try:
        source = as_source(item.audio, options.sampling_rate, options.rate)
    except AudioError as error:
        return item._replace(audio=error)
    read_all = options.window is not None or item.start is not None or item.end is not None
    return item._replace(audio=(source if read_all else source.first(options.samples, options.rate)).owned())


class _Stream:
    """An input whose windows are taken a slice at a time, with a look ahead that tells its last one."""

    def __init__(self, input_: Input, options: ReadOptions) -> None:
        self.input = input_
        self._windows = input_.windows(options)
        self._next: list[Window] = []
        self._count = 0

    @property
    def is_new(self) -> bool:
        """Whether nothing was read of it yet."""
        return not self._count

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
        self._count += min(len(found), SLICE)
        number, last = self.input.number, len(found) - 1 if is_last else SLICE
        return [Part(number, window, i == last) for i, window in enumerate(found[:SLICE])], is_last


def _named(error: AudioError, name: str) -> AudioError:
    """The error of an input, bytes and arrays by its name; without a traceback, which would keep its file open."""
    message = str(error)
    return AudioError(f"{name}: {message.split('>: ', 1)[-1]}" if message.startswith("<") else message, kind=error.kind)


class Reader:
    """The batches of windows of some items, read ahead on ``decoders`` threads.

    ``batch_size``: windows in a batch; ``in_order``: whether no input may be done long before those listed earlier.
    """

    def __init__(
        self, items: Iterable[Item], options: ReadOptions, decoders: int, batch_size: int, in_order: bool = False
    ) -> None:
        self._options, self._size, self._in_order = options, batch_size, in_order
        self.inputs: dict[int, Input] = {}  # that were begun and not yet taken off by ``finished``
        self._begun = 0  # inputs that a decoder has taken
        self.listed_all = False
        self.decoders = decoders
        self.decoding = self.model_idle = 0.0  # seconds: of all decoders together, and that the model waited
        self._first_open = 0  # number of the first input that is not finished
        self._out_of_order: set[int] = set()  # finished before it
        self._error: BaseException | None = None  # of the listing
        self._stopped = False
        lock = threading.Lock()
        self._may_list, self._may_decode, self._may_run = (threading.Condition(lock) for _ in range(3))
        self._waiting: deque[Item] = deque()
        self._waiting_bytes = 0
        self._turns: deque[_Stream] = deque()
        self._open = 0  # inputs that a decoder is at, or that wait for their turn
        self._balance = 0  # windows of inputs that went on, less those of new ones; they share the model alike
        self._ready: deque[Part] = deque()
        atexit.register(self.close)  # of an interpreter: no thread may decode while it is taken apart
        threads = [threading.Thread(target=self._list, args=(items,), name="astfast-list", daemon=True)]
        threads += [
            threading.Thread(target=self._decode, name=f"astfast-decode-{i}", daemon=True) for i in range(decoders)
        ]
        self._threads = threads
        for thread in threads:
            thread.start()

    def batches(self) -> Iterator[list[Part]]:
        """Batches, full as long as decoding keeps up; a listing's error is raised once all before it is through."""
        while True:
            with self._may_run:
                start = time.perf_counter()
                self._may_run.wait_for(lambda: self._ready or self._at_end())
                if self._ready and not self._is_full():
                    self._may_run.wait_for(lambda: self._is_full() or self._at_end(), PATIENCE)
                self.model_idle += time.perf_counter() - start
                batch = [self._ready.popleft() for _ in range(min(self._size, len(self._ready)))]
                self._may_decode.notify_all()
            if not batch:
                if self._error is not None:
                    raise self._error
                return
            yield batch

    def finished(self, number: int) -> Input:
        """Takes an input off the list of those that are open."""
        with self._may_list:
            self._out_of_order.add(number)
            while self._first_open in self._out_of_order:
                self._out_of_order.remove(self._first_open)
                self._first_open += 1
            self._may_decode.notify_all()
            return self.inputs.pop(number)

    def close(self) -> None:
        """Stops the threads; what they are at is given up."""
        atexit.unregister(self.close)
        with self._may_list:
            self._stopped = True
            for condition in (self._may_list, self._may_decode, self._may_run):
                condition.notify_all()
        end = time.monotonic() + CLOSING
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    @property
    def total(self) -> int:
        """Inputs that are listed so far."""
        return self._begun + len(self._waiting)

    def _is_full(self) -> bool:
        return len(self._ready) >= self._size

    def _at_end(self) -> bool:
        return self._stopped or (self.listed_all and not self._waiting and not self._open)

    def _list(self, items: Iterable[Item]) -> None:
        try:
            for item in (_owned(item, self._options) for item in items):
                size = ITEM_BYTES + (len(item.audio) if isinstance(item.audio, bytes) else 0)
                with self._may_list:
                    self._may_list.wait_for(lambda: self._stopped or self._waiting_bytes < LISTED_BYTES)
                    if self._stopped:
                        return
                    self._waiting.append(item)
                    self._waiting_bytes += size
                    self._may_decode.notify()
        except BaseException as error:
            self._error = error
        finally:
            with self._may_list:
                self.listed_all = True
                self._may_decode.notify_all()
                self._may_run.notify_all()

    def _decode(self) -> None:
        while (stream := self._next_turn()) is not None:
            start = time.perf_counter()
            is_new = stream.is_new
            found, is_last = stream.advance(lambda: self._stopped)
            with self._may_decode:
                self._balance += -len(found) if is_new else len(found)
                self._balance = max(-SLICE, min(self._balance, SLICE))
                self.decoding += time.perf_counter() - start
                self._ready.extend(found)
                if is_last:
                    self._open -= 1
                else:
                    self._turns.append(stream)
                self._may_run.notify()
                self._may_decode.notify_all()

    def _next_turn(self) -> _Stream | None:
        """The input whose turn it is: a new one and one that is open by turns; None at the end."""
        with self._may_decode:
            self._may_decode.wait_for(
                lambda: self._at_end() or (self._has_room() and (self._turns or self._may_open()))
            )
            if self._at_end():
                return None
            if self._may_open() and (self._balance >= 0 or not self._turns):
                item = self._waiting.popleft()
                self._waiting_bytes -= ITEM_BYTES + (len(item.audio) if isinstance(item.audio, bytes) else 0)
                input_ = self.inputs[self._begun] = Input(self._begun, item)
                self._begun += 1
                self._open += 1
                self._may_list.notify()
                return _Stream(input_, self._options)
            return self._turns.popleft()

    def _has_room(self) -> bool:
        return len(self._ready) < 2 * self._size

    def _may_open(self) -> bool:
        ahead = self._begun - self._first_open
        return bool(self._waiting) and self._open < OPEN_INPUTS and not (self._in_order and ahead >= AHEAD_IN_ORDER)
