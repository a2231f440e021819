"""``astfast tag``: formats, exit status, and the streams that results and errors go to."""

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
    assert f"astfast: error: {files[2]}: " in captured.err
    assert len(captured.out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "no/such/model-folder.safetensors"], "no/such/model-folder.safetensors"),
        (["--device", "cuda:x"], "cuda:x"),
    ],
)
def test_what_can_not_start_exits_with_2(
    files: list[str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tag", *arguments, files[0]]) == 2
    assert message in capsys.readouterr().err


def test_a_long_file_is_a_warning_in_words_of_the_command_line(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(16_000 * 20), 16_000)
    assert run("--model", str(tiny_model), str(tmp_path / "long.wav")) == 0
    message = capsys.readouterr().err
    assert message.startswith(f"astfast: warning: {tmp_path / 'long.wav'}")
    assert "--window" in message
    assert "window=" not in message


def test_errors_of_standard_input_say_so(files: list[str], tiny_model: Path) -> None:
    command = [sys.executable, "-m", "astfast", "tag", "--device", "cpu", "--model", str(tiny_model), "-"]
    done = subprocess.run(command, input=b"no audio", capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(b"astfast: error: standard input:")


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
