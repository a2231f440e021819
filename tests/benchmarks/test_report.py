"""The report: a table in the README, a page of all figures, plots; refusals of disturbed results."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pages, report


def fake_results(folder: Path, background: float) -> None:
    """One machine, AST-base: astfast and two other engines in bfloat16 at batch 1 and 8, astfast alone in float32."""
    common = {
        "commit": "abc",
        "date": "2026-01-01T00:00:00+00:00",
        "machine": "2 cores",
        "cpu": "Some CPU (amx)",
        "versions": {"python": "3.11"},
        "threads": 2,
        "background": background,
        "stolen": 0.25,
        "geometry": "ast-base",
        "weights": "plain",
        "relative_error": 0.004,
        "isa": "amx",
        "dtype": "bfloat16",
        "clips_per_second": [3.0, 4.0, 5.0],
    }
    speedup = {"openvino bfloat16": [1.1, 1.25, 1.3], "torch.compile bfloat16": [1.4, 1.5, 1.6]}
    rates: dict[str, Any] = {"openvino": [2.0, 3.0, 3.5], "torch.compile": [2.0, 3.1, 3.5]}
    written: list[dict[str, Any]] = []
    for batch in (1, 8):
        written += [{"engine": "astfast", "batch": batch, "speedup": speedup}]
        written += [{"engine": name, "batch": batch, "clips_per_second": rate} for name, rate in rates.items()]
    written += [{"engine": "astfast", "batch": 1, "dtype": "float32", "speedup": speedup}]
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({**common, "benchmark": "model", **row}) for row in written]
    (folder / "model_some-cpu.jsonl").write_text("\n".join(lines) + "\n")


def test_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plots need matplotlib")
    fake_results(tmp_path / "results", background=report.BUSY)
    newest = (tmp_path / "results" / "model_some-cpu.jsonl").read_text()
    for cpu in ("Older CPU (avx2)", "Same class (amx)"):
        older = newest.replace("Some CPU (amx)", cpu).replace("2026-", "2025-")
        (tmp_path / "results" / f"model_{cpu[:5].lower()}.jsonl").write_text(older)
    readme = tmp_path / "README.md"
    begin, end = pages.markers("benchmarks")
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    places = ["--results", str(tmp_path / "results"), "--readme", str(readme), "--docs", str(tmp_path / "docs")]
    report.main(places)
    text = readme.read_text()
    assert text.startswith(f"before\n{begin}\n")
    assert text.endswith(f"{end}\nafter\n")
    assert "old\n" not in text
    assert text.index("**Some CPU (amx), ") < text.index("**Older CPU (avx2), ")
    assert "Same class" not in text
    assert "Measured 2026-01-01 at abc, up to 25% CPU steal." in text
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "## Same class (amx), " in page
    assert "| OpenVINO | bfloat16 | 3 (2 to 3.5) | 3 (2 to 3.5) | 1.25x (1.10 to 1.30) | 1.25x (1.10 to 1.30) |" in page
    assert "speed-up over this engine, batch 1" in page
    assert "kernel / ISA" in page
    assert "Model: measured 2026-01-01 at abc, up to 25% CPU steal. Versions: python 3.11." in page
    assert (tmp_path / "docs" / "clips_per_second_ast_base_some-cpu.svg").stat().st_size > 1000
    report.main(places)
    assert readme.read_text() == text


def test_readme_table(tmp_path: Path) -> None:
    """The best other engine is that over which the interleaved speed-up is smallest, whatever its median rate is."""
    fake_results(tmp_path / "results", background=0.0)
    [results] = report.load(tmp_path / "results", None).values()
    assert report.readme_table(results["model"]).splitlines()[2:] == [
        "| bfloat16 | 1 | 4 | OpenVINO 3 | 1.25x (1.10 to 1.30) |",
        "| bfloat16 | 8 | 4 | OpenVINO 3 | 1.25x (1.10 to 1.30) |",
        "| float32 | 1 | 4 | not measured |  |",
    ]


def test_report_refuses_results_measured_beside_other_work(tmp_path: Path) -> None:
    fake_results(tmp_path / "results", background=report.BUSY + 0.001)
    with pytest.raises(SystemExit, match=r"model \(5%\)"):
        report.main(["--results", str(tmp_path / "results")])


def test_report_refuses_a_file_without_markers(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(" ".join(reversed(pages.markers("benchmarks"))))
    with pytest.raises(ValueError, match=r"README\.md has no"):
        pages.write_section(tmp_path / "README.md", "benchmarks", "text")
