"""Messages of the library in the words of the command line."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from astfast.commands.arguments import in_options
from astfast.commands.main import main

OPTIONS = Namespace(
    window=None, top_k=5, device="auto", force=False, labels=None, urls=None, files=["a", "x/window=3.wav"]
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("pass window= (in seconds)", "pass --window (in seconds)"),
        ("use device='cpu' or top_k=3.", "use --device cpu or --top-k 3."),
        ("pass force=True", "pass --force"),
        ("or pass on_damage='warn' to keep", "or pass no --strict to keep"),
        ("allow them with urls= and a limit", "allow them with --urls and a limit"),
        ("top_k is 0: it must be a whole number", "--top-k is 0: it must be a whole number"),
        ("this is not window is 3", "this is not window is 3"),
        ("pass unheard_of=3, or not", "pass unheard_of=3, or not"),
        ("Pass labels= for all.", "Pass labels= (in Python) for all."),
        ("pass mean= and std= (AudioSet's)", "pass mean= (in Python) and std= (in Python) (AudioSet's)"),
        ("x/window=3.wav: not audio, window=", "x/window=3.wav: not audio, --window"),
        ("b/window=3.wav: not audio", "b/window=3.wav: not audio"),
    ],
)
def test_keywords_of_the_library_become_options(message: str, expected: str) -> None:
    assert in_options(message, OPTIONS) == expected


def test_an_option_that_can_not_be_is_an_error_before_anything_is_read(
    tiny_model: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tag", "--device", "cpu", "--model", str(tiny_model), "--window", "1e-9", files[0]]) == 2
    captured = capsys.readouterr()
    assert captured.err == "astfast: error: --window is 1e-09: it must be a number of seconds, 0.025 or more\n"
    assert not captured.out


def test_errors_of_files_speak_of_options(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--device", "cpu", "--model", str(tiny_model)]
    for form in ("text", "jsonl"):
        assert main(["tag", *model, "--format", form, "http://localhost/a.wav"]) == 1
        captured = capsys.readouterr()
        assert "allow them with --urls and a limit in MB" in captured.err
        assert "urls=" not in captured.out


def test_devices_are_one_or_several(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tag", "--device", "cuda:0,cpu", files[0]]) == 2
    assert "device 'cpu' is unknown: use auto, cpu, cuda, cuda:N, or a list of cuda devices" in capsys.readouterr().err


def test_the_note_on_long_audio_speaks_of_options(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "window=long.wav", np.zeros(16_000 * 20), 16_000)
    path = str(tmp_path / "window=long.wav")
    assert main(["tag", "--device", "cpu", "--model", str(tiny_model), path]) == 0
    message = capsys.readouterr().err
    assert message.startswith(f"astfast: warning: {path} ")
    assert "pass --window" in message


def test_raw_audio_is_called_by_the_name_that_was_given() -> None:
    options = Namespace(files=["-"], raw="f32le")
    assert in_options("<live audio>: not finite", options) == "-: not finite"
