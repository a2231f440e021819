"""What a run knows of one input when it is done, and that as a line of the journal."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astfast.errors import OutputError

FloatArray = NDArray[Any]  # float16 scores or float32 embeddings
ARRAYS = {"scores": "<f2", "embeddings": "<f4"}  # fields of a line that hold base64, and their types


class Row(NamedTuple):
    """The tags of one window, or of one detection that goes over several."""

    start: float  # seconds from the beginning of the file
    end: float
    tags: list[tuple[int, float]]  # (index of the label, score), best first
    channel: int | None = None  # where each is tagged by itself


class Record(NamedTuple):
    """One input, done: its rows, or the error that ended it."""

    id: str
    file: str
    stamp: str
    columns: Mapping[str, Any]
    rows: list[Row]
    seconds: float = 0.0  # of audio that was heard
    duration: float = 0.0  # seconds of the whole file, as far as its header says
    error: str | None = None
    kind: str | None = None  # of the error, in one word
    warnings: Sequence[str] = ()
    windows: Sequence[tuple[float, float, int | None]] = ()  # start, end and channel of the rows of the arrays
    scores: FloatArray | None = None  # [windows, L] float16
    embeddings: FloatArray | None = None  # [windows, D] float32
    path: str = ""  # absolute, of the file; empty where the input is none
    part: str = ""  # of the file that was tagged, as Item.part

    def line(self) -> bytes:
        """The record as a line of JSON, with its end."""
        fields: dict[str, Any] = {
            name: value for name, value in zip(self._fields, self, strict=True) if name in ARRAYS or value
        }
        if self.rows:
            fields["rows"] = [row[:3] if row.channel is None else row for row in self.rows]
        for name, dtype in ARRAYS.items():
            if fields[name] is None:
                del fields[name]
            else:
                values = np.ascontiguousarray(fields[name], dtype)
                fields[name] = [values.shape[1], base64.b64encode(values.tobytes()).decode()]
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def parse(line: bytes) -> Record:
    """The record of a line. Raises ValueError for one that is not whole, or none."""
    if not line.endswith(b"\n"):
        raise ValueError("the line does not end")
    try:
        return _record_of(json.loads(line))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no record ({error})") from error


def _record_of(fields: Any) -> Record:
    if not isinstance(fields, dict) or "id" not in fields:
        raise ValueError("no record")
    rows = [
        Row(start, end, [(label, score) for label, score in tags], *channel)
        for start, end, tags, *channel in fields.pop("rows", [])
    ]
    for name, dtype in ARRAYS.items():
        if name in fields:
            width, text = fields[name]
            fields[name] = np.frombuffer(base64.b64decode(text), dtype).reshape(-1, width)
    return Record(**{"file": "", "stamp": "", "columns": {}, **fields, "rows": rows})


class Records:
    """The records of files of the journal, read anew each time they are walked; OutputError for a damaged one."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths

    def __iter__(self) -> Iterator[Record]:
        for path in self._paths:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        record = parse(line)
                    except ValueError as error:
                        raise damaged(f"{path} line {number}") from error
                    yield record


def damaged(place: str) -> OutputError:
    """The error of a file of the journal that is not as it was written."""
    return OutputError(f"{place}: is damaged: restore the file, or begin anew with overwrite=True")


def printable(text: str, backslash: str = "\\") -> str:
    """A name as outputs have it: bytes that are no UTF-8 are written out as \\xNN. ``backslash``: in that form."""
    if text.isascii():
        return text

    def written_out(match: re.Match[str]) -> str:
        code = ord(match[0])
        return backslash + (f"x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"u{code:04x}")

    return re.sub("[\ud800-\udfff]", written_out, text)


class About(NamedTuple):
    """What the outputs of a run say beside its records."""

    labels: tuple[str, ...]
    sampling_rate: int  # Hz, of the model
    settings: Mapping[str, Any]  # of the run, versions and the model's hash among them

    @property
    def channel_column(self) -> tuple[str, ...]:
        """The name of the column of channel numbers, if rows are those of single channels; tables have it then."""
        return ("channel",) if self.settings.get("channel") == "each" else ()
