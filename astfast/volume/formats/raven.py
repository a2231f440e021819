"""Raven selection tables, tab-separated: one over all files, and the list of files that Raven opens with it.

Begin and End count from the start of the first file: the durations of the files before are added to them. Source: the
column names of Raven Pro's user's manual, as BirdNET-Analyzer writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from astfast.volume.durable import replacing
from astfast.volume.records import About, Record, printable

COLUMNS = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"),
    *("Common Name", "Species Code", "Confidence", "Begin Path", "File Offset (s)"),
)


def write(folder: Path, records: Iterable[Record], about: About) -> None:
    """raven/selections.txt, and raven/files.txt with the files in their order."""
    (folder / "raven").mkdir(exist_ok=True)
    with (
        replacing(folder / "raven" / "selections.txt") as table_path,
        replacing(folder / "raven" / "files.txt") as list_path,
        list_path.open("w", encoding="utf-8") as files,
    ):
        write_table(table_path, _listed(records, files), about)


def _listed(records: Iterable[Record], files: TextIO) -> Iterator[Record]:
    for record in records:
        if record.error is None:
            files.write(f"{_begin_path(record)}\n")
        yield record


def _begin_path(record: Record) -> str:
    return _field(record.path or str(Path(record.file).absolute()))


def write_table(path: Path, records: Iterable[Record], about: About) -> None:
    """A selection table of these records, whose files Raven opens one after the other."""
    before = 0.0  # seconds of the files so far
    number = 0
    with path.open("w", encoding="utf-8") as table:
        table.write("\t".join(COLUMNS) + "\n")
        for record in records:
            if record.error is not None:
                continue
            begin_path = _begin_path(record)
            for row in record.rows:
                for label, score in row.tags:
                    number += 1
                    cells = (
                        *(number, "Spectrogram 1", 1 + (row.channel or 0)),
                        *(f"{before + row.start:.3f}", f"{before + row.end:.3f}", 0, about.sampling_rate // 2),
                        *(_field(about.labels[label]), label, f"{score:.4f}", begin_path, f"{row.start:.3f}"),
                    )
                    table.write("\t".join(map(str, cells)) + "\n")
            before += max(record.duration, record.seconds)


def _field(text: str) -> str:
    """A text without the characters that end a field or a line."""
    return printable(text).replace("\t", " ").replace("\r", " ").replace("\n", " ")
