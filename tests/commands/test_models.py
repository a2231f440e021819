"""``astfast models``: every published model, as a table and as JSON."""

import json

import pytest

from astfast.benchmarking import speeds
from astfast.catalogue import MODELS
from astfast.commands.main import main


def test_table_and_json_list_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(model.name in text and (model.hub_id or model.url or "?") in text for model in MODELS)
    assert main(["models", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["hub_id"] for record in records] == [model.hub_id for model in MODELS]
    assert next(r for r in records if r["name"] == "ced-mini")["mean_average_precision"] == 0.49
    assert {record["family"] for record in records} == {"AST", "DASS", "CED", "MAEST", "PaSST"}


def test_speeds_that_bench_measured_here_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    speeds.remember("mispeech/ced-mini", "float32", 12.5)
    speeds.remember("ced-mini", "int8", 50.25)
    speeds.remember("/some/folder", "int8", 99.0)
    assert main(["models"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "50.2 int8" in rows["ced-mini"]
    assert "int8" not in rows["ced-base"]
    assert main(["models", "--json"]) == 0
    records = {r["name"]: r for r in map(json.loads, capsys.readouterr().out.splitlines())}
    assert records["ced-mini"]["clips_per_second"] == {"float32": 12.5, "int8": 50.25}
    assert records["ced-base"]["clips_per_second"] is None
