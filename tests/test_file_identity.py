"""The identity of a file changes with its contents, however these got there."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from astfast.file_identity import identity


def test_it_stays_while_a_file_does(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(100_000))
    link = tmp_path / "link"
    link.symlink_to(path)
    assert identity(path) == identity(path) == identity(link)
    (tmp_path / "empty").touch()
    assert identity(tmp_path / "empty") != identity(path)


def test_another_file_of_the_same_size_and_date_has_another(tmp_path: Path) -> None:
    """As ``cp -p`` of another model, rsync and unpacking an archive leave it."""
    first, second = tmp_path / "first", tmp_path / "second"
    content = np.random.default_rng(0).bytes(300_000)
    first.write_bytes(content)
    second.write_bytes(content[:150_000] + b"other" + content[150_005:])  # where no block is looked at
    os.utime(second, ns=(first.stat().st_atime_ns, first.stat().st_mtime_ns))
    before = identity(first)
    shutil.copy2(second, first)
    assert first.stat().st_mtime_ns == second.stat().st_mtime_ns
    assert identity(first) != before


@pytest.mark.parametrize("place", [0, 65_535, 1_000_000 // 2, 999_999])
def test_contents_count_where_a_file_system_keeps_no_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(1_000_000))
    status = list(path.stat())
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result(status))
    before = identity(path)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\1")
    assert identity(path) != before


def test_a_model_of_any_size_is_told_in_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(40 << 30)  # sparse
    read = []
    pread = os.pread
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", lambda fd, size, at: read.append(size) or pread(fd, size, at))
        identity(path)
    assert sum(read) <= 1 << 18
