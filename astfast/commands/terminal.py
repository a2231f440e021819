"""How ``astfast tag`` prints: a readable table on a terminal, plain lines in a pipe, JSON Lines or CSV on request."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
BAR = 20  # characters of a full bar on a terminal


class Printer:
    """Prints one result a call to standard output, at once, in one of the formats "text", "jsonl" and "csv".

    In a pipe, text is one tag a line: file, (start, end,) score, label, separated by tabs.
    """

    def __init__(self, form: str, windows: bool) -> None:
        self._form = form
        self._windows = windows
        self._csv = csv.writer(sys.stdout, lineterminator="\n")
        if form == "csv":
            self._csv.writerow(["file", *(["start", "end"] if windows else []), "score", "label"])

    def result(self, file: str, result: list[Any]) -> None:
        """The tags of one file, or its segments."""
        if self._form == "jsonl":
            print(json.dumps({"file": file, "segments" if self._windows else "tags": result}, ensure_ascii=False))
        elif self._form == "csv":
            self._csv.writerows(self._rows(file, result))
        elif sys.stdout.isatty():
            self._table(file, result)
        else:
            for row in self._rows(file, result):
                print(*row, sep="\t")
        sys.stdout.flush()

    def _rows(self, file: str, result: list[Any]) -> Iterator[list[str]]:
        """One row a tag."""
        parts: list[Any] = result if self._windows else [{"tags": result}]
        for part in parts:
            times = [f"{part['start']:.2f}", f"{part['end']:.2f}"] if self._windows else []
            for tag in part["tags"]:
                yield [file, *times, f"{tag['score']:.4f}", tag["label"]]

    def _table(self, file: str, result: list[Any]) -> None:
        print(f"\x1b[1m{file}\x1b[0m")
        parts: list[Any] = result if self._windows else [{"tags": result}]
        for part in parts:
            if self._windows:
                print(f"  {clock(part['start'])} - {clock(part['end'])}")
            for tag in part["tags"]:
                bar = "█" * max(0, min(BAR, round(BAR * tag["score"])))
                print(f"    {tag['score']:6.1%}  {bar:<{BAR}}  {tag['label']}")


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss.s, without hours where there are none."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def progress(results: Iterable[T], total: int) -> Iterator[T]:
    """Passes results on; where they go to a file or pipe and somebody watches, a bar on standard error counts them."""
    if total < 2 or sys.stdout.isatty() or not sys.stderr.isatty():
        yield from results
        return
    from tqdm import tqdm

    yield from tqdm(results, total=total, unit="file", leave=False)


def complain(message: str) -> None:
    """One line on standard error, above the progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(f"astfast: {message}", file=sys.stderr)
