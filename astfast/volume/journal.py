"""The output folder of a run: results that outlive any end of it, and the formats that are made of them.

    .journal/settings.json   what changes results, and the formats asked for so far
    .journal/open-N.jsonl    the part that is being written: a record a line, appended, never rewritten
    .journal/part-N.jsonl    a part that is closed, and part-N.index, digests of it and of the ids in it
    .journal/damaged-N.jsonl a part that was not as it was written, whose inputs were tagged again
    tags/part-N.*  …         the same part in each format

A record counts as soon as its line is whole. A part is closed by renaming files that are on the disk already, its
journal last. So whatever moment a run stops at, the next one finds each input done once or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from astfast import notes
from astfast.errors import OutputError
from astfast.volume import done
from astfast.volume.done import Done, Entries, failed
from astfast.volume.durable import replacing, sweep, sync
from astfast.volume.formats import PARTS, TABLES, PartFormat, beside, check, json_lines
from astfast.volume.items import Item
from astfast.volume.records import About, Record, Records, damaged, parse

PART_INPUTS = 10_000  # at most in a part
PART_BYTES = 64 << 20  # after which a part is closed
SYNC_SECONDS = 5.0  # of results that a loss of power may cost; a process that is killed loses none of them
NOTICES = ("failures.jsonl", "warnings.jsonl")
OWN_FILES = (  # in an output folder, beside the journal
    *("tags/part-*", "tags-long/part-*", "scores/part-*", "embeddings/part-*", f"{beside.FOLDER}/part-*"),
    *("raven/selections.txt", "raven/files.txt", "audacity/**/*.txt", "kaleidoscope.csv", *NOTICES, "run.json"),
    f"{beside.FOLDER}/files/**/*{beside.MARK}.*",
)
DIGEST = 16  # bytes; an index is the digest of its journal, that of its entries, and the entries


class Journal:
    """An output folder, opened for one run at a time.

    - ``settings``: what changes results; a folder of a run with others is refused.
    - ``formats``: names of PARTS and TABLES. Those that earlier runs asked for are kept up, too.
    - ``overwrite``: begin anew, removing what a run has made in the folder.

    Raises OutputError for a folder of another run, of something else, in use, or that can't be written.
    """

    def __init__(
        self, folder: Path, about: About, formats: Sequence[str], overwrite: bool = False, retry: bool = False
    ) -> None:
        check(formats)
        self.folder, self._about = folder, about
        self._synced = 0.0  # when, by the monotonic clock
        self._own = folder / ".journal"
        with self._writing():
            self._lock = self._claim()
            try:
                entries = self._opened(formats, overwrite)
            except BaseException:
                self._lock.close()
                raise
        if retry:
            entries = entries[entries["failed"] == 0]
        self._done = Done(entries)
        self.failed_before = failed(entries, len(self._entries))  # digests of ids, not to be tried again

    def _opened(self, formats: Sequence[str], overwrite: bool) -> Entries:
        """Brings the folder into order, whatever moment the last run stopped at; what it is done with."""
        if overwrite:
            self._wipe()
        self._formats = self._agreed(formats)
        sweep(self.folder)
        self._parts = sorted(int(path.stem[5:]) for path in self._own.glob("part-*.jsonl"))
        self._parts = [part for part in self._parts if self._is_whole(part) or self._drop(part)]
        self._compact()
        self._make_missing_formats()
        open_entries = self._recover()
        self._write_notices()
        return done.join([*map(self._entries_of, self._parts), open_entries])

    # --- opening -------------------------------------------------------------------------------------------------

    def _claim(self) -> TextIO:
        """Makes sure that the folder is ours, and nobody else's until the file returned is closed."""
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputError(f"{self.folder}: is a file: name a folder")
        if not self._own.is_dir() and self.folder.is_dir() and any(self.folder.iterdir()):
            raise OutputError(f"{self.folder}: holds other things than a run of astfast: name a new or an empty folder")
        self._own.mkdir(parents=True, exist_ok=True)
        lock = (self._own / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise OutputError(
                f"{self.folder}: another run is writing there: wait for its end, or name another folder"
            ) from None
        return lock

    def _wipe(self) -> None:
        """Removes what a run has made, its journal last, and nothing else."""
        beside.remove(self.folder)
        for pattern in OWN_FILES:
            for path in filter(Path.is_file, self.folder.glob(pattern)):
                path.unlink()
        for name in dict.fromkeys(pattern.split("/")[0] for pattern in OWN_FILES if "/" in pattern):
            for path in (*sorted((self.folder / name).rglob("*"), reverse=True), self.folder / name):
                with suppress(OSError):  # files of others, and folders with such
                    path.rmdir()
        for path in self._own.iterdir():
            if path.name != "lock":
                path.unlink()

    def _agreed(self, formats: Sequence[str]) -> list[str]:
        """Formats of this run and of those before, whose settings must be the same."""
        path = self._own / "settings.json"
        settings = json.loads(json.dumps(dict(self._about.settings)))
        saved, known = settings, []
        if path.exists():
            try:
                read = json.loads(path.read_text())
                saved, known = dict(read["settings"]), list(read["formats"])
            except (ValueError, TypeError, KeyError) as error:
                raise damaged(str(path)) from error
        differences = _differences(saved, settings)
        if differences:
            raise OutputError(
                f"{self.folder}: belongs to a run with other settings ({differences}): name another folder, or begin "
                "anew with overwrite=True"
            )
        together = list(dict.fromkeys((*known, *formats)))
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps({"settings": settings, "formats": together}, indent=1, sort_keys=True))
        return together

    def _recover(self) -> Entries:
        """Goes on with the part that was open: its whole lines stay, and their entries are returned."""
        opened = [int(path.stem[5:]) for path in self._own.glob("open-*.jsonl")]
        self._number = max(opened, default=self._parts[-1] + 1 if self._parts else 0)
        self._start_part()
        with self._open_path.open("rb") as file:
            for line in file:
                try:
                    record = parse(line)
                except ValueError:  # cut off, or never on the disk: neither it nor what follows counts
                    break
                self._count(record, line)
        self._file.truncate(self._bytes)
        return done.of_bytes(b"".join(self._entries))

    # --- while the run is on -------------------------------------------------------------------------------------

    def holds(self, item: Item) -> bool:
        """Whether an earlier run is done with this input."""
        return done.key(item.id, item.stamp or "") in self._done

    def add(self, record: Record) -> None:
        """Appends a record. Raises OutputError where it can't be written; what was added before stays."""
        with self._writing():
            line = record.line()
            written = 0
            while written < len(line):
                written += self._file.write(line[written:]) or 0
            self._count(record, line)
            for name, lines in _notices(record).items():
                with (self.folder / name).open("a", encoding="utf-8") as file:
                    file.write(lines)
            if len(self._entries) >= PART_INPUTS or self._bytes >= PART_BYTES:
                self._close_part()
            elif time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def close(self, finished: bool, report: Mapping[str, Any]) -> None:
        """Closes the open part and writes run.json; where the run is ``finished``, the tables over all of it too."""
        with self._writing():
            if self._entries:
                self._close_part()
            if finished:
                if self._compact():
                    self._write_notices()
                for name in self._formats:
                    if name in TABLES:
                        TABLES[name](self.folder, self.records(), self._about)
            with replacing(self.folder / "run.json") as path:
                path.write_text(json.dumps({**report, "settings": dict(self._about.settings)}, indent=1))
        self.release()

    def release(self) -> None:
        """Lets others open the folder; the part that is open stays as it is."""
        self._file.close()
        if not self._bytes:
            self._open_path.unlink(missing_ok=True)
        self._lock.close()

    def records(self) -> Records:
        """The records of all parts that are closed."""
        return Records(*map(self._journal, self._parts))

    # --- parts ---------------------------------------------------------------------------------------------------

    @property
    def _open_path(self) -> Path:
        return self._own / f"open-{self._number:05d}.jsonl"

    def _journal(self, part: int) -> Path:
        return self._own / f"part-{part:05d}.jsonl"

    def _index(self, part: int) -> Path:
        return self._own / f"part-{part:05d}.index"

    def _start_part(self) -> None:
        self._file = self._open_path.open("ab", buffering=0)
        self._entries: list[bytes] = []
        self._bytes, self._digest = 0, hashlib.blake2b(digest_size=DIGEST)
        self._synced = time.monotonic()

    def _count(self, record: Record, line: bytes) -> None:
        """A record that is in the open part, as this line."""
        self._entries.append(_entry(record))
        self._bytes += len(line)
        self._digest.update(line)

    def _close_part(self) -> None:
        os.fsync(self._file.fileno())
        for name in self._formats:
            self._make(name, self._number, Records(self._open_path))
        self._write_index(self._number, self._digest.digest(), b"".join(self._entries))
        self._open_path.replace(self._journal(self._number))
        sync(self._own)
        self._file.close()
        self._parts.append(self._number)
        self._number += 1
        self._start_part()

    def _write_index(self, part: int, journal: bytes, entries: bytes) -> None:
        """``journal``: the digest of the one whose entries these are."""
        with replacing(self._index(part)) as path:
            path.write_bytes(journal + _digest(entries) + entries)

    def _entries_of(self, part: int) -> Entries:
        return done.of_bytes(self._index(part).read_bytes()[2 * DIGEST :])

    def _is_whole(self, part: int) -> bool:
        """Whether a part is as it was written. An index that is missing or damaged is made anew, if the part parses."""
        journal, index = self._journal(part), self._index(part)
        content = index.read_bytes() if index.exists() else b""
        digest = _digest(journal)
        if content[DIGEST : 2 * DIGEST] == _digest(content[2 * DIGEST :]):
            return content[:DIGEST] == digest
        try:
            entries = b"".join(map(_entry, Records(journal)))
        except OutputError:
            return False
        self._write_index(part, digest, entries)
        return bool(entries)

    def _drop(self, part: int) -> bool:
        """Takes a damaged part out of the run, so that its inputs are tagged again: outputs first, then its journal."""
        kept = self._own / f"damaged-{part:05d}.jsonl"
        for made in PARTS.values():
            _path(self.folder, made, part).unlink(missing_ok=True)
        self._journal(part).replace(kept)
        self._index(part).unlink(missing_ok=True)
        notes.show(notes.Note(f"{kept}: was damaged after it had been written: the inputs in it are tagged again"))
        return False

    def _make(self, name: str, part: int, records: Iterable[Record]) -> None:
        """A part in a format, if that has a file a part."""
        if name in PARTS:
            path = _path(self.folder, PARTS[name], part)
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as unfinished:
                PARTS[name].write(unfinished, records, self._about)

    def _make_missing_formats(self) -> None:
        """Formats that this run asks for and an earlier one did not."""
        for part in self._parts:
            for name in self._formats:
                if name in PARTS and not _path(self.folder, PARTS[name], part).exists():
                    self._make(name, part, Records(self._journal(part)))

    def _compact(self) -> bool:
        """Leaves only the newest record of each input, where it was done again; whether there were older ones."""
        indices = [self._entries_of(part) for part in self._parts]
        found = False
        for part, entries, old in zip(self._parts, indices, done.superseded(indices), strict=True):
            if old.any():
                found = True
                kept = [record for record, is_old in zip(Records(self._journal(part)), old, strict=True) if not is_old]
                for name in self._formats:
                    self._make(name, part, kept)
                self._index(part).unlink()  # no index may stand beside the journal of another
                with replacing(self._journal(part)) as path, path.open("wb") as file:
                    file.writelines(record.line() for record in kept)
                self._write_index(part, _digest(self._journal(part)), entries[~old].tobytes())
        return found

    def _write_notices(self) -> None:
        """failures.jsonl and warnings.jsonl, as the journal has them."""
        entries = {part: self._entries_of(part) for part in self._parts}
        parts = [part for part, of_part in entries.items() if of_part["failed"].any() or of_part["warned"].any()]
        with ExitStack() as stack:
            files = {}
            for name in NOTICES:
                path = stack.enter_context(replacing(self.folder / name))
                files[name] = stack.enter_context(path.open("w", encoding="utf-8"))
            for record in Records(*map(self._journal, parts), self._open_path):
                for name, lines in _notices(record).items():
                    files[name].write(lines)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self.folder}: can't be written ({error.strerror or error}): make room or give the permission, and "
                "run the same again: what is done stays done"
            ) from error


def _digest(content: bytes | Path) -> bytes:
    """The digest of some bytes, or of a file."""
    found = hashlib.blake2b(digest_size=DIGEST)
    if isinstance(content, bytes):
        found.update(content)
    else:
        with content.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.digest()


def _entry(record: Record) -> bytes:
    return done.entry(record.id, record.stamp, record.error is not None, bool(record.warnings))


def _notices(record: Record) -> dict[str, str]:
    """Name of a file -> the lines that it gets for a record."""
    failures = [json_lines.failure(record)] if record.error is not None else []
    found = zip(NOTICES, (failures, json_lines.warnings(record)), strict=True)
    return {name: "".join(map(json_lines.text, values)) for name, values in found if values}


def _path(folder: Path, made: PartFormat, part: int) -> Path:
    return folder / made.folder / f"part-{part:05d}{made.suffix}"


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two runs' settings, in words."""
    names = [name for name in {**saved, **now} if saved.get(name) != now.get(name)]
    return ", ".join(f"{name} was {_short(saved.get(name))} and is {_short(now.get(name))}" for name in names)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
