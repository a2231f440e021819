"""The page of what a million clips take: sums by hand, and what was not measured says so."""

import json
from pathlib import Path
from typing import Any

from benchmarks import capacity, pages
from tests import ROOT

COMMON = {"cpu": "Some CPU", "machine": "2 cores", "date": "2026-01-01T00:00:00+00:00"}


def write(folder: Path, benchmark: str, machine: str, *found: dict[str, Any]) -> None:
    lines = [json.dumps({**COMMON, "benchmark": benchmark, **row}) for row in found]
    (folder / f"{benchmark}_{machine}.jsonl").write_text("\n".join(lines) + "\n")


def test_rates_prices_and_machines(tmp_path: Path) -> None:
    model = {"engine": "astfast", "geometry": "ast-base", "weights": "plain", "dtype": "int8"}
    one, eight = ({**model, "clips_per_second": [rate - 1, rate, rate + 1]} for rate in (4, 10))
    other = {**eight, "engine": "openvino", "clips_per_second": [90, 99, 100]}
    short = {**other, "engine": "astfast", "geometry": "speech-commands"}
    write(tmp_path, "model", "some", one, eight, other, short)
    write(tmp_path, "model", "bare", one)
    ced = {"engine": "astfast", "model": "ced-mini", "dtype": "int8", "clips_per_second": [1, 40, 50]}
    write(tmp_path, "families", "some", ced)
    write(tmp_path, "decoding", "some", {"format": "MP3", "path": [0.1, 0.05, 0.3]})
    write(tmp_path, "pipeline", "some", *({"stage": stage, "seconds": [0, 0.001, 1]} for stage in ("list", "write")))
    rows = [("GPU", "from, to", "batch 1", "batch 32"), ("A100", capacity.PREDICTED_WAY, "1", "1,000 to 2,000")]
    begin, end = pages.markers("predictions")
    (tmp_path / "gpu.md").write_text(f"{begin}\n{pages.markdown(rows)}\n{end}\n")
    capacity.main(["--results", str(tmp_path), "--docs", str(tmp_path), "--price", "2 cores=0.5", "--price", "A100=2"])
    page = (tmp_path / "capacity.md").read_text()
    assert "| ast-base | int8 | 10 | 8 | 34.7 | 17.36 | 48.2 |" in page  # 1 / (1/10 + 0.05/2) = 8
    assert "| ced-mini | int8 | 40 | 20 | 13.9 | 6.94 | 19.3 |" in page
    assert "| ast-base | int8 | 4 | not measured | 69.4 | 34.72 | 96.5 |" in page
    assert "| A100 | 1,000 | 50 | 400 | 0.3 | 0.56 | 0.4 |" in page
    assert "measured at 500 inputs/s on Some CPU" in page
    assert "speech-commands" not in page


def test_the_predictions_of_today_can_be_read() -> None:
    page = (ROOT / "docs" / "gpu.md").read_text()
    assert len(list(capacity.predicted(page, capacity.EXAMPLE_PRICES, 0.01))) == 1 + len(capacity.WATTS)
