"""``astfast cache``: what is kept, where, and how it is removed."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from astfast import cache_files
from astfast.commands.main import main


def test_files_are_listed_and_cleared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"0 MB of at most 2000 MB in {tmp_path / 'cache'}\n"
    for name in ("a", "b"):
        with cache_files.writing(name, 0) as writer:
            assert writer is not None
            writer.add(np.zeros(2_000_000, np.uint8))
            writer.finish({"about": f"model {name}"}, lambda _: 0)
    (entry,) = [entry for entry in cache_files.entries() if entry.about == "model a"]
    os.utime(entry.path, (entry.used - 3 * 86_400, entry.used - 3 * 86_400))
    assert main(["cache", "list"]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [[word.strip() for word in line if word] for line in lines[:3]] == [
        ["size", "last used", "packed weights"],
        ["2 MB", "in the last hour", "model b"],
        ["2 MB", "3 days ago", "model a"],
    ]
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == "4 MB freed\n"
    assert cache_files.entries() == []


def test_what_cannot_be_removed_is_not_called_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with cache_files.writing("a", 0) as writer:
        assert writer is not None
        writer.finish({"about": "a model"}, lambda _: 0)

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert main(["cache", "clear"]) != 0
    told = capsys.readouterr()
    assert "freed" not in told.out
    assert "can't be removed: Permission denied" in told.err


def test_the_folder_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "path"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'cache'}\n"


def test_a_limit_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ASTFAST_PACKED_CACHE_MB", "lots")
    assert main(["cache"]) == 2
    assert "ASTFAST_PACKED_CACHE_MB is 'lots': set it to a number of megabytes, or unset it" in capsys.readouterr().err
