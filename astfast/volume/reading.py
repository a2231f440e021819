"""Items -> batches of windows: listed, decoded and handed to the model at the same time, in bounded memory.

Decoder threads take turns between the inputs that are open: a slice of each. So a day-long recording goes through the
model beside short ones, and holds none of them up.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator

from astfast.audio.inputs import as_source
from astfast.audio.prefetch import Part, ReadOptions
from astfast.errors import AudioError
from astfast.volume.decoders import Decoder, InThread, Slice
from astfast.volume.inputs import SLICE, Input, Stream
from astfast.volume.items import Item
from astfast.volume.remote import Remote

OPEN_INPUTS = 16  # that are decoded in turns; more only where each decoder has its own
LISTED_BYTES = 64 << 20  # of items that wait for a decoder, with the audio that they hold
ITEM_BYTES = 1_000  # about what an item takes beside its audio
PATIENCE = 0.1  # seconds that the model waits for a batch to fill up, if something is there for it
CLOSING = 1.0  # seconds that threads have to come to their end
AHEAD_IN_ORDER = 10_000  # inputs that may be done before the one whose turn it is


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


class Reader:
    """The batches of windows of some items, read ahead by ``decoders`` threads, or ``processes``.

    ``batch_size``: windows in a batch; ``in_order``: whether no input may be done long before those listed earlier.
    """

    def __init__(
        self,
        items: Iterable[Item],
        options: ReadOptions,
        decoders: int,
        batch_size: int,
        in_order: bool = False,
        processes: bool = False,
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
        self._broken: BaseException | None = None  # why nothing can be decoded any more
        self._stopped = False
        lock = threading.Lock()
        self._may_list, self._may_decode, self._may_run = (threading.Condition(lock) for _ in range(3))
        self._waiting: deque[Item] = deque()
        self._waiting_bytes = 0
        self._turns: deque[Stream] = deque()
        self._decoders = self._made(decoders, processes)
        self._most_open = max(OPEN_INPUTS, sum(decoder.depth for decoder in self._decoders))
        self._open = 0  # inputs that a decoder is at, or that wait for their turn
        self._balance = 0  # windows of inputs that went on, less those of new ones; they share the model alike
        self._ready: deque[Part] = deque()
        atexit.register(self.close)  # of an interpreter: no thread may decode while it is taken apart
        threads = [threading.Thread(target=self._list, args=(items,), name="astfast-list", daemon=True)]
        threads += [
            threading.Thread(target=self._decode, args=(decoder,), name=f"astfast-decode-{i}", daemon=True)
            for i, decoder in enumerate(self._decoders)
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
            if self._broken is not None:
                raise self._broken
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
        for decoder in self._decoders:
            decoder.stop()
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

    def _made(self, decoders: int, processes: bool) -> list[Decoder]:
        if not processes:
            return [InThread(lambda: self._stopped) for _ in range(decoders)]
        from astfast.volume.processes import InProcess  # which most runs don't need

        return [InProcess(self._options, lambda: self._stopped) for _ in range(decoders)]

    def _decode(self, decoder: Decoder) -> None:
        try:
            while True:
                while decoder.waiting < decoder.depth and (stream := self._next_turn(decoder)) is not None:
                    decoder.begin(stream)
                if not decoder.waiting:
                    return
                self._took(decoder.take())
        except BaseException as error:
            with self._may_run:
                self._broken = error
                self._stopped = True
                for condition in (self._may_list, self._may_decode, self._may_run):
                    condition.notify_all()
        finally:
            decoder.close()

    def _took(self, found: Slice) -> None:
        count = len(found.parts)
        with self._may_decode:
            self._balance += -count if found.is_first else count
            self._balance = max(-SLICE, min(self._balance, SLICE))
            self.decoding += found.seconds
            self._ready.extend(found.parts)
            if found.is_last:
                self._open -= 1
            else:
                self._turns.append(found.stream)
            self._may_run.notify()
            self._may_decode.notify_all()

    def _next_turn(self, decoder: Decoder) -> Stream | None:
        """The input whose turn it is: a new one and one that is open by turns; None at the end, and where there is none
        yet for a decoder that has another one."""
        with self._may_decode:
            if not decoder.waiting:
                self._may_decode.wait_for(lambda: self._at_end() or self._has_turn(decoder))
            if self._at_end() or not self._has_turn(decoder):
                return None
            turn = self._turn_of(decoder)
            if self._may_open() and (self._balance >= 0 or turn is None):
                item = self._waiting.popleft()
                self._waiting_bytes -= ITEM_BYTES + (len(item.audio) if isinstance(item.audio, bytes) else 0)
                input_ = self.inputs[self._begun] = Input(self._begun, item)
                self._begun += 1
                self._open += 1
                self._may_list.notify()
                return Stream(input_, self._options)
            assert turn is not None
            self._turns.remove(turn)
            return turn

    def _has_turn(self, decoder: Decoder) -> bool:
        return self._has_room() and (self._may_open() or self._turn_of(decoder) is not None)

    def _turn_of(self, decoder: Decoder) -> Stream | None:
        """The open input that waited longest, of those that a decoder can go on with."""
        return next((stream for stream in self._turns if decoder.owns(stream)), None)

    def _has_room(self) -> bool:
        return len(self._ready) < 2 * self._size

    def _may_open(self) -> bool:
        ahead = self._begun - self._first_open
        return bool(self._waiting) and self._open < self._most_open and not (self._in_order and ahead >= AHEAD_IN_ORDER)
