"""Interleaved timing, percentiles and speed-ups."""

import numpy as np
import pytest

from astfast.benchmarking import timing


def test_turns_go_forwards_and_backwards() -> None:
    calls: list[str] = []
    times = timing.time_interleaved([lambda: calls.append("a"), lambda: calls.append("b")], turns=3, seconds=0.0)
    assert "".join(calls) == "aabb" + "bbaa" + "aabb"  # one unmeasured call, one measured, a turn
    assert [len(own) for own in times] == [3, 3]


def test_a_turn_lasts_as_long_as_asked_and_gives_its_median() -> None:
    clock = iter(np.cumsum([0, 1, 0, 9, 0, 2, 0, 5]))  # calls of 1, 9, 2 and 5 seconds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
        assert timing.time_interleaved([lambda: None], turns=1, seconds=11.0) == [[2.0]]
        assert next(clock) == 12  # the fourth call was not made: 12 s are enough


def test_spread_is_in_order() -> None:
    assert timing.spread([5.0, 1.0, 4.0, 2.0, 3.0, 0.0]) == (1.0, 2.5, 4.0)
    assert timing.spread([7.0]) == (7.0, 7.0, 7.0)


def test_speedup_is_of_turns() -> None:
    """Not of medians: what slows one turn slows both of its measurements."""
    assert timing.speedup([2.0, 40.0, 6.0], [1.0, 10.0, 3.0]) == pytest.approx((2.0, 2.0, 3.2))
    with pytest.raises(ValueError, match="zip"):
        timing.speedup([1.0], [1.0, 2.0])
