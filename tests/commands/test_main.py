"""The command line: formats, exit statuses, and what goes to which stream."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from astfast.commands.main import main


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two short clips and a file that is no audio."""
    rng = np.random.default_rng(0)
    for name in ("one.wav", "two, with a comma.flac"):
        soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(20_000), 16_000)
    (tmp_path / "bad.wav").write_text("no audio at all")
    return [str(tmp_path / name) for name in ("one.wav", "two, with a comma.flac", "bad.wav")]


def run(*arguments: str) -> int:
    return main(["tag", "--device", "cpu", "--precision", "float32", *arguments])


def test_text_in_a_pipe_is_tab_separated(
    files: list[str], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--model", str(tiny_model), "--top-k", "2", *files[:2]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [files[0]] * 2 + [files[1]] * 2
    assert all(0.0 <= float(row[1]) <= 1.0 and row[2] for row in rows)


def test_csv_and_jsonl_say_the_same(files: list[str], tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", str(tiny_model), "--format", "csv", *files[:2]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert run("--model", str(tiny_model), "--format", "jsonl", *files[:2]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    flat = [(record["file"], f"{tag['score']:.4f}", tag["label"]) for record in records for tag in record["tags"]]
    assert [(row["file"], row["score"], row["label"]) for row in table] == flat


def test_windows_have_times(files: list[str], tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", str(tiny_model), "--window", "0.5", "--hop", "0.25", "--format", "jsonl", files[0]) == 0
    segments = json.loads(capsys.readouterr().out)["segments"]
    assert [segment["start"] for segment in segments[:3]] == [0.0, 0.25, 0.5]
    assert segments[-1]["end"] == 1.25


def test_a_bad_file_is_named_and_the_others_are_tagged(
    files: list[str], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--model", str(tiny_model), "--top-k", "1", files[2], *files[:2]) == 1
    captured = capsys.readouterr()
    assert "bad.wav" in captured.err
    assert len(captured.out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "no/such/model-folder.safetensors"], "no/such/model-folder.safetensors"),
        (["--hop", "1"], "--window"),
        (["--device", "cuda:x"], "cuda:x"),
    ],
)
def test_what_can_not_start_exits_with_2(
    files: list[str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tag", *arguments, files[0]]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["tag"], ["tag", "x.wav", "--top-k", "0"], ["tag", "x.wav", "--window", "-1"], []]
)
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


def test_standard_input_and_a_reader_that_leaves_early(files: list[str], tiny_model: Path) -> None:
    command = [sys.executable, "-m", "astfast", "tag", "--device", "cpu", "--precision", "float32"]
    command += ["--model", str(tiny_model), "--top-k", "1"]
    done = subprocess.run(
        [*command, "-"], input=Path(files[0]).read_bytes(), capture_output=True, check=True, timeout=60
    )
    assert done.stdout.startswith(b"-\t")
    many = subprocess.Popen([*command, *files[:2] * 50], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert many.stdout is not None
    assert many.stdout.readline()
    many.stdout.close()
    assert many.wait(timeout=60) == 0
    assert b"Traceback" not in many.stderr.read()
    many.stderr.close()


def test_doctor_names_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in ("cpu", "cuda", "reference", "numpy", "built-in model"):
        assert word in text


def test_convert_writes_a_folder_that_tags(
    tiny_model: Path, tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(tiny_model), str(tmp_path / "converted")]) == 0
    capsys.readouterr()
    outputs = []
    for model in (tiny_model, tmp_path / "converted"):
        assert run("--model", str(model), files[0]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert main(["convert", str(tiny_model), str(tmp_path / "converted")]) == 2
    assert "--force" in capsys.readouterr().err
