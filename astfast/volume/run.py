"""A run: items in, records out, by the one loop of ``tagging.pipeline``; listing, decoding and writing beside it."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from astfast.audio.prefetch import ReadOptions
from astfast.engines.base import Batch
from astfast.errors import AstfastError, AudioError
from astfast.tagging.pipeline import Failed, run_batches
from astfast.volume.detections import Merge, merged
from astfast.volume.inputs import Input
from astfast.volume.items import Item, digest
from astfast.volume.journal import Journal
from astfast.volume.progress import Progress
from astfast.volume.reading import Reader
from astfast.volume.records import Record, Row
from astfast.volume.scoring import Values

WRITE_AHEAD = 1_000  # records that wait for the disk, at most


class TooManyFailures(AstfastError):
    """More inputs of a run have failed than were allowed."""


Event = tuple[Input, Row | None]  # a row of an input, or None once it is done or has failed
Events = Generator[Event, None, None]


class Plan(NamedTuple):
    """What a run does with its items."""

    read: ReadOptions
    scoring: Callable[[Batch], Iterable[Values]]
    batch_size: int
    decoders: int
    merge: Merge | None = None
    in_order: bool = False
    max_failures: int | None = None
    processes: bool = False  # that decode, not threads
    keep_rows: bool = True  # until an input is done; a caller that takes them one by one needs no second time


def events(items: Iterable[Item], plan: Plan, progress: Progress, journal: Journal | None = None) -> Events:
    """The rows of all inputs as they come, each input ended by None; in the order of the list if the plan says so.

    Inputs that the journal holds are left out, and those whose id was listed before. Raises TooManyFailures once more
    inputs than the plan allows have failed, and what listing raises.
    """
    listed = new(items, progress, journal)
    reader = Reader(listed, plan.read, plan.decoders, plan.batch_size, plan.in_order, plan.processes)
    progress.reader = reader
    found = _events(plan, reader, progress)
    try:
        yield from _in_order(found) if plan.in_order else found
    finally:
        reader.close()


def new(items: Iterable[Item], progress: Progress, journal: Journal | None) -> Iterator[Item]:
    """The items that are to be tagged, with the stamps that a journal tells them by."""
    listed: dict[bytes, int | None] = {}
    for listed_item in items:
        item, name, content = listed_item, digest(listed_item.id), _content(listed_item)
        if listed.get(name, content) != content:
            item = _of_another(item)
            name, content = digest(item.id), None
        if name in listed:
            progress.repeated += 1
            continue
        listed[name] = content
        if journal is None:
            yield item
            continue
        stamped = item.stamped()
        if journal.holds(stamped):
            progress.skipped += 1
        else:
            progress.failed_before -= name in journal.failed_before  # it has changed since
            yield stamped


def _content(item: Item) -> int | None:
    """What two items with the same id must agree in; None if that follows from the id."""
    return None if item.id == item.file else hash((item.file, item.start, item.end))


def _of_another(item: Item) -> Item:
    """The failure of an item whose id another one has."""
    part = "" if item.start is None and item.end is None else f" from {item.start or 0:g} s"
    error = AudioError(f"{item.file}: its id {item.id} was given to another input before: give each its own")
    return item._replace(id=f"{item.id} ({item.file}{part})", audio=error, stamp="")


def _events(plan: Plan, reader: Reader, progress: Progress) -> Iterator[Event]:
    for result in run_batches(reader.batches(), plan.scoring):
        input_ = reader.inputs[result.index]
        if isinstance(result, Failed):
            input_.error = result.error
        else:
            values, window = result.value, result.window
            row = Row(window.start, window.end, values.tags, window.channel)
            if values.scores is not None or values.embedding is not None:
                input_.arrays.append((window, values.scores, values.embedding))
            if plan.keep_rows or plan.merge is not None:
                input_.rows.append(row)
            if plan.merge is None:
                yield input_, row
        if isinstance(result, Failed) or result.is_last:
            reader.finished(result.index)
            if plan.merge is not None:
                input_.rows = merged(input_.rows, plan.merge) if input_.error is None else []
                yield from ((input_, row) for row in input_.rows)
            progress.add(input_)
            yield input_, None
            check_failures(plan.max_failures, progress, input_)


def check_failures(allowed: int | None, progress: Progress, last: Input) -> None:
    """Raises TooManyFailures once more inputs have failed."""
    failed = sum(progress.failed.values())
    if allowed is not None and failed > allowed:
        raise TooManyFailures(
            f"stopped: {failed} input{'s' * (failed != 1)} failed, more than the {allowed} allowed; the last one: "
            f"{last.error}"
        )


def _in_order(found: Iterable[Event]) -> Iterator[Event]:
    """The same events, those of each input together and in the order of the list."""
    held: dict[int, list[Event]] = {}
    turn = 0
    for input_, row in found:
        held.setdefault(input_.number, []).append((input_, row))
        while turn in held:
            yield from held[turn]
            if held[turn] and held[turn][-1][1] is None:
                del held[turn]
                turn += 1
            else:
                held[turn] = []
                break


def record_of(done: Input) -> Record:
    """What the journal keeps of an input."""
    item = done.item
    shared = (item.id, item.file, item.stamp or "", item.columns)
    if done.error is not None:
        return Record(*shared, [], error=str(done.error), kind=done.error.kind, path=item.path, part=item.part)
    windows = [(window.start, window.end, window.channel) for window, _, _ in done.arrays]
    scores, embeddings = (
        np.stack([values[field] for values in done.arrays])
        if done.arrays and done.arrays[0][field] is not None
        else None
        for field in (1, 2)
    )
    return Record(
        *shared,
        done.rows,
        seconds=done.seconds,
        duration=done.duration,
        warnings=done.warnings,
        windows=windows,
        scores=scores,
        embeddings=embeddings,
        path=item.path,
        part=item.part,
    )


class Writer:
    """Adds records to a journal on a thread of its own; an error there is raised by the next ``add`` or ``close``."""

    def __init__(self, journal: Journal, progress: Progress) -> None:
        self._journal, self._progress = journal, progress
        self._queue: queue.Queue[Input | None] = queue.Queue(WRITE_AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="astfast-write", daemon=True)
        self._thread.start()

    def add(self, done: Input) -> None:
        """Hands over an input that is done."""
        if self._error is not None:
            raise self._error
        start = time.perf_counter()
        self._queue.put(done)
        self._progress.waiting_to_write += time.perf_counter() - start

    def close(self) -> None:
        """Waits until all records are written."""
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        while (done := self._queue.get()) is not None:
            if self._error is None:  # after one, nothing is written any more, and nobody waits
                try:
                    self._journal.add(record_of(done))
                except BaseException as error:
                    self._error = error


def into(
    journal: Journal,
    found: Events,
    progress: Progress,
    on_file: Callable[[Input], Any],
    about: dict[str, Any],
) -> None:
    """A run into an output folder, to its end or to the exception that ends it; what is done is on the disk then.

    ``found``: its events; ``on_file``: called with each input that is done; ``about``: what run.json says beside the
    counts.
    """
    finished = False
    writer = Writer(journal, progress)
    try:
        try:
            with contextlib.closing(found):
                for input_, row in found:
                    if row is None:
                        writer.add(input_)
                        on_file(input_)
            finished = True
        finally:
            writer.close()
            journal.close(finished, {**about, "finished": finished, **progress.report()})
    finally:
        journal.release()
