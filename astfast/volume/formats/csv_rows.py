"""CSV: one row a tag, ``id, file, start, end, label, label_id, score``, and the manifest's columns behind.

With rows of single channels there is a column ``channel`` before ``start``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from astfast.volume.records import About, Record, printable


def columns(about: About) -> tuple[str, ...]:
    """Names of the columns before those that are carried."""
    return ("id", "file", *about.channel_column, "start", "end", "label", "label_id", "score")


def rows(record: Record, about: About) -> Iterator[list[Any]]:
    """A row for each tag of an input; times to a millisecond, scores to six digits."""
    for row in record.rows:
        for label, score in row.tags:
            where = [*([row.channel] if about.channel_column else []), f"{row.start:.3f}", f"{row.end:.3f}"]
            yield [record.id, record.file, *where, about.labels[label], label, f"{score:.6f}"]


def carried_names(records: Iterable[Record]) -> list[str]:
    """Names of the columns that any of the records carries, in order of their first use."""
    return list(dict.fromkeys(name for record in records for name in record.columns))


def write(path: Path, records: Iterable[Record], about: About) -> None:
    """The tags of all records, under a header."""
    carried = carried_names(records)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*columns(about), *carried])
        for record in records:
            values = [record.columns.get(name) for name in carried]
            for row in rows(record, about):
                writer.writerow([printable(x) if isinstance(x, str) else x for x in (*row, *values)])
