"""Audacity label tracks, one a file: ``start<TAB>end<TAB>label score``, seconds with a point.

A track has no field for a channel: where each is tagged by itself, ``(channel N)`` stands behind the score.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath

from astfast.volume.durable import replacing
from astfast.volume.items import digest
from astfast.volume.records import About, Record, printable

LONGEST_NAME = 200  # bytes


def write(folder: Path, records: Iterable[Record], about: About) -> None:
    """audacity/<path of the input>.txt for each input that was tagged."""
    for record in records:
        if record.error is None:
            path = folder / "audacity" / place(record)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as unfinished:
                write_track(unfinished, [record], about)


def write_track(path: Path, records: Iterable[Record], about: About) -> None:
    """The label track of one input."""
    with path.open("w", encoding="utf-8") as file:
        for row in (row for record in records for row in record.rows):
            channel = "" if row.channel is None else f" (channel {row.channel})"
            for label, score in row.tags:
                name = printable(about.labels[label]).replace("\t", " ").replace("\n", " ")
                file.write(f"{row.start:.6f}\t{row.end:.6f}\t{name} {score:.2f}{channel}\n")


def place(record: Record) -> PurePath:
    """Where an input's labels go below the folder: at its path, without what would lead out of it."""
    id_ = printable(record.id)
    parts = [part for part in PurePath(id_).parts if part not in ("/", "..")]
    *above, name = parts or [""]
    if len(name.encode()) > LONGEST_NAME or ".." in PurePath(id_).parts:
        name = f"{name.encode()[:LONGEST_NAME].decode(errors='ignore')}-{digest(record.id).hex()}"
    return PurePath(*above, f"{name}.txt")
