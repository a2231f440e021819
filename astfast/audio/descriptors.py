"""Paths, bytes and file objects -> open file descriptors, which C libraries read without calling Python.

A file object is read to its end here, on the thread of the call: whatever it raises or returns is reported with its
cause, and nothing that happens to it later changes what is decoded.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tempfile
from collections.abc import Callable
from typing import Any

from astfast.errors import AudioError

BYTES_PER_READ = 1 << 20  # of a file object or pipe
SHARE_OF_MEMORY = 4  # a pipe or file object may fill a quarter of it: it may have no end
TEXT = "a text file object: open it in binary mode, open(path, 'rb')"


class OpenFile:
    """An open descriptor of bytes that can be sought, closed by ``close`` or with the last reference to this.

    It has one position: it is decoded once at a time.
    """

    __slots__ = ("fd", "name", "size")

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name  # what messages call it
        self.size = os.fstat(fd).st_size  # bytes

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close


def name_of_file(source: Any) -> str | None:
    """What messages call a path, the bytes of a file, a file object or an open file; None for any other object."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source) or "''"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{source.nbytes if isinstance(source, memoryview) else len(source)} bytes>"
    if not isinstance(source, OpenFile) and not hasattr(source, "read"):
        return None
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<file object>"


def taken(source: str | os.PathLike[str] | bytes | Any, name: str) -> OpenFile:
    """A path, the bytes of a file, or a binary file object (from its beginning; never closed) as an open file.

    A regular file is opened, not read; all else is copied to memory: bytes, pipes and other file objects. What the
    caller does to the object afterwards has no effect. Raises AudioError that names the input by ``name`` for what
    can't be opened or read, and for what is empty.
    """
    if isinstance(source, OpenFile):
        return source
    try:
        if isinstance(source, str | os.PathLike):
            file = _opened(source, name)
        elif isinstance(source, bytes | bytearray | memoryview):
            file = memory_file(name)
            write(file.fd, source)
        else:
            file = _reopened(source, name) or _copied(_reader(source, name), name)
    except OSError as error:  # no memory, no descriptor left
        raise AudioError(f"{name}: can't be opened ({error})", kind="unreadable") from error
    file.size = os.fstat(file.fd).st_size
    if not file.size:
        raise AudioError(f"{name}: the file is empty (0 bytes)", kind="empty")
    return file


def _opened(path: str | os.PathLike[str], name: str) -> OpenFile:
    try:
        file = OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY), name)
    except FileNotFoundError:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
            raise AudioError(
                f"{name}: URLs are not fetched: download it and pass the file or its bytes", kind="unsupported"
            ) from None
        raise AudioError(f"{name}: there is no such file: check the path", kind="missing") from None
    except PermissionError:
        raise AudioError(f"{name}: no permission to read it", kind="unreadable") from None
    except ValueError as error:  # a null character
        raise AudioError(f"{name}: can't be opened ({error})", kind="unreadable") from error
    mode = os.fstat(file.fd).st_mode
    if stat.S_ISDIR(mode):
        raise AudioError(f"{name}: is a folder: give the audio files in it", kind="unreadable")
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        return _copied(lambda count: os.read(file.fd, count), name)
    if not stat.S_ISREG(mode):
        raise AudioError(f"{name}: is not a regular file or a pipe: give an audio file", kind="unreadable")
    return file


def _reopened(source: Any, name: str) -> OpenFile | None:
    """The regular file behind what open(path, "rb") gave, with a position of its own; None for other objects."""
    if type(source) is not io.BufferedReader or type(source.raw) is not io.FileIO or source.closed:
        return None
    try:
        file = OpenFile(os.open(f"/proc/self/fd/{source.fileno()}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), name)
    except OSError:  # no /proc, or no permission any more
        return None
    return file if stat.S_ISREG(os.fstat(file.fd).st_mode) else None


def _reader(source: Any, name: str) -> Callable[[int], Any]:
    """The object's method ``read``, at the beginning of the object where that can seek."""
    if isinstance(source, io.TextIOBase):
        raise AudioError(f"{name}: {TEXT}")
    if _can_seek(source, name):
        _called(source.seek, name, 0)
    read: Callable[[int], Any] = source.read
    return read


def _can_seek(source: Any, name: str) -> bool:
    seekable = getattr(source, "seekable", None)
    try:
        return hasattr(source, "seek") and (seekable is None or bool(_called(seekable, name)))
    except AudioError:  # members of a tar archive that is streamed have the method, which raises
        return False


def _copied(read: Callable[[int], Any], name: str) -> OpenFile:
    """All that ``read`` gives, in memory, and no more than fits well."""
    file = memory_file(name)
    left = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // SHARE_OF_MEMORY
    while True:
        data = _called(read, name, BYTES_PER_READ)
        if isinstance(data, str):
            raise AudioError(f"{name}: {TEXT}")
        if not isinstance(data, bytes | bytearray | memoryview):
            raise AudioError(f"{name}: read() gave {type(data).__name__} instead of bytes: pass a binary file object")
        if not len(data):
            return file
        left -= len(data)
        if left < 0:
            raise AudioError(
                f"{name}: has no end, or more bytes than a quarter of the memory: save it to a file and pass its path, "
                "or tag it as live audio",
                kind="too_long",
            )
        write(file.fd, data)


def _called(method: Callable[..., Any], name: str, *args: int) -> Any:
    try:
        result = method(*args)
    except AudioError:
        raise
    except Exception as error:  # of whoever wrote the object
        raise AudioError(
            f"{name}: reading failed ({str(error) or type(error).__name__}): pass bytes or a path", kind="unreadable"
        ) from error
    if hasattr(result, "__await__"):
        getattr(result, "close", lambda: None)()  # a coroutine that is never awaited warns
        raise AudioError(f"{name}: an asynchronous file object: pass the bytes, await file.read()")
    return result


def memory_file(name: str) -> OpenFile:
    """An empty file in memory, or a temporary one where the system has none. Raises OSError."""
    try:
        return OpenFile(os.memfd_create("astfast", os.MFD_CLOEXEC), name)
    except (AttributeError, OSError):  # not Linux, or a sandbox without it
        with tempfile.TemporaryFile() as file:
            return OpenFile(os.dup(file.fileno()), name)


def write(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Writes all of it. Raises OSError."""
    rest = memoryview(bytes(data) if isinstance(data, memoryview) else data)  # a view may be strided, or of other items
    while rest:
        rest = rest[os.write(fd, rest) :]
