"""The loop of tagging: inputs -> windows -> batches -> engine -> results.

``run`` is that loop; ``tags``, ``segments`` and ``rows`` differ in what they read of each input (``ReadOptions``), what
they ask of the engine, and what they make of its results. Batches reach across inputs, which are decoded ahead.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from astfast import notes
from astfast.audio.inputs import expand_batch, is_one
from astfast.audio.prefetch import ReadOptions, iter_windows
from astfast.audio.windows import Window
from astfast.engines.base import Batch, Engine
from astfast.errors import AudioError
from astfast.scores import aggregated
from astfast.tagging.gpu_batches import DeviceClips, device_clips
from astfast.tagging.tags import ErrorRecord, Segment, Tag, TagOptions

T = TypeVar("T")
Item = TypeVar("Item")
EngineCall = Callable[[Batch], Iterable[T]]  # a batch -> one result a clip


@dataclass(frozen=True)
class Scored(Generic[T]):
    """The engine's result for one window of an input."""

    index: int  # of the input
    window: Window  # without its samples
    value: T


@dataclass(frozen=True)
class Failed:
    """The error of an input that can't be used, or not to its end; it is the input's last."""

    index: int
    error: AudioError


def read_options(
    engine: Engine, sampling_rate: float | None, window: float | None = None, hop: float | None = None
) -> ReadOptions:
    """What to read of each input for this engine. Raises ValueError for an impossible window or hop."""
    return ReadOptions(engine.sampling_rate, engine.input_samples, sampling_rate, window, hop, engine.accepts_int16)


def inputs_of(engine: Engine, batch: Any, options: ReadOptions) -> tuple[Iterable[Any] | DeviceClips, bool]:
    """The inputs that a caller passed, for ``run``, and whether they were one input and not a batch."""
    on_device = device_clips(engine, batch, options)
    return (on_device, False) if on_device is not None else expand_batch(batch)


def check_stream(inputs: Any) -> Iterable[Any]:
    """What is to be streamed, if it is an iterable of inputs. Raises TypeError for one input."""
    if is_one(inputs) or not isinstance(inputs, Iterable) or getattr(inputs, "ndim", 2) < 2:
        raise TypeError(
            f"stream takes an iterable of inputs, not one {type(inputs).__name__}: pass [x], or classify(x)"
        )
    return inputs


def run(
    engine: Engine, inputs: Iterable[Any] | DeviceClips, options: ReadOptions, call: EngineCall[T]
) -> Iterator[Scored[T] | Failed]:
    """The results of all windows of all inputs, in order, in bounded memory."""
    if isinstance(inputs, DeviceClips):
        yield from _run_on_device(engine, inputs, call)
        return
    for batch in batched(iter_windows(inputs, options), engine.preferred_batch_size):
        waves = [window.wave for _, window in batch if isinstance(window, Window)]
        values = iter(call(waves) if waves else ())
        for index, window in batch:
            if isinstance(window, AudioError):
                yield Failed(index, window)
            else:
                yield Scored(index, Window.of_times(window.start, window.end), next(values))


def _run_on_device(engine: Engine, clips: DeviceClips, call: EngineCall[T]) -> Iterator[Scored[T] | Failed]:
    for note in clips.notes:
        notes.show(note)
    index = 0
    for batch in clips.batches(engine.preferred_batch_size):
        finite = clips.finite(batch)  # before the model is queued, read after it
        values = call(batch)
        good = itertools.repeat(True) if finite is None else finite.tolist()
        for value, is_finite in zip(values, good, strict=False):
            yield Scored(index, clips.window, value) if is_finite else Failed(index, clips.error(index))
            index += 1


def by_input(results: Iterable[Scored[T] | Failed], on_error: str) -> Iterator[list[tuple[Window, T]] | AudioError]:
    """For each input its windows and their results, or its error; with ``on_error="raise"`` that is raised."""
    for _, group in itertools.groupby(results, lambda result: result.index):
        windows: list[tuple[Window, T]] = []
        error: AudioError | None = None
        for result in group:
            if isinstance(result, Failed):
                error = result.error
            else:
                windows.append((result.window, result.value))
        if error is not None and on_error == "raise":
            raise error
        yield windows if error is None else error


def tags(
    engine: Engine, inputs: Iterable[Any] | DeviceClips, read: ReadOptions, options: TagOptions
) -> Iterator[list[Tag] | ErrorRecord]:
    """The tags of each input, or its error record.

    Without windows the best labels are found where the model runs; scores that are aggregated come back whole.
    """
    if read.window is None:
        k = len(engine.labels) if options.top_k is None else options.top_k
        best = run(engine, inputs, read, lambda batch: zip(*engine.top_k(batch, k, options.activation), strict=True))
        for result in by_input(best, options.on_error):
            if isinstance(result, AudioError):
                yield ErrorRecord(error=str(result))
            else:
                yield options.to_tags(*result[0][1], engine.labels)
        return
    for windows in by_input(run(engine, inputs, read, _scores(engine, options)), options.on_error):
        if isinstance(windows, AudioError):
            yield ErrorRecord(error=str(windows))
        else:
            scores = aggregated(np.stack([scores for _, scores in windows]), options.aggregate)
            yield options.tags(scores, engine.labels)


def segments(
    engine: Engine, inputs: Iterable[Any] | DeviceClips, read: ReadOptions, options: TagOptions
) -> Iterator[list[Segment] | ErrorRecord]:
    """The tags of each window of each input, or its error record."""
    for windows in by_input(run(engine, inputs, read, _scores(engine, options)), options.on_error):
        if isinstance(windows, AudioError):
            yield ErrorRecord(error=str(windows))
        else:
            yield [Segment(start=w.start, end=w.end, tags=options.tags(s, engine.labels)) for w, s in windows]


def _scores(engine: Engine, options: TagOptions) -> EngineCall[NDArray[np.float32]]:
    return lambda batch: engine.window_scores(batch, options.activation, options.aggregate)


def rows(
    engine: Engine, batch: Any, sampling_rate: float | None, call: Callable[[Batch], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """One output of the engine for each input of a batch, [B, ...] float32. Raises AudioError for a bad input."""
    read = read_options(engine, sampling_rate)
    inputs, _ = inputs_of(engine, batch, read)
    found = []
    for result in run(engine, inputs, read, call):
        if isinstance(result, Failed):
            raise result.error
        found.append(result.value)
    return np.stack(found) if found else call([])


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items in lists of ``size``, the last one shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
