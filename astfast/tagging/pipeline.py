"""The loop of tagging: inputs -> windows -> batches -> engine -> results.

``run`` is that loop; ``tags``, ``segments`` and ``rows`` differ in what they read of each input (``ReadOptions``), what
they ask of the engine, and what they make of its results. Batches reach across inputs, which are decoded ahead.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from astfast import notes
from astfast.audio import windows as audio_windows
from astfast.audio.inputs import MAX_DURATION
from astfast.audio.kinds import expand_batch
from astfast.audio.mono import Channels
from astfast.audio.prefetch import AHEAD, Part, ReadOptions, iter_windows
from astfast.audio.windows import Window, is_whole
from astfast.engines.base import Batch, Engine
from astfast.errors import AudioError
from astfast.scores import aggregated
from astfast.tagging.gpu_batches import DeviceClips, device_clips
from astfast.tagging.tags import ErrorRecord, Segment, Tag, TagOptions, error_record

T = TypeVar("T")
EngineCall = Callable[[Batch], Iterable[T]]  # a batch -> one result a clip


@dataclass(frozen=True)
class Scored(Generic[T]):
    """The engine's result for one window of an input."""

    index: int  # of the input
    window: Window  # without its samples
    value: T
    is_last: bool  # of its input


@dataclass(frozen=True)
class Failed:
    """The error of an input that can't be used, or not to its end; it is the input's last result."""

    index: int
    error: AudioError


def read_options(
    engine: Engine,
    sampling_rate: float | None,
    window: float | None = None,
    hop: float | None = None,
    prefetch: int | None = None,
    channel: Channels = "mean",
    on_damage: str = "warn",
    max_duration: float = MAX_DURATION,
) -> ReadOptions:
    """What to read of each input for this engine. Raises ValueError for an impossible option."""
    ahead = AHEAD
    if prefetch is not None:
        if not is_whole(prefetch):
            raise ValueError(f"prefetch is {prefetch!r}: it must be a whole number of at least 1, or None")
        ahead = prefetch - min(prefetch, engine.preferred_batch_size) + 1
    return ReadOptions(
        engine.sampling_rate,
        engine.input_samples,
        sampling_rate,
        window,
        hop,
        engine.accepts_int16,
        ahead,
        prefetch,
        channel,
        on_damage,
        max_duration,
    )


def inputs_of(engine: Engine, batch: Any, options: ReadOptions) -> tuple[Iterable[Any] | DeviceClips, bool]:
    """The inputs that a caller passed, for ``run``, and whether they were one input and not a batch."""
    on_device = device_clips(engine, batch, options)
    return (on_device, False) if on_device is not None else expand_batch(batch)


def stream_of(inputs: Any) -> Iterable[Any]:
    """What is to be streamed, if it is an iterable of inputs. Raises TypeError for one input."""
    expanded, single = expand_batch(inputs)
    if single:
        raise TypeError(
            f"stream takes an iterable of inputs, not one {type(inputs).__name__}: pass [x], or classify(x)"
        )
    return expanded


def run(
    engine: Engine, inputs: Iterable[Any] | DeviceClips, options: ReadOptions, call: EngineCall[T]
) -> Iterator[Scored[T] | Failed]:
    """The results of all windows of all inputs, in order, in bounded memory."""
    if isinstance(inputs, DeviceClips):
        yield from _run_on_device(engine, inputs, call)
        return
    yield from run_batches(_batches(iter_windows(inputs, options), engine, options.prefetch), call)


def run_batches(batches: Iterable[list[Part]], call: EngineCall[T]) -> Iterator[Scored[T] | Failed]:
    """The results of batches of windows, in order; an input's error is passed on in its place."""
    for batch in batches:
        waves = [part.window.wave for part in batch if isinstance(part.window, Window)]
        with np.errstate(all="ignore"):
            values = iter(call(waves) if waves else ())
        for index, window, is_last in batch:
            if isinstance(window, AudioError):
                yield Failed(index, window)
            else:
                yield Scored(index, window.without_samples(), next(values), is_last)


def _batches(parts: Iterator[Part], engine: Engine, prefetch: int | None) -> Iterator[list[Part]]:
    """Parts that fill a call of the engine, or end ``prefetch`` inputs; long windows count as often as the model's
    input fits in. What came before an exception comes out before it."""
    batch: list[Part] = []
    filled = ended = 0
    while True:
        try:
            part = next(parts, None)
        except (Exception, SystemExit):
            if batch:
                yield batch
            raise
        if part is None:
            break
        batch.append(part)
        filled += 1 if isinstance(part.window, AudioError) else 1 + len(part.window.wave) // (engine.input_samples + 1)
        ended += part.is_last
        if filled >= engine.preferred_batch_size or ended == prefetch:
            yield batch
            batch, filled, ended = [], 0, 0
    if batch:
        yield batch


def _run_on_device(engine: Engine, clips: DeviceClips, call: EngineCall[T]) -> Iterator[Scored[T] | Failed]:
    for note in clips.notes:
        notes.show(note)
    index = 0
    for batch in clips.batches(engine.preferred_batch_size):
        finite = clips.finite(batch)  # before the model is queued, read after it
        values = call(batch)
        good = itertools.repeat(True) if finite is None else finite.tolist()
        for value, is_finite in zip(values, good, strict=False):
            yield Scored(index, clips.window, value, True) if is_finite else Failed(index, clips.error(index))
            index += 1


def by_input(results: Iterable[Scored[T] | Failed], on_error: str) -> Iterator[list[tuple[Window, T]] | AudioError]:
    """For each input its windows and their results, or its error, at once; with ``on_error="raise"`` that is raised."""
    windows: list[tuple[Window, T]] = []
    for result in results:
        if isinstance(result, Failed):
            if on_error == "raise":
                raise result.error
            yield result.error
            windows = []
        else:
            windows.append((result.window, result.value))
            if result.is_last:
                yield windows
                windows = []


def for_each_input(
    results: Callable[..., Iterator[Any]], engine: Engine, inputs: Any, read: ReadOptions, options: TagOptions
) -> Iterator[Any]:
    """``tags`` or ``segments`` of inputs: a result for each, or with channel "each" a list of them, one a channel.

    An input that can't be read to its end has one error record in either case.
    """
    if read.channel != "each":
        yield from results(engine, inputs, read, options)
        return
    from astfast.audio.channels import EachChannel  # which few calls ask for

    sources = EachChannel(inputs, read.sampling_rate, read.rate)
    for found in sources.together(results(engine, sources, read, options)):
        yield next((result for result in found if isinstance(result, dict)), found)


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
                yield error_record(result)
            else:
                yield options.to_tags(*result[0][1], engine.labels)
        return
    for windows in by_input(run(engine, inputs, read, _scores(engine, options)), options.on_error):
        if isinstance(windows, AudioError):
            yield error_record(windows)
        else:
            scores = aggregated(np.stack([scores for _, scores in windows]), options.aggregate)
            yield options.tags(scores, engine.labels)


def segments(
    engine: Engine, inputs: Iterable[Any] | DeviceClips, read: ReadOptions, options: TagOptions
) -> Iterator[list[Segment] | ErrorRecord]:
    """The tags of each window of each input, or its error record."""
    for windows in by_input(run(engine, inputs, read, _scores(engine, options)), options.on_error):
        if isinstance(windows, AudioError):
            yield error_record(windows)
        else:
            yield [Segment(start=w.start, end=w.end, tags=options.tags(s, engine.labels)) for w, s in windows]


def segments_as_scored(
    engine: Engine, inputs: Iterable[Any], read: ReadOptions, options: TagOptions
) -> Iterator[tuple[int, Segment | ErrorRecord]]:
    """(index of an input, the tags of one of its windows) as soon as they are there; its error record is its last.

    With channel "each" the channels of an input follow one another, and each segment names its own.
    """
    if read.channel != "each":
        for result in run(engine, inputs, read, _scores(engine, options)):
            yield result.index, _segment(engine, result, options)
        return
    from astfast.audio.channels import EachChannel

    sources = EachChannel(inputs, read.sampling_rate, read.rate)
    scored = run(engine, sources, read, _scores(engine, options))
    ends = ((result, isinstance(result, Failed) or result.is_last) for result in scored)
    for index, channel, result in sources.numbered(ends):
        found = _segment(engine, result, options)
        yield index, cast(Segment, {"channel": channel, **found}) if isinstance(result, Scored) else found


def _segment(engine: Engine, result: Scored[Any] | Failed, options: TagOptions) -> Segment | ErrorRecord:
    if isinstance(result, Scored):
        tags = options.tags(result.value, engine.labels)
        return Segment(start=result.window.start, end=result.window.end, tags=tags)
    if options.on_error == "raise":
        raise result.error
    return error_record(result.error)


def live(
    engine: Engine, chunks: Iterable[Any], sampling_rate: float, window: float, hop: float | None, options: TagOptions
) -> Iterator[Segment]:
    """The tags of each window of audio without an end, as soon as its last sample is there."""
    from astfast.audio.live import live_blocks  # which most processes have no use for

    odd: list[notes.Note] = []
    blocks = live_blocks(chunks, sampling_rate, engine.sampling_rate, odd)
    batches = ([Part(0, found, False)] for found in audio_windows.windows(blocks, engine.sampling_rate, window, hop))
    for result in run_batches(batches, _scores(engine, options)):
        assert isinstance(result, Scored)
        while odd:
            notes.show(odd.pop())
        tags = options.tags(result.value, engine.labels)
        yield Segment(start=result.window.start, end=result.window.end, tags=tags)


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
