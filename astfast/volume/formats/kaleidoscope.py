"""Kaleidoscope CSV: one table over all files; columns that have no meaning here stay empty.

Source: the columns that Kaleidoscope Pro reads, as BirdNET-Analyzer writes them. Rows of single channels have CHANNEL,
from 0, as Kaleidoscope's own tables.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path, PurePath

from astfast.volume.durable import replacing
from astfast.volume.records import About, Record, printable

FILE_COLUMNS = ("INDIR", "FOLDER", "IN FILE")
COLUMNS = (
    *("OFFSET", "DURATION", "scientific_name", "common_name", "confidence"),
    *("lat", "lon", "week", "overlap", "sensitivity"),
)


def write(folder: Path, records: Iterable[Record], about: About) -> None:
    """kaleidoscope.csv in the output folder."""
    with replacing(folder / "kaleidoscope.csv") as path:
        write_table(path, records, about)


def write_table(path: Path, records: Iterable[Record], about: About) -> None:
    """A table of these records."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow([*FILE_COLUMNS, *map(str.upper, about.channel_column), *COLUMNS])
        for record in records:
            input_path = PurePath(printable(record.path or record.file))
            for row in record.rows:
                for label, score in row.tags:
                    place = [str(input_path.parent.parent), input_path.parent.name, input_path.name]
                    place += [str(row.channel)] if about.channel_column else []
                    times = f"{row.start:.3f}", f"{row.end - row.start:.3f}"
                    writer.writerow([*place, *times, "", printable(about.labels[label]), f"{score:.4f}", *[""] * 5])
