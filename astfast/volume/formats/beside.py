"""Tables beside the recordings, one for each input.

``a.wav`` has ``a.wav.astfast.labels.txt`` next to it, its part from 10 to 20 s ``a.wav#t=10,20.astfast.labels.txt``.
Tables of inputs that are no file (of an archive, a URL, samples) go below ``beside/files`` in the output folder, and so
do those of folders that can't be written, with a warning.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from astfast import notes
from astfast.errors import OutputError
from astfast.volume.durable import replacing, sync_all
from astfast.volume.formats import audacity, csv_rows, json_lines, kaleidoscope, raven
from astfast.volume.records import About, Record

FOLDER = "beside"  # in the output folder: lists of the tables, and those that have no place of their own
MARK = ".astfast"  # in the name of each table, which tells it from a user's
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)


class Table(NamedTuple):
    """A format of one input: the ending of its file, and what writes that."""

    ending: str
    write_table: Callable[[Path, Iterable[Record], About], None]

    def write(self, path: Path, records: Iterable[Record], about: About) -> None:
        """The tables of a part; ``path`` lists them, a line each: ``{"id", "table"}``."""
        with path.open("w", encoding="utf-8") as listed:
            for record in records:
                places = list(self._places(path.parent, record))
                if record.error is not None:  # what it had before it changed is no table of it any more
                    for table in places:
                        with suppress(OSError):
                            table.unlink(missing_ok=True)
                    continue
                written = self._write_one(places, record, about)
                listed.write(json.dumps({"id": record.id, "table": str(written)}) + "\n")
        sync_all()

    def _places(self, folder: Path, record: Record) -> Iterator[Path]:
        """Where the table may be, best first."""
        ending = f"{record.part}{MARK}{self.ending}"
        if record.path:
            own = Path(record.path)
            yield own.with_name(audacity.place(record._replace(id=own.name), ending).name)
        yield folder.absolute() / "files" / audacity.place(record, f"{MARK}{self.ending}")

    def _write_one(self, places: list[Path], record: Record, about: About) -> Path:
        *beside, last = places
        for place in beside:
            try:
                with replacing(place, on_disk=False) as unfinished:
                    self.write_table(unfinished, [record], about)
                return place
            except OSError as error:
                if error.errno not in UNWRITABLE:
                    raise
                note = f"{place.parent}: can't be written ({error.strerror}): its tables go to {last.parent}"
                notes.show(notes.Note(note, once=True))
        last.parent.mkdir(parents=True, exist_ok=True)
        with replacing(last, on_disk=False) as unfinished:
            self.write_table(unfinished, [record], about)
        return last


TABLES = {
    "jsonl-beside": Table(".jsonl", json_lines.write),
    "csv-beside": Table(".csv", csv_rows.write),
    "raven-beside": Table(".selections.txt", raven.write_table),
    "audacity-beside": Table(".labels.txt", audacity.write_track),
    "kaleidoscope-beside": Table(".kaleidoscope.csv", kaleidoscope.write_table),
}


def check_folders(formats: Iterable[str], source: Any) -> None:
    """Raises OutputError if a table is to go beside a file, or into a folder, that a caller names and that can't be
    written."""
    named = [source] if isinstance(source, str | os.PathLike) else source if isinstance(source, list | tuple) else []
    for name in named if any(name in TABLES for name in formats) else ():
        if isinstance(name, str | os.PathLike) and (path := Path(name)).exists():
            folder = path if path.is_dir() else path.absolute().parent
            if not os.access(folder, os.W_OK | os.X_OK):
                raise OutputError(
                    f"{folder}: no table can be written beside its files (no permission, or a read-only file system): "
                    "give the permission, or choose another format"
                )


def remove(folder: Path) -> None:
    """Removes the tables that the lists in an output folder name."""
    for path in (folder / FOLDER).glob("part-*"):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError, TypeError, KeyError, OSError):  # a list that is damaged, a folder that is gone
                table = Path(json.loads(line)["table"])
                if MARK in table.name:
                    table.unlink(missing_ok=True)
