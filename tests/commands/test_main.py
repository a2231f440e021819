"""The parser of all commands: usage errors, and which modules it imports."""

import argparse
import pkgutil
import subprocess
import sys
import warnings
from typing import Literal

import pytest

from astfast import models, notes
from astfast.backends import module_of
from astfast.commands import doctor
from astfast.commands.main import COMMANDS, main, parser
from astfast.version import __version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["tag"], "FILE"),
        (["tag", "x.wav", "--top-k", "0"], "'0' is not a whole number of at least 1"),
        (["tag", "x.wav", "--top-k", "٣"], "'٣' is not a whole number of at least 1"),
        (["tag", "x.wav", "--top-k", "9" * 5_000], "is not a whole number of at least 1"),
        (["tag", "x.wav", "--top-k", "1.5"], "'1.5' is not a whole number of at least 1"),
        (["tag", "x.wav", "--window", "-1"], "--window"),
        (["tag", "x.wav", "--window", "0"], "'0' is not a positive number"),
        (["tag", "x.wav", "--window", "inf"], "'inf' is not a positive number"),
        (["tag", "x.wav", "--window", "ten"], "'ten' is not a positive number"),
        (["tag", "x.wav", "--threshold", "1.1"], "'1.1' is not a number from 0 to 1"),
        (["tag", "x.wav", "--threshold", "nan"], "'nan' is not a number from 0 to 1"),
        (["tag", "x.wav", "--hop", "1"], "astfast tag: error: --hop needs --window"),
        (["tag", "-", "x.wav", "-"], "standard input (-) can be read once only"),
        (["tag", "x.wav", "--format", "xml"], "jsonl"),
        (["tag", "x.wav", "--precision", "fp8"], "float8"),
        (["tag", "x.wav", "--top", "3"], "--top"),
        (["convert", "x.pth"], "FOLDER"),
        (["doctor", "--all"], "--all"),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("usage: astfast")
    assert not captured.out


def test_scores_of_0_and_1_are_thresholds() -> None:
    assert parser().parse_args(["tag", "x", "--threshold", "0"]).threshold == 0.0
    assert parser().parse_args(["tag", "x", "--threshold", "1"]).threshold == 1.0


def test_help_names_every_precision(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["tag", "--help"])
    text = capsys.readouterr().out
    for precision in {"auto", *module_of("cpu").precisions(), *module_of("cuda").precisions()}:
        assert precision in text


@pytest.mark.parametrize(
    ("error", "message"),
    [(RuntimeError("odd"), "this is a bug in astfast: please report it"), (MemoryError(), "no memory left: close")],
)
def test_an_unexpected_error_has_its_own_status(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: argparse.Namespace) -> bool:
        raise error

    monkeypatch.setattr(doctor, "run", run)
    assert main(["doctor"]) == 70
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"astfast: error: {message}")


@pytest.mark.parametrize("filter_", ["error", "default", "ignore"])
def test_warnings_are_lines_whatever_the_filters(
    filter_: Literal["error", "default", "ignore"], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: argparse.Namespace) -> bool:
        notes.show(notes.Note("first line\nsecond"))
        return True

    monkeypatch.setattr(doctor, "run", run)
    with warnings.catch_warnings():
        warnings.simplefilter(filter_)
        assert main(["doctor"]) == 0
    assert capsys.readouterr().err == "astfast: warning: first line\\nsecond\n"


def modules_of(*arguments: str) -> set[str]:
    """Modules that a process has imported when this command is done."""
    code = f"import sys; from astfast.commands.main import main; main({arguments!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.splitlines()[-1].split())


def test_the_parser_imports_nothing_slow() -> None:
    code = (
        "import sys; from astfast.commands.main import parser; parser('tag').parse_args(['tag', 'a.wav']); "
        "print({'numpy', 'importlib.metadata'} & {*sys.modules}); parser().parse_args(['--version'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["set()", f"astfast {__version__}"]


def test_tagging_a_file_imports_nothing_for_other_work() -> None:
    """A cold ``astfast tag`` of one file is the sum of its imports: a new one here has to be needed."""
    imported = modules_of("tag", "--precision", "float32", "samples/dog.ogg")
    assert "astfast.tagging.pipeline" in imported
    others = {"torch", "huggingface_hub", "importlib.metadata", "zipfile", "traceback"}
    others |= {"astfast.checkpoints.torch_file"}
    others |= {f"astfast.commands.{name}" for name in COMMANDS if name != "tag"}
    others |= {f"astfast.models.{package.name}" for package in pkgutil.iter_modules(models.__path__) if package.ispkg}
    others -= {"astfast.models.ast"}
    others |= {f"astfast.engines.{name}" for name in ("replicas", "ensemble", "cuda_graphs")}
    assert imported & others == set()


def test_every_command_has_its_line_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"{name} {summary}" in text for name, summary in COMMANDS.items())


def test_the_process_ends_with_the_status_and_hooks_of_atexit(files: list[str]) -> None:
    code = (
        "import atexit, sys; sys.argv = ['astfast', 'tag', *sys.argv[1:]]; atexit.register(print, 'hook');"
        "from astfast.commands.main import entry; entry()"
    )
    for names, status in ((files[:1], 0), (files[2:], 1)):
        done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (status, "hook")
