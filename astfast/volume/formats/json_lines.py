"""JSON lines: one object a window, ``{"id", "file", "start", "end", "tags": [{"label", "score"}], …columns}``.

Rows of single channels have "channel", the number of theirs, before "start".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from astfast.volume.records import About, Record, printable


def objects(record: Record, labels: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """One object for each window of an input."""
    for row in record.rows:
        yield {
            "id": record.id,
            "file": record.file,
            **({} if row.channel is None else {"channel": row.channel}),
            "start": row.start,
            "end": row.end,
            "tags": [{"label": labels[label], "score": score} for label, score in row.tags],
            **record.columns,
        }


def failure(record: Record) -> dict[str, Any]:
    """The object of an input that failed."""
    return {"id": record.id, "file": record.file, "error": record.error, "kind": record.kind, **record.columns}


def warnings(record: Record) -> list[dict[str, Any]]:
    """An object for each warning of an input."""
    return [{"id": record.id, "file": record.file, "warning": warning} for warning in record.warnings]


def text(value: dict[str, Any]) -> str:
    """An object as a line, with its end."""
    return printable(json.dumps(value, ensure_ascii=False), backslash="\\\\") + "\n"


def write(path: Path, records: Iterable[Record], about: About) -> None:
    """The rows of all records."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.writelines(map(text, objects(record, about.labels)))
