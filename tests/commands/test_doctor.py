"""``astfast doctor``: the choice of backends, packages and GPU ops in its report."""

import pytest

from astfast import backends
from astfast.backends.cuda import autotune_cache
from astfast.backends.cuda.autotune_cache import KernelResult
from astfast.commands import doctor
from astfast.commands.main import main


def test_report_has_every_backend_and_its_precisions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in (*backends.BACKENDS, "numpy", "built-in model", "ok: float32, bfloat16, int8"):
        assert word in text
    assert "safetensors" not in text


def test_a_variable_that_cannot_be_costs_its_part_of_the_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASTFAST_PACKED_CACHE_MB", "lots")
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "no: ASTFAST_PACKED_CACHE_MB is 'lots'" in text
    assert "numpy" in text


@pytest.mark.parametrize(
    ("fastest", "line"),
    [
        ("bfloat16", "auto backend cpu, precision bfloat16 (float32 if scores differ by more than 0.01)"),
        ("float32", "auto backend cpu, precision float32"),
    ],
)
def test_automatic_choice(fastest: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "choose", lambda: backends.Choice("cpu", "cpu", None))
    monkeypatch.setattr(backends.Choice, "fastest_precision", lambda _: fastest)
    text, _ = doctor.report()
    assert line in [" ".join(own.split()) for own in text.splitlines()]


@pytest.mark.parametrize(
    ("variable", "value", "cure"),
    [("ASTFAST_CPU_TIER", "nosuch", "one of scalar, avx2"), ("ASTFAST_NUM_THREADS", "100000", "1 to 4096 threads")],
)
def test_the_report_is_whole_whatever_the_environment_says(
    variable: str, value: str, cure: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    main(["doctor"])
    text = capsys.readouterr().out
    assert cure in text
    assert "built-in model" in text


def test_no_backend_exits_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(backends, "unavailable", lambda _: "nothing is installed")
    assert main(["doctor"]) == 1
    assert "no backend can run" in capsys.readouterr().out


def test_gpu_ops_of_every_machine() -> None:
    assert "autotuned" not in doctor.report()[0]
    autotune_cache.store("NVIDIA H200, driver 580", "attention bfloat16 32x1214x768", KernelResult(None, 3e-4, 2e-4))
    autotune_cache.store("NVIDIA H200, driver 580", "head float32 32x527", KernelResult("out is off by 1"))
    autotune_cache.store("NVIDIA L4, driver 580", "pool float32 1x768", KernelResult(None, 1e-6, 2e-6))
    text, _ = doctor.report()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    first = lines.index("ops autotuned on NVIDIA H200, driver 580")
    assert lines[first + 1] == "attention bfloat16 32x1214x768 torch kernel 300.0 us torch 200.0 us"
    assert lines[first + 2] == "head float32 32x527 torch (kernel: out is off by 1)"
    second = lines.index("ops autotuned on NVIDIA L4, driver 580")
    assert lines[second + 1] == "pool float32 1x768 kernel kernel 1.0 us torch 2.0 us"
