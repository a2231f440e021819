"""Large files of the user's cache folder, mapped into memory: checked, atomic, of bounded size in all.

A file holds arrays and a header that names them, and ends with a checksum of all that is before it: one that is damaged
or unfinished counts as absent. As in ``cache``, links and what other users own are left alone. Pages of a mapped file
are shared by all processes that read it. Only file systems of this machine are used: where another machine can remove
or shorten a file, reading on in it ends the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astfast import cache
from astfast.environment import cache_folder, packed_cache_bytes

FOLDER, SUFFIX, UNFINISHED = "packed", ".arrays", ".unfinished"
END = struct.Struct("<16sQQ")  # magic, where the header starts, checksum of all bytes before this one
MAGIC, CHECKSUM_BYTES = b"astfast arrays 1", 8
ALIGNMENT = 64  # bytes: a cache line
LOCK_SECONDS = 20.0  # that a process waits for another one to finish the file that both want
FREE = 1 << 30  # bytes that stay free on the file system
LOCAL = {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"}  # file systems

Checksum = Callable[[memoryview], int]


class Contents(NamedTuple):
    """A file that was read: its header, and the memory that its arrays lie in."""

    header: dict[str, Any]
    memory: mmap.mmap

    def array(self, place: list[Any]) -> NDArray[Any]:
        """An array as ``Writer.add`` has placed it. Raises ValueError for a place that is none."""
        start, dtype, shape = place
        values: NDArray[Any] = np.frombuffer(self.memory, dtype, prod(shape), start)
        shaped: NDArray[Any] = values.reshape(shape)
        return shaped


class Writer:
    """A file in the making."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def add(self, array: NDArray[Any]) -> list[Any]:
        """Appends an array; its place, for the header."""
        self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
        place = [self._file.tell(), array.dtype.str, list(array.shape)]
        self._file.write(np.ascontiguousarray(array).data)
        return place

    def finish(self, header: dict[str, Any], checksum: Checksum) -> None:
        """Writes the header and the checksum."""
        start = self._file.tell()
        self._file.write(json.dumps(header).encode() + END.pack(MAGIC, start, 0)[:-CHECKSUM_BYTES])
        self._file.flush()
        with mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ) as memory, memoryview(memory) as content:
            value = checksum(content)
        self._file.write(value.to_bytes(CHECKSUM_BYTES, "little"))
        self._file.flush()


class Entry(NamedTuple):
    """A file of the folder."""

    path: Path
    size: int  # bytes
    used: float  # time of the last use, seconds since the epoch
    about: str  # what is in it


def read(name: str, checksum: Checksum) -> Contents | None:
    """The file of this name, mapped; None where there is none, or not one that can be relied on."""
    if not packed_cache_bytes():
        return None
    try:
        path = _folder() / (name + SUFFIX)
        with cache.opened(path, os.O_RDONLY) as file:
            memory = mmap.mmap(file, 0, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)
        header = _header(memory, checksum)
    except (OSError, ValueError, struct.error):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the time of its last use
    return Contents(header, memory)


def _header(memory: mmap.mmap, checksum: Checksum | None) -> dict[str, Any]:
    """The header of a file. Raises ValueError or struct.error for one that is damaged."""
    end = len(memory) - END.size
    magic, start, expected = END.unpack_from(memory, end if end > 0 else len(memory))
    with memoryview(memory) as content, content[:-CHECKSUM_BYTES] as checked:
        if magic != MAGIC or start > end or (checksum is not None and checksum(checked) != expected):
            raise ValueError("it is damaged")
    header: Any = json.loads(memory[start:end])
    if not isinstance(header, dict):
        raise ValueError("it has no header")
    return header


@contextlib.contextmanager
def writing(name: str, size: int) -> Iterator[Writer | None]:
    """The new file of this name, of about ``size`` bytes, put in place when the block ends without an error.

    None where another process has written it meanwhile. Raises OSError where it can't be written, would leave too
    little space, or another process takes too long.
    """
    folder = _folder(make=True)
    disk = os.statvfs(folder)
    if size > packed_cache_bytes() or disk.f_bavail * disk.f_frsize < size + FREE:
        raise OSError("no space")
    final, unfinished = folder / (name + SUFFIX), folder / (name + UNFINISHED)
    before = _inode(final)
    with _locked(unfinished) as descriptor, os.fdopen(os.dup(descriptor), "wb") as file:
        if _inode(final) != before:
            unfinished.unlink()
            yield None
            return
        try:
            os.ftruncate(descriptor, 0)
            yield Writer(file)
            if file.tell() > packed_cache_bytes():
                raise OSError("no space")
            unfinished.replace(final)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    _trim(final)


def entries() -> list[Entry]:
    """All files, the one that was used last first; damaged and unfinished ones too, which say so."""
    found = []
    with contextlib.suppress(OSError):
        for path in _files():
            with contextlib.suppress(OSError), cache.opened(path, os.O_RDONLY) as file:
                status = os.fstat(file)
                found.append(Entry(path, status.st_size, status.st_mtime, _about(path, file)))
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def clear() -> int:
    """Removes all files; processes that have mapped one go on with it. Returns bytes that were freed. Raises OSError
    for one that can't be removed."""
    freed, paths = 0, list[Path]()
    with contextlib.suppress(OSError):  # no folder, or none of this user's
        paths = _files()
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # another process clears it too
            size = path.lstat().st_size
            path.unlink()
            freed += size
    return freed


def _files() -> list[Path]:
    """All files of the folder, finished and not. Raises OSError as ``_folder``, and where there is none."""
    return [path for path in _folder().iterdir() if path.suffix in (SUFFIX, UNFINISHED)]


def _about(path: Path, file: int) -> str:
    """What is in a file of the folder."""
    if path.suffix == UNFINISHED:
        return "unfinished"
    try:
        with mmap.mmap(file, 0, prot=mmap.PROT_READ) as memory:
            return str(_header(memory, None).get("about"))
    except (ValueError, struct.error):
        return "damaged"


def _trim(newest: Path) -> None:
    """Removes what processes that ended meanwhile left unfinished, and then files that were not used for longest, until
    all are of the permitted size."""
    for path in newest.parent.glob("*" + UNFINISHED):
        with contextlib.suppress(OSError), cache.opened(path, os.O_RDWR) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else it is being written
            if _inode(path) == os.fstat(file).st_ino:  # else it was finished just now
                path.unlink()
    rest = packed_cache_bytes() - newest.stat().st_size
    for entry in entries():
        if entry.path.suffix == SUFFIX and entry.path != newest:
            rest -= entry.size
            if rest < 0:
                entry.path.unlink(missing_ok=True)


def _folder(make: bool = False) -> Path:
    """The folder of the files. Raises OSError where it is another user's, a link, on no file system of this
    machine, or there is none."""
    try:
        folder = cache_folder() / FOLDER
    except RuntimeError as error:
        raise FileNotFoundError(f"no cache folder: {error}") from error
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    for place in (folder.parent.resolve(), folder):
        if not cache.own(place.lstat()) or place.is_symlink():
            raise PermissionError(f"{place} is not this user's")
    if _file_system(folder.resolve()) not in LOCAL:
        raise PermissionError(f"{folder} may be another machine's")
    return folder


def _file_system(folder: Path) -> str:
    """Type of the file system that a folder is on; empty where its mount point is not seen, as in a chroot."""
    mounted: dict[str, str] = {}  # by mount point; the last one covers those before it
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        mount, _, system = line.partition(b" - ")
        point = mount.split()[4].replace(rb"\040", b" ").decode(errors="surrogateescape")
        mounted[point] = system.split()[0].decode(errors="replace")
    return next((mounted[str(place)] for place in (folder, *folder.parents) if str(place) in mounted), "")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Descriptor of an unfinished file, and of no other process as long as the context lasts."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        with cache.opened(path, os.O_RDWR | os.O_CREAT) as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.01)
            if _inode(path) == os.fstat(file).st_ino:  # else it was finished or given up while this process waited
                yield file
                return


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return None
