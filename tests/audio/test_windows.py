"""Windows: where they lie, that they cover every sample, and that memory stays bounded."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astfast.audio.windows import Window, window_samples, windows

RATE = 1000  # a frame is 10 samples, the shortest window 25


def blocks_of(samples: int, size: int) -> Iterator[np.ndarray]:
    wave = np.arange(samples, dtype=np.float32)
    return (wave[start : start + size] for start in range(0, samples, size))


def spans(found: list[Window]) -> list[tuple[float, float]]:
    return [(w.start, w.end) for w in found]


def test_windows_lie_side_by_side_by_default() -> None:
    assert spans(list(windows(blocks_of(3000, 700), RATE, 1.0))) == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize(
    ("samples", "window", "hop", "expected"),
    [
        (3010, 1.0, None, [(0, 1), (1, 2), (2, 3)]),  # a frame more than full windows hold
        (3011, 1.0, None, [(0, 1), (1, 2), (2, 3), (2.011, 3.011)]),
        (2999, 1.0, None, [(0, 1), (1, 2), (1.999, 2.999)]),
        (1000, 1.0, 0.5, [(0, 1)]),
        (1010, 1.0, 0.5, [(0, 1)]),
        (1011, 1.0, 0.5, [(0, 1), (0.011, 1.011)]),
        (1500, 1.0, 0.5, [(0, 1), (0.5, 1.5)]),  # the next would start at 1.0, but all has been heard
        (999, 1.0, None, [(0, 0.999)]),
        (1, 1.0, None, [(0, 0.001)]),
        (3000, 1.0, 2.0, [(0, 1), (2, 3)]),
        (2500, 1.0, 2.0, [(0, 1), (1.5, 2.5)]),
        (2011, 1.0, 2.0, [(0, 1), (1.011, 2.011)]),
        (2010, 1.0, 2.0, [(0, 1)]),  # the clip ends where the next window would start, to within a frame
        (1999, 1.0, 2.0, [(0, 1)]),  # and in a gap that hop leaves on purpose
        (3000, 1e300, None, [(0, 3)]),
    ],
)
def test_the_last_window_ends_with_the_clip(
    samples: int, window: float, hop: float | None, expected: list[tuple[float, float]]
) -> None:
    assert spans(list(windows(blocks_of(samples, 640), RATE, window, hop))) == expected


@settings(deadline=None)
@given(samples=st.integers(1, 700), size=st.integers(25, 200), step=st.integers(25, 200), block=st.integers(1, 600))
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
        assert heard >= set(range(samples - 10))  # all but a frame


def test_no_more_than_a_window_and_a_block_are_held() -> None:
    """A day of audio: the generator of blocks never runs ahead of the windows by more than a block."""
    given_out = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal given_out
        while True:
            given_out += 1000
            yield np.zeros(1000, np.float32)

    for index, window in zip(range(5000), windows(endless(), RATE, 5.0, 1.0), strict=False):
        assert given_out <= round(window.end * RATE) + 1000, index
        assert window.wave.base is None  # a view would keep a block alive


@pytest.mark.parametrize("seconds", [0, -1.0, 0.0249, float("nan"), float("inf"), 10**400, True, "1"])
def test_a_window_or_hop_that_is_no_time_or_shorter_than_a_frame_is_refused(seconds: Any) -> None:
    with pytest.raises(ValueError, match=r"window is .* number of seconds, 0\.025 or more"):
        window_samples(RATE, seconds)
    with pytest.raises(ValueError, match=r"hop is .* number of seconds, 0\.025 or more"):
        windows(iter(()), RATE, 1.0, seconds)


def test_the_shortest_window_is_a_frame() -> None:
    assert window_samples(RATE, 0.025, 0.025) == (25, 25)
