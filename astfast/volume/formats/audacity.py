"""Audacity label tracks, one a file: ``start<TAB>end<TAB>label score``, seconds with a point.

A track has no field for a channel: where each is tagged by itself, ``(channel N)`` stands behind the score.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath

from astfast.volume.durable import UNFINISHED, replacing, sync_all
from astfast.volume.items import digest
from astfast.volume.records import About, Record, printable

LONGEST_NAME = 255 - len("-") - 2 * 16 - len(UNFINISHED)  # bytes, with its ending, of one that no digest follows
LONGEST_PATH = 1000  # bytes of an id that is one


def write(folder: Path, records: Iterable[Record], about: About) -> None:
    """audacity/<path of the input>.txt for each input that was tagged."""
    for record in records:
        if record.error is None:
            path = folder / "audacity" / place(record, ".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, on_disk=False) as unfinished:
                write_track(unfinished, [record], about)
    sync_all()


def write_track(path: Path, records: Iterable[Record], about: About) -> None:
    """The label track of one file."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            for row in record.rows:
                channel = "" if row.channel is None else f" (channel {row.channel})"
                for label, score in row.tags:
                    name = printable(about.labels[label]).replace("\t", " ").replace("\n", " ")
                    file.write(f"{row.start:.6f}\t{row.end:.6f}\t{name} {score:.2f}{channel}\n")


def place(record: Record, ending: str) -> PurePath:
    """Where an input's table goes below a folder: at its path, without what would lead out of it."""
    id_ = printable(record.id)
    parts = [part for part in PurePath(id_).parts if part not in ("/", "..")]
    *above, name = parts or [""]
    as_written = "/".join(parts) == id_.removeprefix("/").replace("://", ":/")
    if len(id_.encode()) > LONGEST_PATH:
        above, as_written = [], False
    name = _fitting(name, LONGEST_NAME - len(ending), None if as_written else record.id)
    return PurePath(*(_fitting(part, LONGEST_NAME) for part in above), f"{name}{ending}")


def _fitting(name: str, longest: int, id_: str | None = None) -> str:
    """A name of at most ``longest`` bytes, or cut to them and a digest behind, of ``id_`` in any case."""
    if id_ is None and len(name.encode()) <= longest:
        return name
    cut = name.encode()[:longest].decode(errors="ignore")
    return f"{cut}-{digest(name if id_ is None else id_).hex()}"
