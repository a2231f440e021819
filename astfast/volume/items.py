"""One input of a run: its audio, which part of it, its name, and how it is told from a changed one."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astfast.errors import AudioError
from astfast.notes import Note, show
from astfast.volume.names import is_url
from astfast.volume.records import printable
from astfast.volume.remote import Remote

PATH_COLUMNS = ("path", "audio", "file")  # of a manifest: the first that it has names the audio
# Columns of the outputs; a manifest's column of such a name is carried as input_<name>.
OUTPUT_COLUMNS = {"id", "file", "start", "end", "label", "label_id", "score", "tags", "scores", "embedding"}
OUTPUT_COLUMNS |= {"channel", "error", "kind"}


class Item(NamedTuple):
    """One input. Two items are the same input if they have the same ``id`` and the same stamp."""

    id: str  # unique in a run
    file: str  # what outputs and messages call it
    audio: Any  # what ``open_audio`` takes, a Remote, or the AudioError of an input that can't be listed
    start: float | None = None  # seconds: only this part is tagged
    end: float | None = None
    columns: Mapping[str, Any] = {}  # of the manifest, carried to the outputs
    stamp: str | None = None  # changes with the content; None: to be found out by ``stamped``

    @property
    def path(self) -> str:
        """The absolute path of the audio; empty where it is no file: from an archive or URL, or samples."""
        return os.path.abspath(self.audio) if isinstance(self.audio, str) else ""  # noqa: PTH100 (an eighth of its time)

    @property
    def part(self) -> str:
        """The part that is tagged, as media fragments write it: ``#t=10,20``; empty for all of the file."""
        return _fragment(self.start, self.end)

    def stamped(self) -> Item:
        """The same item with its stamp."""
        return self if self.stamp is not None else self._replace(stamp=stamp_of(self.audio))


class Roots(NamedTuple):
    """How names of files in lists and manifests are understood."""

    root: str = ""  # folder that relative paths are relative to; empty for the working directory
    url_bytes: int | None = None  # limit of what is fetched for one URL; None: URLs are refused


def stamp_of(audio: Any) -> str:
    """What changes with the content of an input: size and time of a file, a digest of bytes or samples.

    What can't be told without reading it, such as a file object, has a stamp of its own each time.
    """
    if isinstance(audio, str | os.PathLike):
        return file_stamp(os.fsdecode(audio))
    if isinstance(audio, bytes):
        return hashlib.blake2b(audio, digest_size=16).hexdigest()
    samples, rate = (audio.get("array"), audio.get("sampling_rate")) if isinstance(audio, Mapping) else (audio, None)
    if isinstance(samples, np.ndarray) and samples.dtype.kind in "fiu":
        content = np.ascontiguousarray(samples)
        return f"{hashlib.blake2b(content.data, digest_size=16).hexdigest()} {samples.dtype} {samples.shape} {rate}"
    return f"read at {time.time_ns()}"


def file_stamp(path: str) -> str:
    """Size and modification time of a file; empty if there is none."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def of_name(name: str, roots: Roots) -> Item:
    """The item of a path or URL."""
    audio = located(name, roots)
    return Item(name, name, audio, stamp="" if isinstance(audio, Remote | AudioError) else None)


def located(name: str, roots: Roots) -> str | Remote | AudioError:
    """A path or URL as the audio of an item: with the root before a relative path, and URLs only where allowed."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return AudioError(f"{printable(name)}: a name with half of a character in it (U+D800 to U+DFFF): correct it")
    if is_url(name):
        if roots.url_bytes is None:
            return AudioError(
                f"{name}: URLs are not fetched: allow them with urls= and a limit in MB, or download it",
                kind="unsupported",
            )
        return Remote(name, roots.url_bytes)
    return str(Path(roots.root, name)) if roots.root and not Path(name).is_absolute() else name


def of_row(row: Mapping[str, Any], place: str, roots: Roots) -> Item:
    """The item of a manifest's row: ``path``, ``audio`` or ``file``, optional ``id``, ``start`` and ``end`` (seconds);
    its other columns are carried. ``place`` names the row where it has no name of its own, and in messages."""
    key = next((key for key in PATH_COLUMNS if row.get(key) not in (None, "")), None)
    columns = carried({name: value for name, value in row.items() if name not in (key, "id", "start", "end")})
    given = row.get("id")
    own_id = "" if given is None else str(given)
    if key is None:
        error = AudioError(f"{place}: no {', '.join(PATH_COLUMNS[:-1])} or {PATH_COLUMNS[-1]} in it: add one")
        return Item(own_id or place, place, error, columns=columns, stamp="")
    name, audio = _audio_of(row[key], place, roots)
    try:
        start, end = part_of(row.get("start"), row.get("end"))
    except ValueError as error:
        return Item(own_id or f"{name} ({place})", name, AudioError(f"{place}: {error}"), columns=columns, stamp="")
    default = name + _fragment(start, end)
    stamp: str | None
    if own_id:
        stamp = digest(default).hex() if isinstance(audio, str | Remote) else ""
    else:
        stamp = None if isinstance(audio, str) else ""
    return Item(own_id or default, name, audio, start, end, columns, stamp)


def _fragment(start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return ""
    return f"#t={start or 0:.12g}" + ("" if end is None else f",{end:.12g}")


def carried(columns: Mapping[str, Any]) -> dict[str, Any]:
    """What outputs carry of a manifest's further columns, under names that are not theirs.

    Texts and numbers stay, times become ISO 8601 and lists and objects JSON; what is neither is left out, with a note.
    """
    found = {}
    for name, value in columns.items():
        try:
            found[printable(f"input_{name}" if name in OUTPUT_COLUMNS else name)] = _carried_value(value)
        except (TypeError, ValueError):
            _note_left_out(name, type(value).__name__)
    return found


def _carried_value(value: Any) -> str | int | float | None:
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # JSON has no other
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def _note_left_out(name: str, kind: str) -> None:
    show(Note(f"column {name!r} is not carried to the outputs: {kind} has no form in them", once=True))


def _audio_of(value: Any, place: str, roots: Roots) -> tuple[str, Any]:
    """(name, audio) of a manifest's path, or of what datasets has in a column of audio: bytes, a dict, a decoder."""
    if isinstance(value, str | os.PathLike):
        name = os.fsdecode(value)
        return name, located(name, roots)
    if isinstance(value, Mapping):
        path = value.get("path")
        name = path if isinstance(path, str) and path else place
        if value.get("bytes") is not None:
            return name, value["bytes"]
        return name, located(path, roots) if name is path and value.get("array") is None else value
    return place, value


def part_of(start: Any, end: Any) -> tuple[float | None, float | None]:
    """Start and end of a part in seconds, None where there is none; ValueError for what is no part."""
    seconds: list[float | None] = []
    for name, value in (("start", start), ("end", end)):
        if value is None or (isinstance(value, str) and not value.strip()):
            seconds.append(None)
            continue
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number < math.inf:
            raise ValueError(f"{name} is {value!r}: it must be seconds from the beginning, at least 0")
        seconds.append(number)
    first, last = seconds
    if last is not None and last <= (first or 0.0):
        raise ValueError(f"end is {end!r} and start {start!r}: a part must end after its start")
    return first, last


class Shard(NamedTuple):
    """One of ``total`` shares of the inputs, chosen by a hash of their ids that is the same everywhere."""

    number: int  # from 0
    total: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """ "2/16" as the third of 16 shares; ValueError for what is none."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not int(match[1]) < int(match[2]):
            raise ValueError(f"shard {text!r} is not possible: write I/N, with I from 0 to N - 1")
        return cls(int(match[1]), int(match[2]))

    def of(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items of this share."""
        return (item for item in items if int.from_bytes(digest(item.id)[:8], "big") % self.total == self.number)

    @property
    def folder(self) -> str:
        """Name of the share's folder in a common output folder."""
        return f"shard-{self.number:05d}-of-{self.total:05d}"


def digest(text: str) -> bytes:
    """16 bytes that stand for an id."""
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        content = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).digest()
