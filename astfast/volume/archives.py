"""Audio inside larger files: tar and WebDataset shards, Parquet and Arrow shards of datasets; read as streams."""

from __future__ import annotations

import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from astfast.errors import AstfastError, AudioError
from astfast.volume.items import Item, Roots, carried, file_stamp, of_row
from astfast.volume.names import is_audio

TABLE_ROWS = 32  # that are read at a time: their audio is held in memory
LARGEST_MEMBER = 1 << 30  # bytes of a file inside a tar, which is held whole


def tar(path: str, passed_over: Counter[str]) -> Iterator[Item]:
    """The audio files in a tar; in a WebDataset shard, the JSON object of the same key is carried as columns.

    A damaged archive gives what comes before the damage, and an item with an error.
    """
    stamp = file_stamp(path)
    seen: set[str] = set()  # keys of the samples so far
    try:
        with tarfile.open(path, "r|*") as archive:
            for key, group in itertools.groupby(itertools.filterfalse(tarfile.TarInfo.isdir, archive), _key):
                yield from _sample(archive, group, f"{path}/{key}", path, stamp, passed_over, seen)
            if _goes_on(archive):
                raise tarfile.TarError("another archive is joined behind its end")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        yield Item(
            path,
            path,
            AudioError(f"{path}: the archive is damaged or no tar ({error}): repair it", kind="unreadable"),
            stamp=stamp,
        )


def _goes_on(archive: tarfile.TarFile) -> bool:
    """Whether anything but the zeros of its padding follows the end of an archive that was read as a stream."""
    rest: Any = archive.fileobj
    while block := rest.read(1 << 20):
        if block.strip(b"\0"):
            return True
    return False


def _key(member: tarfile.TarInfo) -> str:
    """Members of one sample of a WebDataset share what comes before the first dot of the name."""
    name = PurePosixPath(member.name)
    return str(name.with_name(name.name.split(".")[0])) if not name.name.startswith(".") else member.name


def _sample(
    archive: tarfile.TarFile,
    group: Iterator[tarfile.TarInfo],
    key: str,
    path: str,
    stamp: str,
    passed_over: Counter[str],
    seen: set[str],
) -> Iterator[Item]:
    found: list[tuple[str, Any]] = []
    columns: dict[str, Any] = {}
    for member in group:
        name = PurePosixPath(member.name).name
        if name.startswith("."):
            passed_over["hidden"] += 1
        elif member.isdev():
            passed_over["not a file"] += 1
        elif is_audio(name):
            found.append((member.name, _content(archive, member, f"{path}/{member.name}")))
        elif name.lower().endswith(".json") and member.size < LARGEST_MEMBER:
            columns |= _json_object(_content(archive, member, member.name))
        else:
            passed_over["not audio"] += 1
    for name, audio in found:
        file = f"{path}/{name}"
        own_id = key if len(found) == 1 and key not in seen else file  # in a plain tar a.mp3 may be apart from a.wav
        seen.add(key)
        yield Item(own_id, file, audio, columns=carried(columns), stamp=stamp)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> bytes | AudioError:
    if not member.isfile():
        return AudioError(
            f"{name}: a link to {member.linkname} inside a tar: extract it and give its path",
            kind="unsupported",
        )
    if member.size > LARGEST_MEMBER:
        return AudioError(
            f"{name}: {member.size / 1e9:.1f} GB inside a tar: extract it and give its path", kind="unsupported"
        )
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _json_object(content: bytes | AudioError) -> dict[str, Any]:
    try:
        value = json.loads(content) if isinstance(content, bytes) else None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def table(path: str, roots: Roots) -> Iterator[Item]:
    """The rows of a Parquet or Arrow file: a manifest, or a shard of a dataset with the bytes of its audio.

    A file that can't be read, or not to its end, is an item with an error.
    """
    stamp = file_stamp(path)
    number = 0
    for batch in _batches(path):
        if isinstance(batch, AudioError):
            yield Item(path, path, batch, stamp=stamp)
            return
        for row in batch.to_pylist():
            item = of_row(row, place := f"{path} row {number}", roots)
            if isinstance(item.audio, bytes) and row.get("id") is None:  # names inside of shards need not be unique
                item = item._replace(id=place, stamp=stamp)
            yield item
            number += 1


def _batches(path: str) -> Iterator[Any]:
    """Record batches of a Parquet file, or of an Arrow file in either form."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise AstfastError(
            f"{path}: Parquet needs the package pyarrow ({error}): pip install 'astfast[parquet]'"
        ) from error
    try:
        if Path(path).suffix.lower() == ".parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                yield from file.iter_batches(TABLE_ROWS)
            return
        with pyarrow.memory_map(path) as source:
            try:
                reader = pyarrow.ipc.open_stream(source)  # what datasets writes
            except pyarrow.ArrowInvalid:
                whole = pyarrow.ipc.open_file(source)
                reader = map(whole.get_batch, range(whole.num_record_batches))
            for batch in reader:
                yield from (batch.slice(start, TABLE_ROWS) for start in range(0, batch.num_rows, TABLE_ROWS))
    except (pyarrow.ArrowException, OSError) as error:
        yield AudioError(f"{path}: can't be read ({error}): check the file", kind="unreadable")
