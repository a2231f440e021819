"""``astfast plot``: a picture of a file, or the reason why there is none."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from astfast.commands.main import main

pytest.importorskip("matplotlib")
PNG = b"\x89PNG\r\n\x1a\n"


def plot(model: Path, file: str, *options: str) -> int:
    return main(["plot", file, "--model", str(model), "--device", "cpu", "--precision", "float32", *options])


def size(png: Path) -> tuple[int, int]:
    header = png.read_bytes()[:24]
    assert header.startswith(PNG)
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def test_a_picture_is_written_and_named(
    tiny_model: Path, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "one.png"
    assert plot(tiny_model, files[0], "--out", str(out)) == 0
    assert capsys.readouterr().out == f"{out}\n"
    width, height = size(out)
    assert width == 1500
    assert height > 500
    more = tmp_path / "more.png"
    assert plot(tiny_model, files[0], "--tags", "30", "--out", str(more)) == 0
    assert size(more)[1] >= height


def test_svg_has_the_name_and_the_labels_as_text(tiny_model: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "a $x_1$ \udcff.wav", tmp_path / "picture.svg"
    soundfile.write(str(tmp_path / "clip.wav"), 0.1 * np.random.default_rng(0).standard_normal(9_000), 16_000)
    (tmp_path / "clip.wav").rename(path)
    assert plot(tiny_model, str(path), "--out", str(out), "--window", "0.2") == 0
    text = out.read_text()
    assert text.startswith("<?xml")
    assert "a $x_1$" in text  # as it is, not as a formula
    assert "seconds" in text


def test_the_picture_lies_in_the_working_directory(
    tiny_model: Path, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert plot(tiny_model, files[0]) == 0
    size(tmp_path / "here" / "one.wav.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "/proc/nowhere/a.png"], "/proc/nowhere/a.png: can't be written ("),
        (["--out", "a.png", "--window", "0.001"], "--window is 0.001"),
    ],
)
def test_what_can_t_be_is_told(
    tiny_model: Path, files: list[str], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot(tiny_model, files[0], *options) in (2, 74)
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_audio_is_told(
    tiny_model: Path, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot(tiny_model, files[2], "--out", str(tmp_path / "a.png")) == 2
    assert f"{files[2]}: not audio" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_another_ending_is_wrong_usage(tiny_model: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        plot(tiny_model, files[0], "--out", "a.txt")
    assert "its ending must be one of .png, .svg, .pdf" in capsys.readouterr().err


def test_without_matplotlib_the_cure_is_told(
    tiny_model: Path, files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plot(tiny_model, files[0], "--out", "a.png") == 2
    assert "pip install 'astfast[plot]'" in capsys.readouterr().err
