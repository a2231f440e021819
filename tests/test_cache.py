"""The user's cache folder: whatever is in it or in its way, a run goes on, waits for nothing and follows no link."""

import fcntl
import os
import pwd
import time
from pathlib import Path

import pytest

import astfast
from astfast import cache

FILE = "verdicts.json"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASTFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(name: str = "key") -> None:
    cache.update(FILE, lambda content: content.update({name: True}))


def test_a_verdict_is_kept_for_this_user_alone(folder: Path) -> None:
    put()
    put("other")
    assert cache.read(FILE) == {"key": True, "other": True}
    assert {path.name for path in folder.iterdir()} == {FILE, "verdicts.lock"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())


@pytest.mark.parametrize("name", [FILE, "verdicts.lock"])
def test_links_are_not_followed(name: str, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text('{"planted": true}')
    folder.mkdir()
    (folder / name).symlink_to(target)
    assert cache.read(FILE) == {}
    put()
    assert target.read_text() == '{"planted": true}'
    assert "planted" not in cache.read(FILE)


@pytest.mark.parametrize("name", [FILE, "verdicts.lock"])
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_pipes_and_folders_are_no_files(name: str, make: object, folder: Path) -> None:
    folder.mkdir()
    assert callable(make)
    make(folder / name)
    start = time.monotonic()
    assert cache.read(FILE) == {}
    put()
    assert time.monotonic() - start < 5  # and not until somebody opens the other end


def test_a_lock_that_is_held_costs_a_second_at_most(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.LOCK_SECONDS <= 1
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.05)
    put()
    with (folder / "verdicts.lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        start = time.monotonic()
        put("late")
        assert 0.05 <= time.monotonic() - start < 5  # and not until the other lets it go
    assert cache.read(FILE) == {"key": True, "late": True}


@pytest.mark.parametrize(
    "text",
    [b"", b"[1, 2]", b"{not json", b"[" * 100_000, b'{"a": "\xff"}', b'{"a": "' + b"x" * cache.MAX_BYTES + b'"}'],
)
def test_content_that_can_not_be_is_none(text: bytes, folder: Path) -> None:
    folder.mkdir()
    (folder / FILE).write_bytes(text)
    assert cache.read(FILE) == {}
    put()
    assert cache.read(FILE) == {"key": True}


def test_a_file_of_the_largest_size_is_read(folder: Path) -> None:
    folder.mkdir()
    text = '{"a": "' + "x" * (cache.MAX_BYTES - 9) + '"}'
    (folder / FILE).write_text(text)
    assert len(text) == cache.MAX_BYTES
    assert "a" in cache.read(FILE)


def test_files_and_folders_of_others_are_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put()
    before = (folder / FILE).read_bytes()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert cache.read(FILE) == {}
    put("mine")
    assert (folder / FILE).read_bytes() == before


def test_nothing_is_left_of_an_update_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError

    put()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        put("lost")
    assert {path.name for path in folder.iterdir()} == {FILE, "verdicts.lock"}
    assert cache.read(FILE) == {"key": True}


def test_a_user_without_a_home_has_no_cache(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    for variable in ("ASTFAST_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    put()
    assert cache.read(FILE) == {}
    astfast.load(tiny_model, device="cpu")


def test_a_relative_folder_of_xdg_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASTFAST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    put()
    assert (tmp_path / ".cache" / "astfast" / FILE).is_file()
