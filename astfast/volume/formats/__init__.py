"""Output formats, one a file. ``PARTS`` have a file for each part of a run, ``TABLES`` one over all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from astfast.volume.formats import arrays, audacity, beside, csv_rows, json_lines, kaleidoscope, parquet, raven
from astfast.volume.records import About, Record

Write = Callable[[Path, Iterable[Record], About], None]  # records can be walked more than once


class PartFormat(NamedTuple):
    """A format with a file a part: ``folder``/part-00000``suffix``, written by ``write``."""

    folder: str
    suffix: str
    write: Write


PARTS = {
    "jsonl": PartFormat("tags", ".jsonl", json_lines.write),
    "csv": PartFormat("tags", ".csv", csv_rows.write),
    "parquet": PartFormat("tags", ".parquet", parquet.write),
    "parquet-long": PartFormat("tags-long", ".parquet", parquet.write_long),
    "scores": PartFormat("scores", ".parquet", arrays.write_scores),
    "embeddings": PartFormat("embeddings", ".parquet", arrays.write_embeddings),
    "embeddings-npy": PartFormat("embeddings", ".npy", arrays.write_npy),
    "embeddings-places": PartFormat("embeddings", ".jsonl", arrays.write_places),
    **{name: PartFormat(beside.FOLDER, f".{name}.jsonl", table.write) for name, table in beside.TABLES.items()},
}
TABLES: dict[str, Write] = {  # given the output folder
    "raven": raven.write,
    "audacity": audacity.write,
    "kaleidoscope": kaleidoscope.write,
}


def check(names: Iterable[str]) -> None:
    """Raises ValueError for an unknown format, OutputError for one whose package is missing."""
    for name in names:
        if name not in PARTS and name not in TABLES:
            raise ValueError(f"format {name!r} is unknown: use some of {', '.join((*PARTS, *TABLES))}")
        if name in PARTS and PARTS[name].suffix == ".parquet":
            parquet.pyarrow()
