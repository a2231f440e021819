"""Parquet: wide, one row a window with a list of tags; or long, one row a tag. Needs pyarrow."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from astfast.errors import OutputError
from astfast.volume.formats import csv_rows, json_lines
from astfast.volume.records import About, Record, printable

ROWS_PER_GROUP = 10_000


def pyarrow() -> Any:
    """The package. Raises OutputError without it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise OutputError(f"Parquet needs the package pyarrow ({error}): pip install 'astfast[parquet]'") from error
    return pyarrow


def write(path: Path, records: Iterable[Record], about: About) -> None:
    """One row a window: id, file, start, end, tags, and the columns carried."""
    pa = pyarrow()
    tag = pa.struct([("label", pa.string()), ("score", pa.float32())])
    fields = [*place(pa, about), ("tags", pa.list_(tag))]
    write_rows(path, fields, records, about, lambda record: json_lines.objects(record, about.labels))


def write_long(path: Path, records: Iterable[Record], about: About) -> None:
    """One row a tag: id, file, start, end, label, label_id, score, and the columns carried."""
    pa = pyarrow()
    label = pa.dictionary(pa.int32(), pa.string())
    fields = [*place(pa, about), ("label", label), ("label_id", pa.int32()), ("score", pa.float32())]

    def rows(record: Record) -> Iterator[dict[str, Any]]:
        for row in record.rows:
            for index, score in row.tags:
                where = (*([row.channel] if about.channel_column else []), row.start, row.end)
                values = (record.id, record.file, *where, about.labels[index], index, score)
                yield {**dict(zip(csv_rows.columns(about), values, strict=True)), **record.columns}

    write_rows(path, fields, records, about, rows)


def place(pa: Any, about: About) -> list[tuple[str, Any]]:
    """The columns that say what a row is of, and their types."""
    channel = [(name, pa.int32()) for name in about.channel_column]
    return [("id", pa.string()), ("file", pa.string()), *channel, ("start", pa.float64()), ("end", pa.float64())]


def write_rows(
    path: Path,
    fields: list[tuple[str, Any]],
    records: Iterable[Record],
    about: About,
    rows: Callable[[Record], Iterable[dict[str, Any]]],
) -> None:
    """A Parquet file of these fields and, as text, of the columns that the records carry."""
    pa = pyarrow()
    carried = csv_rows.carried_names(records)
    metadata = {"astfast": json.dumps(about.settings, sort_keys=True)}
    schema = pa.schema([*fields, *((name, pa.string()) for name in carried)], metadata=metadata)
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        found = (_as_text(row, carried) for record in records for row in rows(record))
        while group := list(itertools.islice(found, ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema))


def _as_text(row: dict[str, Any], carried: list[str]) -> dict[str, Any]:
    """Names are printable and carried values text (JSON where they are none): parts of one run must agree on types."""
    for name in ("id", "file"):
        row[name] = printable(row[name])
    for name in carried:
        value = row.get(name)
        row[name] = printable(value) if isinstance(value, str) else None if value is None else json.dumps(value)
    return row
