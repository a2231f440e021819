"""A run whose inputs are tagged by actors of a Ray cluster; listing, journal and outputs stay with the driver.

The driver hands out chunks of inputs, two to a worker, so that one is decoded while the model is the other's. A chunk
whose worker dies is done again in halves, each alone on a worker: an input that kills three in a row fails, and no
other is lost with it.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from astfast.engines.load import LoadArguments
from astfast.errors import AudioError, BackendError, brief
from astfast.integrations import ray_models
from astfast.integrations.ray_models import Sent
from astfast.integrations.ray_worker import About, Share, Tagged, Worker, shares
from astfast.volume import run
from astfast.volume.inputs import Input
from astfast.volume.items import Item
from astfast.volume.journal import Journal
from astfast.volume.options import Options
from astfast.volume.progress import Progress
from astfast.volume.reading import AHEAD_IN_ORDER, ITEM_BYTES, LISTED_BYTES
from astfast.volume.run import Events

CHUNK = 64  # inputs that a worker gets at a time, fewer towards the end
CHUNK_BYTES = 16 << 20  # of the audio that they bring along, after which a chunk is full
AT_A_TIME = 2  # chunks of a worker
DEATHS = 3  # of workers, one after the other, that an input or the start of a worker may cost
POLL = 0.1  # seconds
CONNECTING = 10.0  # seconds that the head of a cluster may take to answer
STARTING = 300.0  # seconds that the first worker may take to start


class Chunk(NamedTuple):
    """Inputs in a row of the list."""

    first: int  # number of the first
    items: list[Item]
    deaths: int = 0  # of workers that had it

    def halves(self) -> list[Chunk]:
        """It in two, or as it is if it is a single input."""
        middle = (len(self.items) + 1) // 2
        parts = (Chunk(self.first, self.items[:middle]), Chunk(self.first + middle, self.items[middle:]))
        return [part._replace(deaths=self.deaths) for part in parts if part.items]


class Listing:
    """The items of a run, listed ahead on a thread, in bounded memory."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._waiting: deque[Item] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = self._stopped = False
        self.taken = 0
        threading.Thread(target=self._list, args=(items,), name="astfast-list", daemon=True).start()

    @property
    def total(self) -> int:
        """Items that are listed so far."""
        return self.taken + len(self._waiting)

    @property
    def listed_all(self) -> bool:
        """Whether there are no more to come."""
        return self._ended

    def chunk(self, shares: int, patience: float) -> Chunk | None:
        """What waits, up to a chunk, and of the last a part in ``shares``; None if nothing came for ``patience``
        seconds. Raises what listing raised, once all before it is taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended, patience)
            limit = max(1, min(CHUNK, len(self._waiting) // shares)) if self._ended else CHUNK
            items: list[Item] = []
            audio = 0
            while self._waiting and len(items) < limit and audio < CHUNK_BYTES:
                items.append(self._waiting.popleft())
                self._bytes -= _size(items[-1])
                audio += _size(items[-1]) - ITEM_BYTES
            if not items and self._ended and self._error is not None:
                raise self._error
            self.taken += len(items)
            self._changed.notify_all()
            return Chunk(self.taken - len(items), items) if items else None

    def is_empty(self) -> bool:
        """Whether all items are taken, and there are no more to come."""
        with self._changed:
            return self._ended and not self._waiting and self._error is None

    def stop(self) -> None:
        """Lists no further."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _list(self, items: Iterable[Item]) -> None:
        try:
            for item in items:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped or self._bytes < LISTED_BYTES)
                    if self._stopped:
                        return
                    self._waiting.append(item)
                    self._bytes += _size(item)
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()


def _size(item: Item) -> int:
    return ITEM_BYTES + (len(item.audio) if isinstance(item.audio, bytes) else 0)


class Seat:
    """A worker as the driver sees it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.about: About | None = None  # None while it starts, or starts again
        self.failed_starts = 0
        self.chunks: list[Chunk] = []  # that it has

    @property
    def has_room(self) -> bool:
        """Whether it may have one more chunk; one that workers died of is alone."""
        return self.about is not None and (
            not self.chunks or (len(self.chunks) < AT_A_TIME and not self.chunks[0].deaths)
        )


class _Reading:
    """``progress.Reading`` of a cluster."""

    def __init__(self, listing: Listing, seats: list[Seat]) -> None:
        self._listing, self._seats = listing, seats
        self._start = time.perf_counter()
        self.decoding = self.computing = 0.0

    total = property(lambda self: self._listing.total)
    listed_all = property(lambda self: self._listing.listed_all)

    @property
    def decoders(self) -> int:
        return sum(seat.about.decoders for seat in self._seats if seat.about is not None)

    @property
    def model_idle(self) -> float:
        return max(0.0, time.perf_counter() - self._start - self.computing / max(1, len(self._seats)))


class Actor:
    """A ``Worker`` that is made by the first call, whose error then reaches the driver as it is."""

    def __init__(self, sent: Sent, options: Options, share: Share) -> None:
        self._arguments = (sent, options, share)
        self._lock = threading.Lock()
        self._worker: Worker | None = None

    def about(self) -> About:
        return self._made().about

    def tag(self, items: list[Item]) -> Tagged:
        return self._made().tag(items)

    def _made(self) -> Worker:
        with self._lock:
            if self._worker is None:
                self._worker = Worker(*self._arguments)
            return self._worker


class Cluster:
    """Workers of a Ray cluster, as ``volume.workers.Workers``; ``ray.init`` comes before.

    - ``arguments``: of the model; ``count``: of workers; ``share``: of each.

    Raises BackendError where no worker can start, and what loading the model raises.
    """

    def __init__(self, arguments: LoadArguments, options: Options, count: int, share: Share) -> None:
        import ray

        self._in_order, self._max_failures = options.order, options.max_failures
        self._passed_on = 0  # inputs, in order
        sent = self._sent = ray_models.send(arguments)  # kept, for workers that start later
        actor = ray.remote(Actor).options(
            num_cpus=share.num_cpus,
            num_gpus=share.num_gpus,
            memory=share.memory + 2 * sent.bytes,
            max_concurrency=AT_A_TIME + 1,
            max_restarts=-1,
        )
        of_workers = options._replace(shard=None, max_failures=None)
        self.seats = [Seat(actor.remote(sent, of_workers, share)) for _ in range(count)]
        self._calls: dict[Any, tuple[Seat, Chunk | None]] = {}  # that are on; None: one for ``about``
        for seat in self.seats:
            self._start(seat)
        about = self._first()
        self.labels, self.sampling_rate, self.backend = about.labels, about.sampling_rate, about.backend
        self.hardware = f"{count} x {about.hardware}"

    def events(self, items: Iterable[Item], progress: Progress, journal: Journal | None = None) -> Events:
        listing = Listing(run.new(items, progress, journal))
        reading = progress.reader = _Reading(listing, self.seats)
        try:
            found = self._done(listing, reading)
            for input_ in self._ordered(found) if self._in_order else (input_ for _, done in found for input_ in done):
                yield from ((input_, row) for row in input_.rows)
                progress.add(input_)
                yield input_, None
                run.check_failures(self._max_failures, progress, input_)
        finally:
            listing.stop()

    def _ordered(self, found: Iterable[tuple[Chunk, list[Input]]]) -> Iterator[Input]:
        """The inputs in the order of the list."""
        held: dict[int, list[Input]] = {}
        for chunk, done in found:
            held[chunk.first] = done
            while next_ones := held.pop(self._passed_on, None):
                self._passed_on += len(next_ones)
                yield from next_ones

    def close(self) -> None:
        """Ends the workers."""
        import ray

        for seat in self.seats:
            ray.kill(seat.actor)

    # --- starting ------------------------------------------------------------------------------------------------

    def _start(self, seat: Seat) -> None:
        seat.about = None
        self._calls[seat.actor.about.options(max_task_retries=-1).remote()] = (seat, None)

    def _first(self) -> About:
        """What the first worker to start is."""
        import ray

        end = time.monotonic() + STARTING
        while time.monotonic() < end:
            for _ in self._results(POLL):
                pass
            started = [seat.about for seat in self.seats if seat.about is not None]
            if started:
                return started[0]
        raise BackendError(
            f"ray: no worker could start in {STARTING:.0f} s: ask for less for each, or free some of the cluster's "
            f"resources, of which these are left: {ray.available_resources()}"
        )

    # --- running -------------------------------------------------------------------------------------------------

    def _done(self, listing: Listing, reading: _Reading) -> Iterator[tuple[Chunk, list[Input]]]:
        """Chunks and their inputs, done or failed, as they come."""
        again: deque[Chunk] = deque()  # that workers died of
        handed_out = 0
        while again or handed_out or not listing.is_empty():
            idle = self._hand_out(listing, again, POLL if not handed_out else 0.0)
            for chunk, tagged in self._results(POLL if idle else None):
                if tagged is not None:
                    reading.decoding += tagged.decoding
                    reading.computing += tagged.computing
                    yield chunk, tagged.inputs
                elif len(chunk.items) == 1 and chunk.deaths >= DEATHS:
                    yield chunk, [_killer(chunk)]
                else:
                    again.extend(chunk.halves())
            handed_out = sum(len(seat.chunks) for seat in self.seats)

    def _hand_out(self, listing: Listing, again: deque[Chunk], patience: float) -> bool:
        """Gives workers what they can take; whether one of them could take more if it were listed."""
        while seats := [seat for seat in self.seats if seat.has_room]:
            seat = min(seats, key=lambda seat: len(seat.chunks))
            if again and not seat.chunks:
                chunk: Chunk | None = again.popleft()
            elif again or (self._in_order and listing.taken - self._passed_on >= AHEAD_IN_ORDER):
                return False
            else:
                chunk = listing.chunk(2 * len(self.seats), patience)
            if chunk is None:
                return not listing.is_empty()
            patience = 0.0
            seat.chunks.append(chunk)
            self._calls[seat.actor.tag.remote(chunk.items)] = (seat, chunk)
        return False

    def _results(self, patience: float | None) -> Iterator[tuple[Chunk, Tagged | None]]:
        """Chunks that workers are through with, None for those that they died of; waits until there is one, or for
        ``patience`` seconds. Workers that have started, or died, are told apart on the way."""
        import ray

        if not self._calls:
            raise BackendError("ray: all workers died as they started: see the logs of the cluster")
        ready, _ = ray.wait(list(self._calls), timeout=patience)
        for call in ready:
            seat, chunk = self._calls.pop(call)
            try:
                result = ray.get(call)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, Exception) else error) from None
            except ray.exceptions.RayError:
                result = None
            if chunk is not None:
                seat.chunks.remove(chunk)
                if result is None and seat.about is not None:
                    self._start(seat)
                yield (chunk, result) if result is not None else (chunk._replace(deaths=chunk.deaths + 1), None)
            elif result is not None:
                seat.about, seat.failed_starts = result, 0
            else:
                seat.failed_starts += 1
                if seat.failed_starts < DEATHS:
                    self._start(seat)


def _killer(chunk: Chunk) -> Input:
    """The input of a chunk of one, failed."""
    item = chunk.items[0]
    failed = Input(chunk.first, item._replace(audio=None))
    failed.error = AudioError(
        f"{item.file}: {DEATHS} workers died of it, one after the other: look at it by itself", kind="killed"
    )
    return failed


@contextmanager
def workers(
    address: str, arguments: LoadArguments, options: Options, count: int | None, cpus: int | None, gpus: float | None
) -> Iterator[Cluster]:
    """Workers of the cluster at an address of ``ray.init``, or with "local" of one on this machine; ended afterwards.

    ``count``: how many; None: one for each GPU, or without any one for each node. ``cpus``, ``gpus``: of each; None:
    its part of the node's processors, and a GPU if there are any.

    Raises BackendError where Ray is not installed or no cluster answers, and what ``Cluster`` raises.
    """
    try:
        import ray
    except ImportError as error:
        raise BackendError(f"ray: the package is missing ({error}): pip install 'astfast[ray]'") from error
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except Exception as error:  # of several kinds
        raise BackendError(
            f"ray={address!r}: no cluster answers there ({brief(str(error))}): check the address"
        ) from error
    try:
        cluster = Cluster(arguments, options, *shares(count, cpus, gpus))
        try:
            yield cluster
        finally:
            cluster.close()
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError for a host and port that nothing listens at, which ``ray.init`` finds out in minutes."""
    if match := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address):
        socket.create_connection((match[1], int(match[2])), CONNECTING).close()
