"""``astfast warmup``: it runs a model, says on what, and fails as loading does."""

import re
from pathlib import Path

import pytest

import astfast
from astfast.commands.main import main


def test_it_runs_the_model_and_says_on_what(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warmed = []
    original = astfast.Tagger.warmup
    monkeypatch.setattr(astfast.Tagger, "warmup", lambda self: warmed.append(self) or original(self))
    assert main(["warmup", "--model", str(tiny_model), "--device", "cpu", "--precision", "float32"]) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(r"cpu float32 on .+: ready after \d+\.\d s\n", captured.out)
    assert not captured.err
    assert len(warmed) == 1


def test_what_can_not_be_loaded_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warmup", "--model", str(tmp_path / "missing.pth"), "--device", "cpu"]) == 2
    assert "missing.pth" in capsys.readouterr().err
