"""``astfast tag``: formats, exit status, and the streams that results and errors go to."""

import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from astfast.audio import inputs, prefetch
from astfast.audio.inputs import AudioStream
from astfast.commands.main import main
from astfast.commands.terminal import FORMATS


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


def test_one_warning_tells_of_all_files_that_are_longer(
    files: list[str], tiny_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stereo = tmp_path / "long.wav"
    soundfile.write(stereo, np.full((64_000, 2), 0.1), 16_000)
    for options, several in ((["--model", str(tiny_model)], 3), (["--model", str(tiny_model), "--channel", "each"], 3)):
        assert run(*options, files[0], str(stereo), files[0], *[str(shutil.copy(stereo, tmp_path / "b.wav"))]) == 0
        (warning,) = capsys.readouterr().err.splitlines()
        assert f"{several} inputs longer than the model's input" in warning
        assert "--window" in warning
        assert run(*options, str(stereo)) == 0
        (warning,) = capsys.readouterr().err.splitlines()
        assert f"{stereo} is 4.0 s long and only its first 0.78 s are used: pass --window" in warning
        assert run(*options, "--window", "1", str(stereo)) == 0
        assert not capsys.readouterr().err


def test_windows_have_times(files: list[str], tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", str(tiny_model), "--window", "0.5", "--hop", "0.25", "--format", "jsonl", *files[:2]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    first = [record for record in records if record["file"] == files[0]]
    assert [record["start"] for record in first] == [0.0, 0.25, 0.5, 0.75]
    assert first[-1]["end"] == 1.25
    assert all(len(record["tags"]) == 5 for record in records)
    assert [record["file"] for record in records] == [files[0]] * 4 + [files[1]] * 4


def test_formats_say_the_same_of_windows(
    files: list[str], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {}
    for form in FORMATS:
        assert run("--model", str(tiny_model), "--window", "0.5", "--top-k", "2", "--format", form, files[0]) == 0
        tables[form] = capsys.readouterr().out.splitlines()
    rows = [
        [record["file"], *(f"{record[time]:.2f}" for time in ("start", "end")), f"{tag['score']:.4f}", tag["label"]]
        for record in map(json.loads, tables["jsonl"])
        for tag in record["tags"]
    ]
    assert [line.split("\t") for line in tables["text"]] == rows
    assert list(csv.reader(tables["csv"])) == [["file", "start", "end", "score", "label"], *rows]


def test_a_window_is_printed_when_it_is_done(
    files: list[str], tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted run of one long file leaves what it has found so far."""
    whole = inputs.open_audio
    noise = np.random.default_rng(0).normal(0, 0.1, 8_000).astype(np.float32)

    def interrupted(*arguments: object, **options: object) -> AudioStream:
        def blocks() -> Iterator[np.ndarray]:
            for _ in range(2_000):
                yield noise
            raise KeyboardInterrupt

        stream = whole(*arguments, **options)
        return AudioStream(stream.name, stream.rate, stream.duration, blocks(), stream.notes)

    monkeypatch.setattr(prefetch, "open_audio", interrupted)
    assert run("--model", str(tiny_model), "--window", "0.5", "--top-k", "1", files[0]) == 130
    starts = [float(line.split("\t")[1]) for line in capsys.readouterr().out.splitlines()]
    assert starts == [0.5 * i for i in range(len(starts))]
    assert 1_000 < len(starts) <= 2_000


@pytest.mark.parametrize("window", [[], ["--window", "0.5"]])
def test_rows_can_be_joined_to_files(
    window: list[str], files: list[str], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CSV and text: each file that was read has a row, JSON Lines: each file has a record."""
    options = ["--model", str(tiny_model), "--threshold", "1", *window, files[0], files[2], files[1]]
    assert run("--format", "csv", *options) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row.pop("file") for row in rows] == files[:2]
    assert not any(cell for row in rows for cell in row.values())
    assert run(*options) == 1
    cells = 5 if window else 3
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        [file, *[""] * (cells - 1)] for file in files[:2]
    ]
    assert run("--format", "jsonl", *options) == 1
    captured = capsys.readouterr()
    records = [json.loads(line) for line in captured.out.splitlines()]
    assert sorted({record["file"] for record in records}) == sorted(files)
    (failed,) = (record for record in records if "error" in record)
    assert failed["file"] == files[2]
    assert f"astfast: error: {failed['error']}\n" in captured.err


ODD_NAMES = ("tab\t.wav", "line\n.wav", "return\r.wav", "title\x1b]0;x\x07.wav", "caf\udce9.wav", 'ä, "日".wav')


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_odd_names_in_every_encoding(
    encoding: str, files: list[str], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(tmp_path / name) for name in ODD_NAMES]
    for path in paths:
        shutil.copy(files[0], path)
    printed = {}
    for form in FORMATS:
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
        assert run("--model", str(tiny_model), "--top-k", "1", "--format", form, *paths) == 0
        printed[form] = raw.getvalue().decode(encoding)
    lines = [line.split("\t") for line in printed["text"].split("\n")[:-1]]
    assert [len(line) for line in lines] == [3] * len(paths)
    ends = [name[0].removeprefix(f"{tmp_path}/") for name in lines]
    assert ends[:5] == [r"tab\t.wav", r"line\n.wav", r"return\r.wav", r"title\x1b]0;x\x07.wav", r"caf\udce9.wav"]
    assert [json.loads(line)["file"] for line in printed["jsonl"].splitlines()] == paths
    rows = list(csv.reader(io.StringIO(printed["csv"], newline="")))[1:]
    assert [len(row) for row in rows] == [3] * len(paths)
    assert [row[0] for row in rows][:4] == paths[:4]
    assert encoding != "utf-8" or rows[5][0] == paths[5]


def test_labels_reach_no_terminal_as_commands(
    files: list[str], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((tiny_model / "config.json").read_text())
    count = len(config["id2label"])
    config["id2label"] = {str(i): f"\x1b]0;{i}\x07\u202e\t\ud800" for i in range(count)}
    config["label2id"] = {name: int(i) for i, name in config["id2label"].items()}
    shutil.copytree(tiny_model, odd := Path(files[0]).with_name("odd-labels"))
    (odd / "config.json").write_text(json.dumps(config))
    for form in FORMATS:
        assert run("--model", str(odd), "--format", form, files[0]) == 0
        out = capsys.readouterr().out
        assert form == "csv" or not set("\x1b\x07") & set(out)
        assert form != "text" or "\u202e" not in out


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
    assert done.stderr.startswith(b"astfast: error: -: ")


def test_standard_input_that_is_closed_or_raises(
    files: list[str], tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115
    for stdin, reason in ((None, "standard input is closed"), (nowhere, "reading failed")):
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run("--model", str(tiny_model), "--top-k", "1", "-", files[0]) == 1
        captured = capsys.readouterr()
        (error,) = (line for line in captured.err.splitlines() if "error" in line)
        assert error.startswith("astfast: error: -: ")
        assert reason in error
        assert len(captured.out.splitlines()) == 1
        assert run("--model", str(tiny_model), "-", "--raw", "s16le", "--rate", "16000") != 0
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith("astfast: error: -: reading failed")
        assert reason in error


@pytest.mark.parametrize("window", [[], ["--window", "0.5"]])
@pytest.mark.parametrize("form", FORMATS)
def test_a_full_disk_has_its_own_exit_status(
    form: str, window: list[str], files: list[str], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "stderr", stderr)
        assert run("--model", str(tiny_model), "--format", form, *window, *files[:2]) == 74
    (error,) = (line for line in stderr.getvalue().splitlines() if "error" in line)
    assert error.startswith("astfast: error: standard output can't be written to (No space left on device)")


@pytest.mark.parametrize("form", FORMATS)
def test_a_closed_standard_output(
    form: str, files: list[str], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert run("--model", str(tiny_model), "--format", form, files[0]) == 74
    assert "standard output can't be written to (it is closed)" in capsys.readouterr().err


@pytest.mark.parametrize("stderr", [None, "/dev/full"])
def test_messages_that_can_not_be_written_cost_no_result(
    stderr: str | None, files: list[str], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stderr and Path(stderr).open("w", buffering=1))  # noqa: SIM115
        assert run("--model", str(tiny_model), "--top-k", "1", files[2], *files[:2]) == 1
        assert len(capsys.readouterr().out.splitlines()) == 2
        with contextlib.suppress(OSError):
            sys.stderr.close()


def test_descriptors_that_are_closed_are_no_file_of_the_process(files: list[str], tiny_model: Path) -> None:
    """An audio file that is opened as descriptor 1 or 2 would be written into."""
    before = Path(files[0]).read_bytes()
    command = f"{sys.executable} -m astfast tag --device cpu --model {tiny_model} {files[0]} {files[2]} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], check=False, timeout=60).returncode == 74
    assert Path(files[0]).read_bytes() == before


def test_a_standard_error_on_a_full_disk_costs_no_result(files: list[str], tiny_model: Path) -> None:
    command = f"{sys.executable} -m astfast tag --device cpu --model {tiny_model} {files[0]} {files[2]} 2>/dev/full"
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, timeout=60)
    assert (done.returncode, bool(done.stdout)) == (1, True)


def test_an_empty_name(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", str(tiny_model), "") == 1
    assert capsys.readouterr().err == "astfast: error: '': there is no such file: check the path\n"


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


@pytest.mark.parametrize("out", [False, True])
def test_how_files_are_read_can_be_said(
    out: bool, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--channel, --strict and --max-duration, to standard output and into a folder."""
    rng = np.random.default_rng(1)
    left, right = 0.1 * rng.standard_normal((2, 10_000))
    for name, samples in (("left.wav", left), ("right.wav", right), ("both.wav", np.stack([left, 3 * right], axis=1))):
        soundfile.write(tmp_path / name, samples, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "cut.wav", left, 16_000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:12_000])

    def tags(name: str, *options: str) -> list[str]:
        folder = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        where = ("--out", str(folder), "--progress", "off") if out else ("--format", "jsonl")
        run("--model", str(tiny_model), *where, *options, str(tmp_path / name))
        printed = capsys.readouterr().out.splitlines()
        rows = [line for path in folder.rglob("*.jsonl") for line in path.read_text().splitlines()] if out else printed
        found = [row.get("tags", row.get("error")) for row in map(json.loads, rows)]
        return [json.dumps(value) for value in found if value]

    assert tags("both.wav", "--channel", "0") == tags("left.wav") != tags("both.wav")
    assert tags("both.wav", "--channel", "max") == tags("both.wav", "--channel", "1")
    assert "channel" in tags("both.wav", "--channel", "2")[0]
    assert "label" in tags("cut.wav")[0]
    assert "cut.wav" in tags("cut.wav", "--strict")[0]
    assert "limit" in tags("left.wav", "--window", "0.3", "--max-duration", "0.5")[0]


def test_a_pipe_without_an_end_is_tagged_as_it_comes(tiny_model: Path) -> None:
    command = [sys.executable, "-m", "astfast", "tag", "--device", "cpu", "--precision", "float32", "--model"]
    command += [str(tiny_model), "-", "--raw", "s16le", "--rate", "16000", "--window", "0.5", "--format", "jsonl"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(3):  # each window comes before the next one is sent
        process.stdin.write(bytes(16_000))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["start"] == 0.5 * number
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stdout.close()


def test_raw_audio_needs_its_rate(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["-", "--raw", "s16le"], ["x.raw", "--raw", "s16le", "--rate", "8000"]):
        with pytest.raises(SystemExit, match="2"):
            main(["tag", *arguments])
        assert "--raw needs --rate, and - as the only FILE" in capsys.readouterr().err
    for arguments in (["x.wav", "--rate", "8000"], ["x.wav", "--channels", "2"]):
        with pytest.raises(SystemExit, match="2"):
            main(["tag", *arguments])
        assert "--rate and --channels need --raw" in capsys.readouterr().err


def test_token_merging_is_a_share_that_load_takes(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--token-merging", "0.75", files[0]) == 0
    capsys.readouterr()
    for wrong in ("0.76", "nan", "half"):
        with pytest.raises(SystemExit, match="2"):
            run("--token-merging", wrong, files[0])
        assert f"argument --token-merging: '{wrong}' is not a number" in capsys.readouterr().err


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_replicas_and_threads(
    files: list[str], tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", str(tiny_model))
    assert run(*model, *files[:2]) == 0
    expected = capsys.readouterr().out
    for options in (("--replicas", "2"), ("--replicas", "auto"), ("--threads", "2", "--replicas", "2")):
        assert run(*model, *options, *files[:2]) == 0
        assert capsys.readouterr().out == expected
    assert run(*model, "--replicas", "2", "--out", str(tmp_path / "tags"), *files[:2]) == 0
    capsys.readouterr()
    assert run(*model, "--replicas", "100000", *files[:2]) == 2
    assert "--replicas is 100000: this process has " in capsys.readouterr().err
    for wrong in (("--replicas", "0"), ("--replicas", "many"), ("--replicas", "2", "--ray", "local")):
        with pytest.raises(SystemExit, match="2"):
            run(*model, *wrong, *files[:2])
        assert "--replicas" in capsys.readouterr().err
