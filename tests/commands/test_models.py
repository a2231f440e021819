"""``astfast models``: every published model, as a table and as JSON."""

import json

import pytest

from astfast.catalogue import MODELS
from astfast.commands.main import main


def test_table_and_json_list_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(model.name in text and model.hub_id in text for model in MODELS)
    assert main(["models", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["hub_id"] for record in records] == [model.hub_id for model in MODELS]
    assert next(r for r in records if r["name"] == "ced-mini")["mean_average_precision"] == 0.49
