"""Scores of all labels and embeddings, a row a window: Parquet, or embeddings as .npy and a .jsonl of their places."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from astfast.volume.formats import parquet
from astfast.volume.records import About, Record, printable


def write_scores(path: Path, records: Iterable[Record], about: About) -> None:
    """id, file, start, end, scores: fixed_size_list<float16>, in the order of the labels."""
    _write(path, records, about, "scores")


def write_embeddings(path: Path, records: Iterable[Record], about: About) -> None:
    """id, file, start, end, embedding: fixed_size_list<float32>."""
    _write(path, records, about, "embeddings")


def _write(path: Path, records: Iterable[Record], about: About, field: str) -> None:
    pa = parquet.pyarrow()
    width = next((getattr(record, field).shape[1] for record in records if getattr(record, field) is not None), 0)
    element, name = (pa.float16(), "scores") if field == "scores" else (pa.float32(), "embedding")
    schema = pa.schema(
        [*parquet.place(pa, about), (name, pa.list_(element, width))], metadata={"astfast": json.dumps(about.settings)}
    )
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for record in records:
            values = getattr(record, field)
            if values is not None:
                columns = list(zip(*_windows(record, about), strict=True))
                flat = pa.array(np.ascontiguousarray(values).ravel(), element)
                columns.append(pa.FixedSizeListArray.from_arrays(flat, width))
                writer.write_batch(
                    pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
                )


def _windows(record: Record, about: About) -> Iterator[tuple[Any, ...]]:
    for start, end, channel in record.windows:
        place = [channel, start, end] if about.channel_column else [start, end]
        yield printable(record.id), printable(record.file), *place


def write_npy(path: Path, records: Iterable[Record], about: About) -> None:  # noqa: ARG001
    """Embeddings, [windows, D] float32."""
    rows = [record.embeddings for record in records if record.embeddings is not None]
    with path.open("wb") as file:
        np.save(file, np.concatenate(rows) if rows else np.empty((0, 0), np.float32))


def write_places(path: Path, records: Iterable[Record], about: About) -> None:
    """A line for each row of the .npy: ``{"id", "file", "start", "end"}``, and "channel" where rows are of one."""
    names = "id", "file", *about.channel_column, "start", "end"
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            for place in _windows(record, about) if record.embeddings is not None else ():
                file.write(json.dumps(dict(zip(names, place, strict=True))) + "\n")
