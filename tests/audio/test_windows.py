"""Windows: where they lie, that they cover every sample, and that memory stays bounded."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astfast.audio.windows import Window, window_samples, windows

RATE = 100


def blocks_of(samples: int, size: int) -> Iterator[np.ndarray]:
    wave = np.arange(samples, dtype=np.float32)
    return (wave[start : start + size] for start in range(0, samples, size))


def spans(found: list[Window]) -> list[tuple[float, float]]:
    return [(w.start, w.end) for w in found]


def test_windows_lie_side_by_side_by_default() -> None:
    assert spans(list(windows(blocks_of(300, 70), RATE, 1.0))) == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize(
    ("samples", "window", "hop", "expected"),
    [
        (301, 1.0, None, [(0, 1), (1, 2), (2, 3), (2.01, 3.01)]),  # one sample more than full windows hold
        (299, 1.0, None, [(0, 1), (1, 2), (1.99, 2.99)]),
        (100, 1.0, 0.5, [(0, 1)]),
        (101, 1.0, 0.5, [(0, 1), (0.01, 1.01)]),
        (150, 1.0, 0.5, [(0, 1), (0.5, 1.5)]),  # the next would start at 1.0, but all has been heard
        (99, 1.0, None, [(0, 0.99)]),
        (1, 1.0, None, [(0, 0.01)]),
        (300, 1.0, 2.0, [(0, 1), (2, 3)]),
        (250, 1.0, 2.0, [(0, 1), (1.5, 2.5)]),
        (200, 1.0, 2.0, [(0, 1)]),  # the clip ends where the next window would start
        (199, 1.0, 2.0, [(0, 1)]),  # and in a gap that hop leaves on purpose
    ],
)
def test_the_last_window_ends_with_the_clip(
    samples: int, window: float, hop: float | None, expected: list[tuple[float, float]]
) -> None:
    assert spans(list(windows(blocks_of(samples, 64), RATE, window, hop))) == expected


@settings(deadline=None)
@given(samples=st.integers(1, 500), size=st.integers(1, 200), step=st.integers(1, 200), block=st.integers(1, 600))
def test_any_windows_hold_the_right_samples_whatever_the_blocks(samples: int, size: int, step: int, block: int) -> None:
    found = list(windows(blocks_of(samples, block), RATE, size / RATE, step / RATE))
    heard = set()
    for w in found:
        start, end = round(w.start * RATE), round(w.end * RATE)
        np.testing.assert_array_equal(w.wave, np.arange(start, end))
        assert end - start == min(size, samples)
        heard |= set(range(start, end))
    starts = [w.start for w in found]
    assert starts == sorted(set(starts))
    assert [round(start * RATE) for start in starts[:-1]] == list(range(0, step * (len(starts) - 1), step))
    if step <= size:
        assert heard == set(range(samples))


def test_no_more_than_a_window_and_a_block_are_held() -> None:
    """A day of audio: the generator of blocks never runs ahead of the windows by more than a block."""
    given_out = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal given_out
        while True:
            given_out += 1000
            yield np.zeros(1000, np.float32)

    for index, window in zip(range(5000), windows(endless(), RATE, 50.0, 10.0), strict=False):
        assert given_out <= round(window.end * RATE) + 1000, index
        assert window.wave.base is None  # a view would keep a block alive


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), True])
def test_a_window_or_hop_that_is_no_positive_time_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="window"):
        window_samples(RATE, seconds)
    with pytest.raises(ValueError, match="hop"):
        windows(iter(()), RATE, 1.0, seconds)


def test_the_shortest_window_is_a_sample() -> None:
    assert window_samples(RATE, 1e-6, 1e-6) == (1, 1)
