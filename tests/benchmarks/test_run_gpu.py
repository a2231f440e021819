"""benchmarks/run_gpu.py from end to end on a CPU: every section writes its rows, a failing part stops none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import run_gpu
from tests import ROOT


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_dry_run_goes_through_every_section(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    arguments = ["--dry-run", "--one-process", "--cache", str(tmp_path), "--out", str(out)]
    assert run_gpu.main(arguments) == 0
    rows = rows_of(out)
    sections = [section.__name__ for section in run_gpu.gpu_sections.SECTIONS]
    assert list(dict.fromkeys(row["section"] for row in rows)) == sections
    names = " | ".join(row["name"] for row in rows)
    for part in (
        "top-5 of int16 waveforms",
        "transformers accelerated",
        "all of attention_kernel",
        "test_transformers.py",
    ):
        assert part in names
    assert not [row for row in rows if "failed" in row or "skipped" in row]
    errors = [row["error"] for row in rows if row["section"] == "logits_errors"]
    assert errors
    assert max(errors) < 1e-4


def test_what_fails_is_named_and_the_rest_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("this kernel is broken")

    def broken_section(bench: object):
        """Breaks outside of its rows."""
        yield {"name": "a row", "ok": True}
        raise RuntimeError("this section is broken")

    sections = run_gpu.gpu_sections
    monkeypatch.setattr(sections.gpu_cases, "pool", broken)
    monkeypatch.setattr(sections, "SECTIONS", [broken_section, sections.kernel_checks])
    out = tmp_path / "rows.jsonl"
    arguments = ["--dry-run", "--one-process", "--cache", str(tmp_path), "--out", str(out)]
    assert run_gpu.main(arguments) == 1
    assert [row["name"] for row in rows_of(out) if "failed" in row] == ["broken_section", "pool float32"]
    printed = capsys.readouterr().out
    assert "pool float32: RuntimeError: this kernel is broken" in printed
    assert "broken_section: RuntimeError: this section is broken" in printed


def test_nothing_begins_after_the_time_is_up(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(run_gpu.gpu_sections, "SECTIONS", [run_gpu.gpu_sections.kernel_checks])
    out = tmp_path / "rows.jsonl"
    arguments = ["--dry-run", "--one-process", "--seconds", "0", "--cache", str(tmp_path), "--out", str(out)]
    assert run_gpu.main(arguments) == 1
    assert all("skipped" in row for row in rows_of(out))


def test_a_section_that_takes_its_process_along_or_hangs_stops_no_other(tmp_path: Path, monkeypatch) -> None:
    """As a kernel does that breaks the GPU's context, or never ends."""
    ends = iter(
        [lambda: subprocess.CompletedProcess([], -11), lambda: 1 / 0, lambda: subprocess.CompletedProcess([], 0)]
    )

    def run(command: list[str], **_: object) -> object:
        part = Path(command[command.index("--out") + 1])
        part.write_text(json.dumps({"section": command[command.index("--section") + 1], "name": "its row"}) + "\n")
        try:
            return next(ends)()
        except ZeroDivisionError:
            raise subprocess.TimeoutExpired(command, 1) from None

    monkeypatch.setattr(run_gpu.subprocess, "run", run)
    monkeypatch.setattr(run_gpu.gpu_sections, "SECTIONS", run_gpu.gpu_sections.SECTIONS[:3])
    out = tmp_path / "rows.jsonl"
    assert run_gpu.main(["--dry-run", "--cache", str(tmp_path), "--out", str(out)]) == 1
    rows = rows_of(out)
    assert len([row for row in rows if row["name"] == "its row"]) == 3
    failed = [row["failed"] for row in rows if "failed" in row]
    assert [text.split(" ")[0:2] for text in failed] == [["its", "process"], ["still", "running"]]


@pytest.mark.slow
def test_make_gpu(tmp_path: Path) -> None:
    """Without an installation, from links to the checkout; each section a process of its own."""
    options = f"--dry-run --cache {tmp_path} --out {tmp_path / 'rows.jsonl'}"
    command = ["make", "gpu", f"PYTHON={sys.executable}", f"LINKS={tmp_path / 'links'}", f"GPU_OPTIONS={options}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "0 failures" in done.stdout
