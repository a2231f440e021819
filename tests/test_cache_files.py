"""Large files of the cache folder: whole or absent, whatever happens to them, to the disk or to the process."""

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from astfast import cache_files

VALUES = np.arange(5000, dtype=np.float32).reshape(50, 100)


def checksum(content: memoryview) -> int:
    return zlib.crc32(content)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASTFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / cache_files.FOLDER


def put(name: str = "model", values: np.ndarray = VALUES, size: int = 20_000) -> bool:
    """Writes a file; whether another process had done so."""
    with cache_files.writing(name, size) as writer:
        if writer is not None:
            places = [writer.add(np.zeros(3, np.uint8)), writer.add(values)]
            writer.finish({"about": f"about {name}", "places": places}, checksum)
        return writer is not None


def get(name: str = "model") -> np.ndarray | None:
    contents = cache_files.read(name, checksum)
    return None if contents is None else contents.array(contents.header["places"][1])


def test_arrays_are_mapped_as_they_were_written(folder: Path) -> None:
    assert get() is None
    assert put()
    values = get()
    assert values is not None
    assert np.array_equal(values, VALUES)
    assert values.ctypes.data % cache_files.ALIGNMENT == 0
    assert not values.flags.writeable
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    assert [line.split()[1] for line in mapped] == ["r--s"]  # shared, read-only


def test_a_file_with_a_wrong_byte_counts_as_absent(folder: Path) -> None:
    put(values=VALUES[:1, :50])
    (file,) = folder.iterdir()
    content = file.read_bytes()
    for place in {*range(0, len(content), 7), *range(len(content) - cache_files.END.size, len(content))}:
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert get() is None, place
    for length in (0, 1, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        assert get() is None, length
    file.write_bytes(content)
    assert get() is not None
    file.write_bytes(content[:-1])
    assert put(), "a damaged file is replaced"
    assert get() is not None


def test_links_pipes_and_folders_are_no_files(folder: Path, tmp_path: Path) -> None:
    put()
    (file,) = folder.iterdir()
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert get() is None
    file.unlink()
    os.mkfifo(file)
    start = time.monotonic()
    assert get() is None
    assert time.monotonic() - start < 5  # and not until somebody opens the other end
    file.unlink()
    file.mkdir()
    assert get() is None
    file.rmdir()
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    assert get() is None
    with pytest.raises(OSError, match="not this user's"):
        put()


def test_what_other_users_own_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert get() is None
    assert cache_files.entries() == []
    with pytest.raises(OSError, match="not this user's"):
        put()


def test_a_file_system_that_other_machines_share_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put()
    mounts = f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / {folder.parent} rw shared:1 - nfs4 server:/a rw\n"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda self: mounts.encode() if self.name == "mountinfo" else b"")
        assert get() is None
        with pytest.raises(OSError, match="another machine's"):
            put()
        mounts = mounts.replace("nfs4", "xfs")
        assert get() is not None
        mounts = "2 1 0:5 / /elsewhere rw shared:1 - xfs /dev/b rw\n"  # in a chroot, which sees no mount point above it
        assert get() is None
        assert cache_files.entries() == []
        with pytest.raises(OSError, match="another machine's"):
            put()


def test_a_process_that_is_killed_while_it_writes_leaves_nothing_that_is_used(folder: Path) -> None:
    script = """
import sys, time
import numpy as np
from astfast import cache_files
with cache_files.writing("model", 1000) as writer:
    writer.add(np.zeros(100_000))
    print("half", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    assert get() is None
    assert [(entry.size, entry.about) for entry in cache_files.entries()] == [(800_000, "unfinished")]
    assert [path.suffix for path in folder.iterdir()] == [cache_files.UNFINISHED]
    assert put(), "the lock is free, and the rest is overwritten"
    values = get()
    assert values is not None
    assert np.array_equal(values, VALUES)
    assert len(list(folder.iterdir())) == 1


def test_an_error_while_writing_leaves_nothing(folder: Path) -> None:
    with pytest.raises(KeyError), cache_files.writing("model", 1000):
        raise KeyError
    assert list(folder.iterdir()) == []


def test_a_file_system_that_is_full(folder: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            put()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(folder.iterdir()) == []
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    with pytest.raises(OSError, match="no space"):
        put(size=free - cache_files.FREE + (1 << 30))


def test_a_folder_that_can_not_be_written_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put()

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", read_only)
        assert get() is not None
    (folder.parent / "below").write_text("")
    monkeypatch.setenv("ASTFAST_CACHE", str(folder.parent / "below"))
    assert get() is None
    with pytest.raises(OSError, match="Not a directory"):
        put()


def test_of_two_writers_one_writes_and_the_other_takes_it(folder: Path) -> None:
    written: list[bool] = []
    second = threading.Thread(target=lambda: written.append(put()))
    with cache_files.writing("model", 1000) as writer:
        assert writer is not None
        second.start()
        while not _waits(folder):
            time.sleep(0.001)
        writer.finish({"places": [None, writer.add(VALUES)]}, checksum)
    second.join()
    assert written == [False]
    assert get() is not None
    assert len(list(folder.iterdir())) == 1


def _waits(folder: Path) -> bool:
    """Whether two descriptors of this process are open on the unfinished file by now, besides the writer's copy."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(descriptor.readlink())
    return links.count(folder / ("model" + cache_files.UNFINISHED)) >= 3


def test_many_processes_at_once(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=put) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert get() is not None
    assert len(list(folder.iterdir())) == 1


def test_a_writer_that_takes_too_long_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_files, "LOCK_SECONDS", 0.02)
    with cache_files.writing("model", 1000) as writer:
        assert writer is not None
        with pytest.raises(BlockingIOError):
            put()
        writer.finish({}, checksum)


def test_the_files_used_longest_ago_give_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTFAST_PACKED_CACHE_MB", "1")
    values = np.zeros(100_000, np.float32)  # 0.4 MB
    for age, name in enumerate(("a", "b")):
        put(name, values)
        os.utime(folder / (name + cache_files.SUFFIX), (1000 + age, 1000 + age))
    assert get("a") is not None  # used now
    put("c", values)
    assert [path.stem for path in sorted(folder.iterdir())] == ["a", "c"]
    with pytest.raises(OSError, match="no space"):
        put("d", values, size=1_000_001)
    monkeypatch.setenv("ASTFAST_PACKED_CACHE_MB", "0")
    assert get("a") is None
    with pytest.raises(OSError, match="no space"):
        put("d", values)
    assert {entry.about for entry in cache_files.entries()} == {"about a", "about c"}
    assert cache_files.clear() > 800_000


def test_a_file_that_becomes_too_large_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("a")
    monkeypatch.setenv("ASTFAST_PACKED_CACHE_MB", "1")
    with pytest.raises(OSError, match="no space"):
        put("b", np.zeros(300_000, np.float32), size=900_000)
    assert [path.stem for path in folder.iterdir()] == ["a"]


def test_what_ended_processes_left_unfinished_is_removed_by_the_next_one_that_writes(folder: Path) -> None:
    put("a")
    left, busy = (folder / (name + cache_files.UNFINISHED) for name in ("left", "busy"))
    left.write_bytes(b"half")
    with cache_files.writing("busy", 1000) as writer:
        assert writer is not None
        put("b")
        assert not left.exists()
        assert busy.exists()
        writer.finish({}, checksum)
    assert sorted(path.stem for path in folder.iterdir()) == ["a", "b", "busy"]


def test_a_file_that_is_removed_stays_mapped(folder: Path) -> None:
    put()
    values = get()
    size = next(folder.iterdir()).stat().st_size
    (entry,) = cache_files.entries()
    assert (entry.size, entry.about) == (size, "about model")
    assert cache_files.clear() == size
    assert cache_files.entries() == []
    assert values is not None
    assert np.array_equal(values, VALUES)


def test_damaged_files_are_listed_as_such(folder: Path) -> None:
    put()
    (file,) = folder.iterdir()
    file.write_bytes(b"junk")
    assert [entry.about for entry in cache_files.entries()] == ["damaged"]
