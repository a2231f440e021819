"""CSV: one row a tag, ``id, file, start, end, label, label_id, score``, and the manifest's columns behind."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from astfast.volume.records import About, Record, printable

COLUMNS = ("id", "file", "start", "end", "label", "label_id", "score")


def rows(record: Record, labels: tuple[str, ...]) -> Iterator[list[Any]]:
    """A row for each tag of an input; times to a millisecond, scores to six digits."""
    for row in record.rows:
        for label, score in row.tags:
            times = f"{row.start:.3f}", f"{row.end:.3f}"
            yield [record.id, record.file, *times, labels[label], label, f"{score:.6f}"]


def carried_names(records: Iterable[Record]) -> list[str]:
    """Names of the columns that any of the records carries, in order of their first use."""
    return list(dict.fromkeys(name for record in records for name in record.columns))


def write(path: Path, records: Iterable[Record], about: About) -> None:
    """The tags of all records, under a header."""
    carried = carried_names(records)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *carried])
        for record in records:
            values = [record.columns.get(name) for name in carried]
            for row in rows(record, about.labels):
                writer.writerow([printable(x) if isinstance(x, str) else x for x in (*row, *values)])
