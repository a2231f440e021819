"""``astfast tag`` of many inputs: sources, the output folder, progress, exit status, and signals."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import astfast
from astfast.commands.main import main
from tests.cases.recordings import RATE, clips


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["astfast"])
    monkeypatch.setenv("TINY_MODEL", str(tiny_model))


def run(*arguments: Any) -> int:
    shared = ["--device", "cpu", "--precision", "float32", "--model", os.environ["TINY_MODEL"]]
    return main(["tag", *map(str, arguments), *shared])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    (folder / "sub").mkdir(parents=True)
    for name, clip in zip(("b.wav", "sub/c.flac", "a, b.wav"), clips(3, 0.7), strict=True):
        soundfile.write(folder / name, clip, RATE)
    return folder


def test_a_folder_is_tagged_file_by_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--top-k", 2) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [
        f"{folder}/{name}" for name in ("a, b.wav", "b.wav", "sub/c.flac") for _ in "12"
    ]
    assert run(folder / "*.wav", "--top-k", 1, "--format", "jsonl") == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(objects) == 2
    assert set(objects[0]) == {"id", "file", "start", "end", "tags"}
    assert run(folder, "--top-k", 1, "--format", "csv", "--window", 0.3, "--merge", 0, "--shortest", 0.2) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(table[0]) == ["file", "start", "end", "score", "label"]
    assert {row["file"] for row in table} == {f"{folder}/{name}" for name in ("a, b.wav", "b.wav", "sub/c.flac")}


def test_scores_by_another_activation(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a single file and of a run: those of ``classify``."""
    model, file = os.environ["TINY_MODEL"], folder / "b.wav"
    tags = astfast.load(model, device="cpu", precision="float32").classify(file, activation="softmax", top_k=1)
    asked = (file, "--top-k", 1, "--activation", "softmax", "--format", "jsonl")
    assert run(*asked) == 0
    assert json.loads(capsys.readouterr().out)["tags"] == tags
    assert run(*asked, "--out", tmp_path / "out") == 0
    (path,) = (tmp_path / "out" / "tags").iterdir()
    assert json.loads(path.read_text())["tags"] == tags


def test_lists_of_names_and_manifests(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = io.TextIOWrapper(io.BytesIO(b"b.wav\0sub/c.flac\0"))
    monkeypatch.setattr(sys, "stdin", listed)
    assert run("--from", "-", "-0", "--root", folder, "--top-k", 1) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["b.wav", "sub/c.flac"]
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,site\nb.wav,north\nmissing.wav,south\n")
    assert run("--from", manifest, "--root", folder, "--format", "jsonl") == 1
    captured = capsys.readouterr()
    good, bad = (json.loads(line) for line in captured.out.splitlines())
    assert (good["site"], bad["site"], bad["kind"]) == ("north", "south", "missing")
    assert captured.err.count("astfast: error: ") == 1


def test_a_run_into_a_folder_ends_with_its_counts_and_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (folder / "bad.wav").write_text("no audio")
    command = (folder, "--out", out, "--format", "jsonl,raven,kaleidoscope", "--top-k", 2)
    assert run(*command) == 1
    captured = capsys.readouterr()
    assert not captured.out
    first, last = captured.err.splitlines()
    assert first.startswith(f"astfast: error: {folder}/bad.wav: ")
    assert last.startswith("astfast: 3 tagged, 1 failed (1 undecodable); 0.00 h of audio in ")
    assert len((out / "tags" / "part-00000.jsonl").read_text().splitlines()) == 3
    assert len((out / "raven" / "selections.txt").read_text().splitlines()) == 7
    assert run(*command) == 1
    assert capsys.readouterr().err == "astfast: 0 tagged, 4 done before, 1 failed before\n"
    (folder / "bad.wav").unlink()
    assert run(folder, "--out", out, "--top-k", 3) == 2
    assert "top_k was 2 and is 3): name another folder, or begin anew with --overwrite" in capsys.readouterr().err
    assert run(folder, "--out", out, "--top-k", 3, "--overwrite") == 0


def test_labels_and_thresholds_come_from_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels").write_text("sound 1, b\nsound 2, c\n")
    (tmp_path / "limits.csv").write_text('"sound 2, c",1.0\n')
    assert (
        run(
            folder / "b.wav", folder / "*.wav", "--labels", tmp_path / "labels", "--thresholds", tmp_path / "limits.csv"
        )
        == 0
    )
    labels = {line.split("\t")[2] for line in capsys.readouterr().out.splitlines()}
    assert labels == {"sound 1, b"}
    (tmp_path / "labels").write_text("horse\n")
    assert run(folder, "--labels", tmp_path / "labels") == 2
    assert "the model has no label 'horse'" in capsys.readouterr().err


def test_channels_and_damage_are_options_of_files_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wave = np.stack(clips(2, 0.7), axis=1)
    soundfile.write(tmp_path / "stereo.wav", wave, RATE)
    found = set()
    for channel in ("mean", "0", "1"):
        assert run(tmp_path / "stereo.wav", "--channel", channel, "--strict") == 0
        alone = capsys.readouterr().out
        assert run(tmp_path / "*.wav", "--channel", channel, "--strict") == 0
        assert capsys.readouterr().out == alone
        found.add(alone)
    assert len(found) == 3
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path / "stereo.wav", "--channel", "left")
    assert "'left' is not mean, max, each or the number of a channel" in capsys.readouterr().err


def test_failures_can_end_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text("".join(f"missing {i}.wav\n" for i in range(30)))
    assert run("--from", tmp_path / "list", "--fail-fast") == 1
    assert (
        "astfast: error: stopped: 1 input failed, more than the 0 allowed; the last one: missing "
        in capsys.readouterr().err
    )
    assert run("--from", tmp_path / "list", "--out", tmp_path / "out") == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 12
    assert errors[10] == f"astfast: error: further failures are listed in {tmp_path}/out/failures.jsonl only"
    assert "30 failed (30 missing)" in errors[11]


def test_events_are_json_lines(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.wav").write_text("no audio")
    assert run(folder, "--out", tmp_path / "out", "--progress", "json") == 1
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    names = [event["event"] for event in events if event["event"] != "progress"]
    assert (names[0], names[-1]) == ("run_started", "run_finished")
    assert sorted(names[1:-1]) == ["file_failed", "file_finished", "file_finished", "file_finished"]
    assert all(isinstance(event["time"], float) for event in events)
    assert events[-1]["tagged"] == 3


def test_runs_of_nothing_and_refused_ones_say_so_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("x")
    assert run(empty, "--out", tmp_path / "none") == 2
    assert "nothing to tag: the inputs name no audio (1 not audio)" in capsys.readouterr().err
    assert run(folder, "--out", tmp_path / "out", "--format", "jsonl", "--format", "csv") == 0
    assert {path.suffix for path in (tmp_path / "out" / "tags").iterdir()} == {".jsonl", ".csv"}
    capsys.readouterr()
    assert run(folder, "--out", tmp_path / "out", "--top-k", 1) == 2
    assert "tagged" not in capsys.readouterr().err
    (empty / "bad.wav").write_bytes(b"x")
    assert run(empty, "--out", tmp_path / "bad", "--fail-fast") == 1
    assert "1 input failed, more than the 0 allowed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--merge", "1", "x.wav"], "--merge needs --window"),
        (["--shortest", "1", "--out", "x", "x.wav"], "--shortest needs --merge"),
        (["--shard", "4/4", "--out", "x", "x.wav"], "--shard 4/4: write I/N, with I from 0 to N - 1"),
        (["-", "--out", "x"], "- is a single audio file"),
        (["--scores", "x/*.wav"], "--scores needs --out"),
        (["--format", "raven", "x.wav"], "--format raven needs --out"),
        (["--format", "text", "--out", "x", "x.wav"], "--format text is not one of jsonl, csv, parquet"),
        (["--format", "jsonl,csv", "x.wav"], "--format: one at a time"),
        (["--max-failures", "-1", "x.wav"], "--max-failures"),
    ],
)
def test_wrong_combinations_are_usage_errors(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["tag", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "status"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_signals_leave_what_is_done_and_the_next_run_goes_on(tmp_path: Path, number: int, status: int) -> None:
    recordings, out = tmp_path / "clips", tmp_path / "out"
    recordings.mkdir()
    for i, clip in enumerate(clips(60, 0.1)):
        soundfile.write(recordings / f"{i:03d}.wav", np.tile(clip, 100), RATE)
    command = [sys.executable, "-m", "astfast", "tag", str(recordings), "--out", str(out), "--window", "0.1"]
    command += ["--device", "cpu", "--precision", "float32", "--model", os.environ["TINY_MODEL"]]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(out.glob(".journal/open-*")) or not next(iter(out.glob(".journal/open-*"))).stat().st_size:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    start = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert time.monotonic() - start < 3.0
    assert "Traceback" not in errors
    files = [json.loads(line)["file"] for line in (out / "tags" / "part-00000.jsonl").read_text().splitlines()]
    assert 0 < len(set(files)) < 60
    assert all(files.count(file) == 100 for file in set(files))
    report = json.loads((out / "run.json").read_text())
    assert report["finished"] is False
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert f"{len(set(files))} done before" in done.stderr
    lines = [line for path in out.glob("tags/*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) == 60 * 100


def test_tables_go_beside_the_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, manifest = tmp_path / "out", tmp_path / "m.csv"
    assert run(folder, "--out", out, "--format", "audacity-beside,raven-beside") == 0
    tables = {str(path.relative_to(folder)) for path in folder.rglob("*.txt")}
    names = ("b.wav", "sub/c.flac", "a, b.wav")
    assert tables == {f"{name}.astfast.{ending}.txt" for name in names for ending in ("labels", "selections")}
    assert run(folder, "--out", out, "--format", "csv") == 0  # tables are no audio
    assert "3 done before" in capsys.readouterr().err
    manifest.write_text("path,id,start,end\nb.wav,x/1,0,0.3\nb.wav,x/2,0.3,0.6\n")
    assert run("--from", manifest, "--root", folder, "--out", tmp_path / "parts", "--format", "audacity-beside") == 0
    for part, start in (("0,0.3", "0.000000"), ("0.3,0.6", "0.300000")):
        assert (folder / f"b.wav#t={part}.astfast.labels.txt").read_text().startswith(f"{start}\t")


def test_what_is_left_out_is_counted(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("notes.txt", "sub/cover.jpg", ".hidden.wav"):
        (folder / name).touch()
    assert run(folder, "--out", tmp_path / "out") == 0
    assert "3 tagged, 3 left out (2 not audio, 1 hidden);" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["passed_over"] == {"not audio": 2, "hidden": 1}
