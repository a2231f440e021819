"""``astfast convert``: a folder that tags like its source."""

import errno
import os
from pathlib import Path

import pytest

from astfast.commands.main import main
from astfast.models import export
from tests.cases import checkpoints
from tests.commands.test_tag import run


def test_folder_tags_like_its_source(
    tiny_model: Path, tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(tiny_model), str(tmp_path / "converted")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'converted'}\n"
    outputs = []
    for model in (tiny_model, tmp_path / "converted"):
        assert run("--model", str(model), files[0]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("folder", ["/proc/nowhere/model", "~nosuchuser/model", "/dev/null/model"])
def test_a_folder_that_can_not_be_written(folder: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tiny_model), folder]) == 2
    assert capsys.readouterr().err.startswith(f"astfast: error: {folder}: can't be written (")


def test_a_full_disk_leaves_no_half_of_a_folder(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export, "write_safetensors", full)
    assert main(["convert", str(tiny_model), str(tmp_path / "model")]) == 2
    assert "can't be written (No space left on device)" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if "model" in path.name]


def test_a_folder_that_is_not_empty_needs_force(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("keep")
    assert main(["convert", str(tiny_model), str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "--force" in message
    assert "force=" not in message
    assert main(["convert", str(tiny_model), str(tmp_path), "--force"]) == 0
    assert (tmp_path / "notes.txt").read_text() == "keep"


def test_several_checkpoints_need_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [str(checkpoints.write_v4(checkpoints.random_model(seed=s), tmp_path / str(s))) for s in (1, 2)]
    assert main(["convert", *sources, str(tmp_path / "mean")]) == 2
    assert "2 checkpoints for one folder: pass --average" in capsys.readouterr().err
    sources.append(str(tmp_path / "mean"))
    for command in (["--average", *sources], [*sources, "--average"]):
        assert main(["convert", *command, "--force"]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / "mean")
