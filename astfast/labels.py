"""Label tables (index, AudioSet mid, display name), and labels as callers and config.json files give them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from astfast import small_files
from astfast.errors import CheckpointError, brief

DATA = Path(__file__).parent / "data"
TABLES = {527: "audioset", 35: "speech_commands", 50: "esc50"}  # by number of labels


@dataclass(frozen=True)
class Label:
    """One class of a data set; ``mid`` is its AudioSet machine id, or None outside AudioSet."""

    index: int
    mid: str | None
    display_name: str


@cache
def table(name: str) -> tuple[Label, ...]:
    """The packaged table "audioset" (527), "speech_commands" (35) or "esc50" (50), by index. KeyError for another."""
    if name not in TABLES.values():
        raise KeyError(f"no label table {name!r}; the packaged ones are {', '.join(TABLES.values())}")
    with (DATA / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return tuple(Label(int(row["index"]), row.get("mid"), row["display_name"]) for row in rows)


def packaged(count: int) -> tuple[str, ...] | None:
    """Display names of the packaged table with ``count`` labels, or None."""
    return tuple(label.display_name for label in table(TABLES[count])) if count in TABLES else None


def numbered(count: int) -> tuple[str, ...]:
    """LABEL_0, LABEL_1, ...: names of unnamed labels, as in transformers."""
    return tuple(f"LABEL_{index}" for index in range(count))


def from_id2label(id2label: Any, source: str) -> tuple[str, ...]:
    """Display names by index from a config.json's ``id2label``, whose keys may be strings or ints.

    Raises CheckpointError, naming ``source``, for keys that are no integers or don't count from 0 without a gap.
    """
    where = f"id2label of {source}"
    if not isinstance(id2label, Mapping):
        raise CheckpointError(f"{where} is a {type(id2label).__name__}, not a mapping of index to name. Pass labels=.")
    by_index: dict[int, str] = {}
    for key, name in id2label.items():
        try:
            index = int(key)
        except (TypeError, ValueError):
            raise CheckpointError(f"{where} has the key {brief(key)}, which is no index. Pass labels=.") from None
        if index in by_index:
            raise CheckpointError(f"{where} has two labels of index {index}. Pass labels=.")
        if name is None:
            raise CheckpointError(f"{where} has no name for index {index}: it is null. Pass labels=.")
        by_index[index] = str(name)
    missing = [index for index in range(len(by_index)) if index not in by_index]
    if missing:
        raise CheckpointError(f"{where} has {len(by_index)} labels but none of index {missing[0]}. Pass labels=.")
    return _encodable(by_index[index] for index in range(len(by_index)))


def of_config(config_json: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """Display names of a config.json: its ``id2label``'s, else its ``label2id``'s; None where it has neither.

    Errors as ``from_id2label``.
    """
    id2label, label2id = ((config_json or {}).get(name) for name in ("id2label", "label2id"))
    if id2label or not label2id:
        return from_id2label(id2label, "config.json") if id2label else None
    if not isinstance(label2id, Mapping):
        raise CheckpointError(
            f"label2id of config.json is a {type(label2id).__name__}, not a mapping of name to index. Pass labels=."
        )
    return from_id2label({str(index): name for name, index in label2id.items()}, "config.json, as of its label2id,")


def read(labels: Iterable[str] | str | os.PathLike[str]) -> tuple[str, ...]:
    """Display names by index, from a sequence of names or from a file.

    A ``.csv`` file has a header with the columns ``index`` and ``display_name``, like AudioSet's own
    ``class_labels_indices.csv``; any other file holds one name a line. Raises CheckpointError for a file that can't be
    read so and for a name that is no string.
    """
    if isinstance(labels, str | os.PathLike):
        return _read_file(Path(labels).expanduser())
    if not isinstance(labels, Iterable) or isinstance(labels, Mapping | Set):  # whose order is none, or another
        raise CheckpointError(f"labels= is {brief(labels)}: pass the names in order, or a file of them.")
    names = tuple(labels)
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise CheckpointError(f"labels= has {brief(name)} at index {index}: every label must be a string.")
    return _encodable(names)


def _encodable(names: Iterable[str]) -> tuple[str, ...]:
    """The names; a lone surrogate, which no file of results can hold, is escaped: ``\\ud800``."""
    return tuple(name.encode("utf-8", "backslashreplace").decode() for name in names)


def _read_file(path: Path) -> tuple[str, ...]:
    try:
        lines = io.StringIO(small_files.read(path).decode("utf-8-sig"), newline="")
        if path.suffix.lower() != ".csv":
            return tuple(line.strip() for line in lines if line.strip())
        rows = csv.DictReader(lines)
        columns = rows.fieldnames or ()
        if not {"index", "display_name"} <= set(columns):
            raise CheckpointError(
                f"labels file {path} has the columns {brief(columns)}: it needs index and display_name."
            )
        pairs = [(row["index"], row["display_name"]) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CheckpointError(f"labels file {path} can't be read: {error}. Pass a CSV or text file.") from error
    if len(dict(pairs)) != len(pairs):
        raise CheckpointError(f"labels file {path} has an index twice.")
    return from_id2label(dict(pairs), str(path))
