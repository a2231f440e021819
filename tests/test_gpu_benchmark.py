"""benchmarks/run_gpu.py from end to end on a CPU: every section writes its rows, a failing part stops none."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def run_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import run_gpu

    yield run_gpu
    for name in ("models", "rows", "run_gpu"):
        sys.modules.pop(name, None)


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_dry_run_goes_through_every_section(run_gpu, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert run_gpu.main(["--dry-run", "--cache", str(tmp_path), "--out", str(out)]) == 0
    rows = rows_of(out)
    sections = ["kernel_checks", "launch_times", "model_times", "end_to_end"]
    assert list(dict.fromkeys(row["section"] for row in rows)) == sections
    assert not [row for row in rows if "failed" in row or "skipped" in row]


def test_what_fails_is_named_and_the_rest_runs(run_gpu, tmp_path: Path, monkeypatch, capsys) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("this kernel is broken")

    monkeypatch.setattr(run_gpu.gpu_cases, "pool", broken)
    monkeypatch.setattr(run_gpu, "SECTIONS", [run_gpu.kernel_checks])
    out = tmp_path / "rows.jsonl"
    assert run_gpu.main(["--dry-run", "--cache", str(tmp_path), "--out", str(out)]) == 1
    assert [row["name"] for row in rows_of(out) if "failed" in row] == ["pool float32"]
    assert "pool float32: this kernel is broken" in capsys.readouterr().out


def test_no_section_begins_after_the_time_is_up(run_gpu, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(run_gpu, "SECTIONS", [run_gpu.kernel_checks])
    out = tmp_path / "rows.jsonl"
    assert run_gpu.main(["--dry-run", "--seconds", "0", "--cache", str(tmp_path), "--out", str(out)]) == 1
    assert all("skipped" in row for row in rows_of(out))
