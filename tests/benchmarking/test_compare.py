"""Errors of logits, agreement, and `astfast bench` on a tiny model."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import astfast
from astfast import backends
from astfast.benchmarking import compare as bench
from astfast.benchmarking.peers import EngineUnderTest
from astfast.commands.main import main
from astfast.errors import BackendError
from tests.cases import dass, timm_vit


def engine(name: str, precision: str, run: Callable[[np.ndarray], np.ndarray]) -> EngineUnderTest:
    return EngineUnderTest(name, precision, "an ISA", "1", run)


def test_errors_of_logits() -> None:
    exact = np.float32([[3.0, -4.0]])
    assert bench.logit_error(exact, exact) == (0.0, 0.0, 4.0)
    assert bench.logit_error(np.float32([[3.0, -4.5]]), exact) == pytest.approx((0.1, 0.5, 4.0))


@pytest.mark.parametrize("backend", backends.BACKENDS)
def test_every_precision_has_a_bar_of_agreement(backend: str) -> None:
    precisions = bench.precisions_of(backend)
    assert precisions
    assert not set(precisions) - bench.AGREEMENT.keys()


def test_every_bar_of_agreement_is_of_a_precision() -> None:
    known = {precision for backend in backends.BACKENDS for precision in bench.precisions_of(backend)}
    assert bench.AGREEMENT.keys() == known


@pytest.mark.parametrize("precision", bench.AGREEMENT)
def test_agreement_at_the_bar_and_past_it(precision: str) -> None:
    """float8, too, whose bar was missing once."""
    exact, bar = np.ones((1, 4), np.float32), bench.AGREEMENT[precision]
    offs = (0.99 * bar, 1.01 * bar, float("nan"))
    checked = bench.check([engine("e", precision, lambda x, off=off: exact * (1 + off)) for off in offs], exact, exact)
    assert [entry.agrees for entry in checked] == [True, False, False]


def test_an_engine_that_does_not_agree_is_not_timed() -> None:
    exact = np.ones((1, 4), np.float32)
    calls = {"right": 0, "wrong": 0, "alongside": 0}

    def counted(name: str, factor: float) -> EngineUnderTest:
        def run(features: np.ndarray) -> np.ndarray:
            calls[name] += 1
            return factor * features

        return engine(name, "float32", run)

    def alongside() -> None:
        calls["alongside"] += 1

    checked = bench.check([counted("wrong", 1.1), counted("right", 1.0)], exact, exact)
    times = bench.time_engines(checked, exact, turns=3, seconds=0.0, alongside=[alongside])
    assert times.keys() == {"right float32"}
    assert len(times["right float32"]) == 3
    assert calls == {
        "right": 1 + 6,
        "wrong": 1,
        "alongside": 6,
    }  # checked once; an unmeasured and a measured call a turn


def test_measure_reports_an_engine_that_does_not_agree(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[EngineUnderTest]:
        return [engine("broken", "float32", lambda features: np.ones((len(features), 7), np.float32))]

    monkeypatch.setattr(bench, "missing_packages", lambda *_: ["openvino"])
    monkeypatch.setattr(bench, "transformers_engines", broken)
    reports: list[str] = []
    rows = list(bench.measure(tiny_model, ["float32"], [1], 1, 0.0, reports.append))
    assert [row.engine for row in rows] == ["astfast"]
    assert len(reports) == 2
    assert "need openvino: not installed" in reports[0]
    assert "broken float32 left out: its logits are off by" in reports[1]


@pytest.mark.parametrize(
    ("family", "reason"), [("ced", "CED has no model class in transformers"), ("dass", "no class of its own for dass")]
)
def test_a_model_that_transformers_has_no_class_for_is_measured_alone(family: str, reason: str, tmp_path: Path) -> None:
    if family == "ced":
        torch.save(timm_vit.random_state(timm_vit.ced_shapes(64, 1, 5)), source := tmp_path / "ced.pt")
    else:
        source = dass.write_hub(dass.random_state(dass.TINY), dass.TINY, tmp_path / "dass", 64, 48)
    reports: list[str] = []
    rows = list(bench.measure(source, ["float32"], [1], 1, 0.0, reports.append))
    assert [row.engine for row in rows] == ["astfast"]
    assert any(reason in report for report in reports), reports


def test_a_precision_that_can_not_run_is_reported_or_raises(tiny_model: Path) -> None:
    reports: list[str] = []
    found = list(bench.astfast_engines(tiny_model, ["float8", "float32"], 1, reports.append))
    assert [entry.name for entry in found] == ["astfast float32"]
    assert len(reports) == 1
    assert reports[0].startswith("astfast float8 left out: ")
    with pytest.raises(BackendError):
        list(bench.astfast_engines(tiny_model, ["float8"], 1))


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
