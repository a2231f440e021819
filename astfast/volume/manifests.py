"""Lists of inputs: names one a line, and manifests in JSON lines or CSV. Read as they are needed, never whole."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from astfast.errors import AstfastError, AudioError
from astfast.volume import names
from astfast.volume.items import PATH_COLUMNS, Item, Roots, of_name, of_row

READ_BYTES = 1 << 16


def lines(file: BinaryIO, roots: Roots, zero: bool = False) -> Iterator[Item]:
    """The inputs whose names are the lines of a file, or with ``zero`` what NUL bytes end; blank ones are left out.

    Raises AstfastError for a file that begins as no list of lines does.
    """
    for number, line in enumerate(_ended_by(file, b"\0") if zero else file):
        if not (number or zero) and b"\0" in line:
            raise AstfastError(
                f"{file.name}: not a list of names, a line each (NUL bytes in the first): pass -0 if they end "
                "names, name a recording without --from, or write the list as UTF-8"
            )
        name = os.fsdecode((line if number else line.removeprefix(codecs.BOM_UTF8)).rstrip(b"\0" if zero else b"\r\n"))
        if name.strip():
            yield of_name(name, roots)


def _ended_by(file: BinaryIO, end: bytes) -> Iterator[bytes]:
    rest = b""
    while block := file.read(READ_BYTES):
        *whole, rest = (rest + block).split(end)
        yield from whole
    yield rest


def manifest(path: str, roots: Roots) -> Iterator[Item]:
    """The inputs of a manifest, a row each: JSON lines, or CSV with a header. Raises AstfastError for a file that is
    no manifest; a row that is none is an input that fails."""
    with _opened(path) as file:
        rows = _csv_rows if Path(path).suffix.lower() in (".csv", ".tsv") else _json_rows
        yield from rows(file, path, roots)


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    try:
        file = Path(path).open("rb")  # noqa: SIM115
    except OSError as error:
        raise AstfastError(f"{path}: the list can't be opened ({error.strerror}): check the path") from None
    with file:
        yield file


def from_file(path: str, roots: Roots, zero: bool = False) -> Iterator[Item]:
    """The inputs that a file lists: a manifest by the ending of its name, else names one a line."""
    if path.lower().endswith(names.MANIFESTS):
        yield from manifest(path, roots)
        return
    with _opened(path) as file:
        yield from lines(file, roots, zero)


def _json_rows(file: BinaryIO, path: str, roots: Roots) -> Iterator[Item]:
    for number, line in enumerate(file, 1):
        text = line.removeprefix(codecs.BOM_UTF8).strip()
        if not text:
            continue
        place = f"{path} line {number}"
        try:
            row = json.loads(text)
        except ValueError as error:
            yield _failed(place, f"not JSON ({error})")
            continue
        yield of_row(row, place, roots) if isinstance(row, dict) else _failed(place, "not a JSON object")


def _csv_rows(file: BinaryIO, path: str, roots: Roots) -> Iterator[Item]:
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter="\t" if path.lower().endswith(".tsv") else ",")
    header = next(reader, [])
    if not set(header) & set(PATH_COLUMNS):
        named = ", ".join(header[:8]) or "nothing"
        raise AstfastError(
            f"{path}: its first line names no column {', '.join(PATH_COLUMNS)}, but {named}{_header_hint(header)}"
        )
    for row in _rows(reader, lines, path):
        if isinstance(row, Item):
            yield row
        elif len(row) > len(header):
            yield _failed(f"{path} line {reader.line_num}", f"{len(row)} fields, more than the header's {len(header)}")
        elif row:
            values = dict(itertools.zip_longest(header, row))
            yield of_row(values, f"{path} line {reader.line_num}", roots)


def _header_hint(header: list[str]) -> str:
    if len(header) == 1 and any(separator in header[0] for separator in ";\t"):
        return ": separate the columns with commas, or with tabs in a .tsv"
    near = next((name for name in header if name.strip().lower() in PATH_COLUMNS), None)
    return "" if near is None else f": write {near.strip().lower()!r} for {near!r}"


class _Lines:
    """The lines of a file; ``ended``: whether more than the last was asked for."""

    def __init__(self, file: Iterable[str]) -> None:
        self._lines = iter(file)
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            return next(self._lines)
        except StopIteration:
            self.ended = True
            raise


def _rows(reader: Any, lines: _Lines, path: str) -> Iterator[list[str] | Item]:
    """The rows, a damaged one as an input that fails."""
    while True:
        place = f"{path} line {reader.line_num + 1}"
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _failed(place, f"not CSV ({error})")
            continue
        # Only within quotes does a row go on behind the last line.
        yield _failed(place, "a quote that is never closed, all that follows is in it") if lines.ended else row


def _failed(place: str, problem: str) -> Item:
    return Item(place, place, AudioError(f"{place}: {problem}: correct the line"), stamp="")
