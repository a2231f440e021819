"""Audio without an end: the tags of a file's windows, whatever the size of the chunks, in bounded memory."""

import io
import tracemalloc
from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest

import astfast
from astfast.audio.live import raw_chunks
from astfast.tagging import pipeline
from astfast.tagging.tags import TagOptions
from tests.cases.recordings import RATE, clips
from tests.fakes.instant_engine import InstantEngine


def in_chunks(wave: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (wave[start : start + size] for start in range(0, len(wave), size))


@pytest.mark.parametrize("size", [1, 37, 160, 4_096, 100_000])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_chunks_of_any_size_give_the_tags_of_the_file(tagger: astfast.Tagger, size: int, rate: int) -> None:
    seconds = max(1.7, 2.5 * size / rate)  # several chunks of each size, the last one shorter
    (wave,) = clips(1, seconds * rate / RATE)
    assert len(wave) > 2 * size
    hop = seconds / 17
    expected = tagger.segments({"array": wave, "sampling_rate": rate}, window=0.3, hop=hop)
    found = list(tagger.live(in_chunks(wave, size), sampling_rate=rate, window=0.3, hop=hop))
    assert found == expected
    assert len(found) > 3


def test_a_window_is_tagged_as_soon_as_its_last_sample_is_there(tagger: astfast.Tagger) -> None:
    taken = 0

    def chunks() -> Iterator[np.ndarray]:
        nonlocal taken
        for chunk in in_chunks(clips(1, 2.0)[0], 160):
            taken += len(chunk)
            yield chunk

    for number, segment in enumerate(tagger.live(chunks(), sampling_rate=RATE, window=0.3, hop=0.1)):
        if segment["end"] < 2.0:
            assert taken == 4_800 + 1_600 * number


def test_channels_and_integers_are_taken_as_they_come(tagger: astfast.Tagger) -> None:
    pcm = (20_000 * np.stack(clips(2, 1.0), axis=1)).astype("<i2")  # [samples, channels]
    expected = tagger.segments({"array": pcm.T, "sampling_rate": RATE}, window=0.5)
    assert list(tagger.live([pcm[:5_000], pcm[:0], pcm[5_000:]], sampling_rate=RATE, window=0.5)) == expected

    class Pipe(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return super().read(4_099)  # ends within a sample

    chunks = raw_chunks(Pipe(pcm.tobytes()), "s16le", 2)
    assert list(tagger.live(chunks, sampling_rate=RATE, window=0.5)) == expected


def peak_memory(hours: float) -> int:
    """Bytes at most that tagging audio of this length takes beyond what its first minute took."""
    second = np.ones(RATE, np.float32)
    chunks = (second for _ in range(int(3600 * hours)))
    engine = InstantEngine()
    engine.batches = deque(maxlen=1)  # type: ignore[assignment]  # its own record would grow
    found = pipeline.live(engine, chunks, RATE, 10.0, 1.0, TagOptions())  # type: ignore[arg-type]
    for _ in range(60):
        next(found)
    tracemalloc.start()
    count = sum(1 for _ in found)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count >= 3600 * hours - 71
    return peak


@pytest.mark.parametrize("hours", [0.2, pytest.param(24.5, marks=pytest.mark.slow)])
def test_a_day_takes_no_more_memory_than_minutes(hours: float) -> None:
    assert peak_memory(hours) < peak_memory(0.1) + RATE * 4  # a second of samples


def test_what_is_no_audio_is_refused(tagger: astfast.Tagger) -> None:
    with pytest.raises(ValueError, match="window"):
        tagger.live([], sampling_rate=RATE, window=0.0)
    with pytest.raises(astfast.AudioError, match="sampling_rate"):
        tagger.live([], sampling_rate=10)
    with pytest.raises(astfast.AudioError, match=r"<live audio>: not finite"):
        list(tagger.live([np.full(RATE, np.nan, np.float32)], sampling_rate=RATE))
