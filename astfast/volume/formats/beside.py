"""Files beside the recordings, in the formats of Audacity, Raven and CSV.

``dog.ogg`` gets ``dog.ogg.labels.txt``, ``dog.ogg.selections.txt`` and ``dog.ogg.tags.csv``.
An input that has an id of its own has that in the name, since several may be parts of one recording. What is no file,
such as a member of an archive or a URL, gets its files in the folder ``beside/`` of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from astfast.volume.durable import replacing
from astfast.volume.formats import audacity, csv_rows, raven
from astfast.volume.records import About, Record, printable

LONGEST_ID = 100  # bytes of one in a name


def write_audacity(folder: Path, records: Iterable[Record], about: About) -> None:
    """A label track beside each recording."""
    _write(folder, records, about, ".labels.txt", audacity.write_track)


def write_raven(folder: Path, records: Iterable[Record], about: About) -> None:
    """A selection table beside each recording, whose times are those in it."""
    _write(folder, records, about, ".selections.txt", raven.write_table)


def write_csv(folder: Path, records: Iterable[Record], about: About) -> None:
    """A table of tags beside each recording."""
    _write(folder, records, about, ".tags.csv", csv_rows.write)


def _write(
    folder: Path,
    records: Iterable[Record],
    about: About,
    ending: str,
    write: Callable[[Path, Iterable[Record], About], None],
) -> None:
    for record in records:
        if record.error is None:
            place = _place(folder, record)
            path = place.with_name(place.name + ending)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as unfinished:
                write(unfinished, [record], about)


def _place(folder: Path, record: Record) -> Path:
    """Path of the files of an input, without their ending."""
    if not Path(record.file).is_file():
        return folder / "beside" / audacity.place(record).with_suffix("")
    own = printable(record.id.removeprefix(record.file)).strip(" /").replace("/", "_")
    own = own.encode()[:LONGEST_ID].decode(errors="ignore")
    return Path(f"{record.file}.{own}" if own else record.file)
