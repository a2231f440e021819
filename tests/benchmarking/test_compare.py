"""Taking turns, agreement, and `astfast bench` on a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest

import astfast
from astfast.benchmarking import compare as bench
from astfast.commands.main import main


def test_turns_go_through_everything_forwards_and_backwards() -> None:
    calls: list[str] = []
    times = bench.take_turns([lambda: calls.append("a"), lambda: calls.append("b")], turns=3, seconds=0.0)
    assert "".join(calls) == "aabb" + "bbaa" + "aabb"  # one unmeasured call, one measured, a turn
    assert [len(own) for own in times] == [3, 3]


def test_a_turn_lasts_as_long_as_asked_and_gives_its_median() -> None:
    clock = iter(np.cumsum([0, 1, 0, 9, 0, 2, 0, 5]))  # calls of 1, 9, 2 and 5 seconds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.time, "perf_counter", lambda: float(next(clock)))
        assert bench.take_turns([lambda: None], turns=1, seconds=11.0) == [[2.0]]
        assert next(clock) == 12  # the fourth call was not made: 12 s are enough


def test_spread_is_in_order() -> None:
    assert bench.spread([5.0, 1.0, 4.0, 2.0, 3.0, 0.0]) == (1.0, 2.5, 4.0)
    assert bench.spread([7.0]) == (7.0, 7.0, 7.0)


def test_relative_error() -> None:
    exact = np.float32([[3.0, 4.0]])
    assert bench.relative_error(exact, exact) == 0.0
    assert bench.relative_error(np.float32([[3.0, 4.5]]), exact) == pytest.approx(0.1)


def test_an_engine_that_does_not_agree_is_named_and_not_timed() -> None:
    exact = np.ones((1, 4), np.float32)
    calls = {"right": 0, "wrong": 0}

    def contender(name: str, off: float) -> bench.Contender:
        def run(features: np.ndarray) -> np.ndarray:
            calls[name] += 1
            return exact * (1 + off)

        return bench.Contender(name, "float32", "", "", run)

    said: list[str] = []
    limit = bench.AGREEMENT["float32"]
    both = [contender("right", 0.9 * limit), contender("wrong", 1.1 * limit)]
    rows = list(bench._compare(both, exact, exact, 0.0, said.append))
    assert [row.engine for row in rows] == ["right"]
    assert calls["wrong"] == 1
    assert len(said) == 1
    assert "wrong float32" in said[0]


def test_command_line(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="the comparison needs transformers")
    arguments = ["bench", "--model", str(tiny_model), "--precision", "float32", "--batch", "2", "--threads", "1"]
    assert main([*arguments, "--seconds", "0.01", "--format", "jsonl"]) == 0
    rows = {row["engine"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {"astfast", "transformers"} <= rows.keys()
    for row in rows.values():
        rate = row["clips_per_second"]
        assert 0 < rate["p20"] <= rate["p50"] <= rate["p80"]
        assert row["batch"] == 2
        assert row["precision"] == "float32"
        assert row["error"] <= bench.AGREEMENT["float32"]
    assert rows["astfast"]["astfast_speedup"] is None
    assert rows["astfast"]["version"] == astfast.__version__
    assert rows["transformers"]["astfast_speedup"]["p50"] > 0


def test_a_precision_that_does_not_exist_is_an_error(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--model", str(tiny_model), "--precision", "fp8"])
    assert "fp8" in capsys.readouterr().err
