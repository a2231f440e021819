"""Streams: how far ahead inputs are taken, what an exception of theirs costs, and inputs that share state."""

import gc
import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import astfast
from tests.cases.recordings import RATE, clips, file_bytes

HOW: dict[str, Any] = {"sampling_rate": RATE, "top_k": 1}
windows = pytest.mark.parametrize("window", [None, 0.3], ids=["beginning", "windows"])


@windows
@pytest.mark.parametrize("prefetch", [1, 2, 9, 40])
def test_a_result_comes_after_at_most_prefetch_inputs(
    tagger: astfast.Tagger, prefetch: int, window: float | None
) -> None:
    given = 0

    def live() -> Iterator[np.ndarray]:
        nonlocal given
        for clip in itertools.cycle(clips(5, 0.4)):
            given += 1
            yield clip

    expected = tagger.classify(clips(5, 0.4), window=window, **HOW)
    stream = tagger.stream(live(), prefetch=prefetch, window=window, **HOW)
    for done, (tags, same) in enumerate(zip(stream, itertools.cycle(expected), strict=False)):
        assert given - done <= prefetch
        assert tags == same
        if done == 100:
            break
    taken = given
    stream.close()  # type: ignore[attr-defined]
    assert given == taken


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "2"])
def test_prefetch_is_a_number_of_inputs(tagger: astfast.Tagger, bad: Any) -> None:
    with pytest.raises(ValueError, match="prefetch"):
        tagger.stream([], prefetch=bad)


@windows
@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_results_of_what_was_read_come_before_an_exception_of_the_inputs(
    tagger: astfast.Tagger, count: int, window: float | None
) -> None:
    given = clips(max(count, 1), 0.4)[:count]

    def inputs() -> Iterator[np.ndarray]:
        yield from given
        raise LookupError("the cursor is closed")

    expected = tagger.classify(given, window=window, **HOW)
    stream = tagger.stream(inputs(), window=window, **HOW)
    assert list(itertools.islice(stream, count)) == expected
    with pytest.raises(LookupError, match="the cursor is closed"):
        next(stream)
    with pytest.raises(LookupError, match="the cursor is closed"):
        tagger.classify(inputs(), **HOW)


@windows
def test_a_buffer_that_a_generator_fills_again(tagger: astfast.Tagger, window: float | None) -> None:
    recordings = clips(40, 0.4)
    expected = tagger.classify(recordings, window=window, **HOW)
    buffer = np.empty_like(recordings[0])

    def refilled() -> Iterator[np.ndarray]:
        for recording in recordings:
            buffer[:] = recording
            yield buffer

    assert list(tagger.stream(refilled(), window=window, **HOW)) == expected
    assert tagger.classify(refilled(), window=window, **HOW) == expected
    scores = tagger.scores(recordings, sampling_rate=RATE)
    np.testing.assert_array_equal(tagger.scores(refilled(), sampling_rate=RATE), scores)


def test_a_batch_of_long_windows_is_no_larger_than_one_of_short_ones(
    tagger: astfast.Tagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of an hour are not collected until there are as many as the model takes."""
    engine = tagger._lazy.get()
    heard: list[int] = []
    inner = engine.scores
    monkeypatch.setattr(engine, "scores", lambda batch, how: heard.append(len(batch)) or inner(batch, how))
    parts = 2 * engine.preferred_batch_size
    long = np.zeros(parts * engine.input_samples, np.float32)
    tagger.classify([long, long, long], sampling_rate=RATE, window=len(long) / RATE)
    assert heard == [parts] * 3


def test_columns_of_paths_are_streamed_and_one_input_is_not(tagger: astfast.Tagger) -> None:
    results = list(tagger.stream(np.array(["no such file", "nor this"]), on_error="return"))
    assert ["no such file" in results[0]["error"], "nor this" in results[1]["error"]] == [True, True]
    for one in (np.zeros(10, np.float32), (RATE, np.zeros(10)), "dog.wav", None, 3):
        with pytest.raises(TypeError, match="iterable of inputs"):
            tagger.stream(one)


def resident() -> float:
    """Memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@windows
def test_memory_and_descriptors_do_not_grow_over_thousands_of_files(
    tagger: astfast.Tagger, tmp_path: Path, window: float | None
) -> None:
    wave = np.stack(clips(2, 1.5), axis=1)
    forms = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS")]
    contents = [file_bytes(wave, rate=48_000, format=form, subtype=subtype) for form, subtype in forms]
    contents += [contents[1][: len(contents[1]) // 2], contents[3][:3000], b"no audio", b""]
    paths = [tmp_path / f"{number}.x" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)

    def inputs() -> Iterator[Any]:
        for number in itertools.count():
            content, path = contents[number % len(contents)], paths[number % len(contents)]
            yield (path, content, io.BytesIO(content), {"bytes": content, "path": None})[number // len(contents) % 4]

    seen = []
    results = tagger.stream(itertools.islice(inputs(), 2_000), window=window, on_error="return", top_k=1)
    gc.disable()  # what is left to it may take long
    try:
        for done, _ in enumerate(results):
            if done in (300, 1_999):
                seen.append((resident(), len(list(Path("/proc/self/fd").iterdir()))))
    finally:
        gc.enable()
    (first, descriptors), (last, descriptors_at_end) = seen
    assert last - first < 10
    assert descriptors_at_end <= descriptors + 1
