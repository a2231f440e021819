"""Every source of bytes is read by descriptor; what goes wrong with a file object is reported with its cause."""

import io
import os
import tempfile
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from astfast.audio import descriptors
from astfast.audio.descriptors import taken
from astfast.audio.inputs import load_audio
from astfast.errors import AudioError
from tests.cases.recordings import RATE, file_bytes


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    """Three seconds of quiet noise, exact in 16-bit PCM."""
    pcm = np.random.default_rng(0).integers(-3000, 3000, 3 * RATE)
    return (pcm / 32768).astype(np.float32)


@pytest.fixture(scope="module")
def content(wave: np.ndarray) -> bytes:
    return file_bytes(wave, format="WAV", subtype="PCM_16")


def all_of(file: descriptors.OpenFile) -> bytes:
    return os.pread(file.fd, file.size, 0)


def test_a_pipe_is_read_by_its_name(content: bytes, wave: np.ndarray, tmp_path: Path) -> None:
    fifo = tmp_path / "live.wav"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(content,))
    writer.start()
    np.testing.assert_array_equal(load_audio(fifo).wave, wave)
    writer.join()
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: os.fdopen(writing, "wb").write(content))
    writer.start()
    np.testing.assert_array_equal(load_audio(f"/dev/fd/{reading}").wave, wave)  # as bash's <(...)
    writer.join()
    os.close(reading)


def test_a_name_that_is_not_utf_8_is_opened(content: bytes, wave: np.ndarray, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(content)
    for kind in (path, Path(path)):
        np.testing.assert_array_equal(load_audio(kind).wave, wave)


def test_a_file_object_of_any_kind_is_taken_whole_from_its_beginning(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    archive = zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED)
    archive.writestr("a.wav", content)
    archive.close()
    with (
        path.open("rb") as opened,
        path.open("rb", buffering=0) as raw,
        zipfile.ZipFile(tmp_path / "a.zip").open("a.wav") as member,
        tempfile.SpooledTemporaryFile() as spooled,
        tempfile.NamedTemporaryFile() as temporary,
    ):
        spooled.write(content)
        temporary.write(content)
        once = SimpleNamespace(read=io.BytesIO(content).read)
        for kind in (opened, opened, raw, member, spooled, temporary, io.BytesIO(content), once):
            assert all_of(taken(kind, "x")) == content
        assert not opened.closed


def test_what_was_taken_is_the_callers_no_more(content: bytes, tmp_path: Path) -> None:
    changing = bytearray(content)
    stream = io.BytesIO(content)
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with path.open("rb") as opened:
        files = [taken(kind, "x") for kind in (changing, memoryview(changing), stream, opened)]
        opened.seek(100)
    changing[:] = bytes(len(changing))
    stream.close()
    path.unlink()
    for file in files:
        assert all_of(file) == content


def test_a_regular_file_that_is_open_is_not_copied(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    monkeypatch.setattr(descriptors, "memory_file", None)
    with path.open("rb") as opened:
        assert all_of(taken(opened, "x")) == content


def test_withoutmemory_files_temporary_ones_are_used(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert all_of(taken(content, "x")) == content


def test_descriptors_are_closed_with_what_holds_them(content: bytes) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    held = [taken(content, "x") for _ in range(5)]
    assert count() == before + 5
    load_audio(held.pop())
    for broken in (b"no audio" * 50, Flaky(content)):
        with pytest.raises(AudioError):
            load_audio(broken)
    del held
    assert count() == before


class Flaky(io.BytesIO):
    def read(self, count: int | None = -1) -> bytes:
        if self.tell() > 50_000:
            raise ConnectionError("connection reset")
        return super().read(40_000)


class Upload:
    async def read(self, count: int = -1) -> bytes:
        return b""

    async def seek(self, position: int) -> int:
        return 0


class AsyncReadOnly:
    async def read(self, count: int = -1) -> bytes:
        return b""


class NoSeek(io.BytesIO):
    def seek(self, position: int, whence: int = 0) -> int:
        raise OSError("not seekable after all")


class Greedy(io.BytesIO):
    def read(self, count: int | None = -1) -> bytes:
        return super().read()  # more than was asked for


def reads(value: Any) -> SimpleNamespace:
    return SimpleNamespace(read=lambda count=-1: value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Flaky(bytes(200_000)), "<file object>: reading failed .connection reset."),
        (Upload(), "await file.read()"),
        (AsyncReadOnly(), "await file.read()"),
        (NoSeek(b"RIFF"), "not seekable after all"),
        (reads(None), "NoneType instead of bytes"),
        (reads(3), "int instead of bytes"),
        (reads(np.zeros(3)), "ndarray instead of bytes"),
        (reads("text"), "binary mode"),
        (reads(b""), "empty"),
        (SimpleNamespace(read=5), "not callable"),
        (SimpleNamespace(read=lambda: b""), "reading failed"),
        (io.StringIO("text"), "binary mode"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_odd_file_objects(source: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        load_audio(source)


def test_more_than_was_asked_for_is_kept(content: bytes, wave: np.ndarray) -> None:
    np.testing.assert_array_equal(load_audio(Greedy(content)).wave, wave)


def test_an_interrupt_while_reading_passes() -> None:
    def read(count: int = -1) -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_audio(SimpleNamespace(read=read))


def test_no_descriptor_left_is_an_error_of_the_input(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", full)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(AudioError, match="Too many open files"):
        load_audio(content)


def test_a_file_object_without_an_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(descriptors, "SHARE_OF_MEMORY", memory // (8 << 20))
    reads = []

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            reads.append(size)
            return bytes(size)

    with pytest.raises(
        AudioError, match=r"<file object>: has no end, or more bytes than a quarter of the memory"
    ) as error:
        taken(Endless(), "<file object>")
    assert error.value.kind == "too_long"
    assert len(reads) < 12
