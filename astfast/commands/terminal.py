"""Terminal output: result formats, tables, the progress counter, errors and warnings. The only file that prints."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
FORMATS = ("text", "jsonl", "csv")
QUOTE = '"'
BAR_WIDTH = 20  # characters of the bar of score 1
START_OF_LINE = "\r\x1b[K"  # which erases the line on a terminal
REDRAW_SECONDS = 0.1


class ResultPrinter:
    """Prints the tags of one file a call to standard output, at once.

    - ``output_format``: "text", "jsonl" or "csv". Text is a table on a terminal; elsewhere it is one tag a line: file,
      (start, end,) score and label, separated by tabs.
    - ``windows``: whether results are segments with times.
    """

    def __init__(self, output_format: str, windows: bool) -> None:
        self._format = output_format
        self._windows = windows
        if output_format == "csv":
            _print_csv(["file", *(["start", "end"] if windows else []), "score", "label"])

    def print_result(self, file: str, result: list[Any]) -> None:
        """Prints the tags of one file, or its segments."""
        if self._format == "jsonl":
            import json  # where it is needed, as all that a single file's tags wait for

            print(json.dumps({"file": file, "segments" if self._windows else "tags": result}, ensure_ascii=False))
        elif self._format == "csv":
            for row in self._rows(file, result):
                _print_csv(row)
        elif sys.stdout.isatty():
            self._print_table(file, result)
        else:
            for row in self._rows(file, result):
                print(*row, sep="\t")
        sys.stdout.flush()

    def _segments(self, result: list[Any]) -> list[Any]:
        return result if self._windows else [{"tags": result}]

    def _rows(self, file: str, result: list[Any]) -> Iterator[list[str]]:
        """One row a tag."""
        for segment in self._segments(result):
            times = [f"{segment['start']:.2f}", f"{segment['end']:.2f}"] if self._windows else []
            for tag in segment["tags"]:
                yield [file, *times, f"{tag['score']:.4f}", tag["label"]]

    def _print_table(self, file: str, result: list[Any]) -> None:
        print(f"\x1b[1m{file}\x1b[0m")
        for segment in self._segments(result):
            if self._windows:
                print(f"  {format_time(segment['start'])} - {format_time(segment['end'])}")
            for tag in segment["tags"]:
                bar = "█" * max(0, min(BAR_WIDTH, round(BAR_WIDTH * tag["score"])))
                print(f"    {tag['score']:6.1%}  {bar:<{BAR_WIDTH}}  {tag['label']}")


def _print_csv(row: Iterable[str]) -> None:
    """One line of CSV as RFC 4180 has it, but for its end; csv.writer leaves a lone carriage return unquoted."""
    print(*(f'"{cell.replace(QUOTE, 2 * QUOTE)}"' if re.search('[",\r\n]', cell) else cell for cell in row), sep=",")


def format_time(seconds: float) -> str:
    """Seconds as h:mm:ss.s, without hours if there are none."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Column names and rows of cells as aligned text."""
    lines = [columns, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def progress(results: Iterable[T], total: int) -> Iterator[T]:
    """Passes results of files on, and counts them on standard error: "12 of 400 files, 3.1 files/s".

    The counter is rewritten in place. There is none if standard error is no terminal, or if standard output is one,
    where the results show the progress.
    """
    if total < 2 or sys.stdout.isatty() or not sys.stderr.isatty():
        yield from results
        return
    start = drawn = time.perf_counter()
    try:
        for done, result in enumerate(results, 1):
            yield result
            now = time.perf_counter()
            if now - drawn >= REDRAW_SECONDS or done == 1:
                drawn = now
                counter = f"{done} of {total} files, {done / (now - start):.1f} files/s"
                print(START_OF_LINE + counter, end="", file=sys.stderr, flush=True)
    finally:
        print(START_OF_LINE, end="", file=sys.stderr, flush=True)


def print_text(text: str) -> None:
    """Prints to standard output, at once."""
    print(text, flush=True)


def print_error(message: str) -> None:
    """Prints an error as a line on standard error, above the progress counter if there is one."""
    _print_above_counter(f"astfast: error: {message}")


def print_warning(message: str) -> None:
    """Prints a warning as a line on standard error, above the progress counter if there is one."""
    _print_above_counter(f"astfast: warning: {message}")


def _print_above_counter(line: str) -> None:
    """The line takes the counter's place, which comes back with the next file."""
    print((START_OF_LINE if sys.stderr.isatty() else "") + line, file=sys.stderr, flush=True)


def keywords_as_options(message: str, names: Container[str]) -> str:
    """Keywords of the library in a message as options of the command line, such as ``top_k=3`` as ``--top-k 3``.

    ``names``: the keywords that are options.
    """

    def option(match: re.Match[str]) -> str:
        keyword, value = match.groups()
        if keyword not in names:
            return match[0]
        flag = f"--{keyword.replace('_', '-')}"
        return flag if value in ("", "True") else f"{flag} {value.strip(chr(39))}"

    return re.sub(r"\b([a-z]\w*)=('[^']*'|\w*)", option, message)
