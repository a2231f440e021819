"""Terminal output: result formats, tables, the progress counter, errors and warnings. The only file that prints."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
FORMATS = ("text", "jsonl", "csv")
QUOTE = '"'
BAR_WIDTH = 20  # characters of the bar of score 1
START_OF_LINE = "\r\x1b[K"  # which erases the line on a terminal
REDRAW_SECONDS = 0.1
# Control characters, ends of lines, marks that reverse a line's direction, bytes of names that are not UTF-8.
UNSAFE = "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"


class OutputError(Exception):
    """Standard output can't be written to; the message says why."""


class ResultPrinter:
    """Prints results of files to standard output, each at once.

    - ``output_format``: "text", "jsonl" or "csv". Text is a table on a terminal; elsewhere it is one tag a line: file,
      (start, end,) score and label, separated by tabs. CSV has the same columns. A file without a tag has one row in
      which they are empty, a file that can't be read has none. JSON Lines have one object a file, or a window.
    - ``windows``: whether results are those of windows; ``channels``: whether they are those of single channels.
    - ``words``: a message of the library -> in words of the command.
    """

    def __init__(
        self, output_format: str, windows: bool, channels: bool = False, words: Callable[[str], str] = str
    ) -> None:
        self._format = "table" if output_format == "text" and sys.stdout.isatty() else output_format
        self._columns = ["channel"] * channels + ["start", "end"] * windows
        self._words = words
        self._number, self._file = -1, ""  # of the file whose results are being printed
        self._printed = True  # whether anything of it was
        self.errors = 0
        if output_format == "csv":
            write_csv(["file", *self._columns, "score", "label"])

    def print_result(self, number: int, file: str, result: Any) -> None:
        """Prints tags of a file, one of its segments, or its error record, which goes to standard error too.

        ``number``: of the file in the order of the command line, whose results come one after the other.
        """
        if number != self._number:
            self.finish()
            self._number, self._file, self._printed = number, file, False
        is_first, self._printed = not self._printed, True
        record: Mapping[str, Any] = {"tags": result} if isinstance(result, list) else result
        if "error" in record:
            self.errors += 1
            record = {**record, "error": self._words(record["error"])}
            print_error(record["error"])
        if self._format == "jsonl":
            write_json({"file": file, **record})
        elif "error" in record:
            return
        elif self._format == "table":
            _write_table(file if is_first else None, record)
        else:
            for tag in record["tags"]:
                self._write_row(record, f"{tag['score']:.4f}", tag["label"])
            self._printed = not is_first or bool(record["tags"])

    def finish(self) -> None:
        """Prints what the results of the last file lack: its row, if none of its tags gave one."""
        if not self._printed:
            self._write_row({}, "", "")
            self._printed = True

    def _write_row(self, record: Mapping[str, Any], score: str, label: str) -> None:
        where = ["" if not record else _cell(record[name]) for name in self._columns]
        row = [self._file, *where, score, label]
        if self._format == "csv":
            write_csv(row)
        else:
            write("\t".join(map(escaped, row)))


def _cell(value: float) -> str:
    """A channel's number, or a time in seconds."""
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def _write_table(file: str | None, record: Mapping[str, Any]) -> None:
    """Tags with bars; ``file``: its name where it is to be printed above them."""
    if file is not None:
        write(f"\x1b[1m{escaped(file)}\x1b[0m")
    if "channel" in record:
        write(f"  channel {record['channel']}")
    if "start" in record:
        write(f"  {format_time(record['start'])} - {format_time(record['end'])}")
    for tag in record["tags"]:
        bar = "█" * max(0, min(BAR_WIDTH, round(BAR_WIDTH * tag["score"])))
        write(f"    {tag['score']:6.1%}  {bar:<{BAR_WIDTH}}  {escaped(tag['label'])}")


def write_csv(row: Iterable[str]) -> None:
    """Writes a line of CSV as RFC 4180 has it, but for its end; csv.writer leaves a lone carriage return unquoted."""
    write(",".join(f'"{x.replace(QUOTE, 2 * QUOTE)}"' if re.search('[",\r\n]', x) else x for x in row))


def write_json(record: Mapping[str, Any]) -> None:
    """Writes a line of JSON, in ASCII where standard output is not in UTF-8."""
    import json  # 1.4 ms that other formats need not wait for

    write(json.dumps(record, ensure_ascii=sys.stdout.encoding.lower().replace("-", "") != "utf8"))


def write(line: str) -> None:
    """Writes a line to standard output, at once. Raises OutputError, or BrokenPipeError where nobody reads it."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.strerror or "it is closed") from error


def prepare_streams() -> None:
    """Makes the standard streams such that nothing that is printed raises anything but what ``write`` does.

    Descriptors 0 to 2 that are closed lead to nowhere, lest the next file that is opened should become one of them.
    Characters that an encoding lacks are escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    nowhere = Path(os.devnull)
    sys.stdout = sys.stdout or nowhere.open()  # which can't be written to, as ``write`` tells
    sys.stderr = sys.stderr or nowhere.open("w")
    with contextlib.suppress(AttributeError):  # a stream that a test or another program put in place
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


@contextlib.contextmanager
def library_messages_hidden() -> Iterator[None]:
    """Context in which only this program writes to standard error, and no C library: libmpg123 tells of every damaged
    frame, without the name of the file, which has a warning of its own."""
    ours = sys.stderr
    try:
        shared = ours is not None and ours.fileno() == 2
    except (OSError, ValueError):  # a stream that a test or another program put in place
        shared = False
    if ours is None or not shared:
        yield
        return
    with contextlib.suppress(OSError):
        ours.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stderr = os.fdopen(kept, "w", 1, ours.encoding, ours.errors)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        with contextlib.suppress(OSError):  # what a full disk left unwritten
            sys.stderr.close()
        sys.stderr = ours


def discard_output() -> None:
    """Lets what standard output still holds go nowhere, since it can't be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def escaped(text: str) -> str:
    """Text that neither ends a line or column nor reaches the terminal as a command: a tab is ``\\t``."""
    return text if text.isprintable() else re.sub(UNSAFE, lambda found: repr(found[0])[1:-1], text)


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


def progress(results: Iterable[tuple[int, T]], total: int) -> Iterator[tuple[int, T]]:
    """Passes (number of a file, result) on, and counts files on standard error: "12 of 400 files, 3.1 files/s".

    The counter is rewritten in place. There is none if standard error is no terminal, or if standard output is one,
    where the results show the progress.
    """
    if total < 2 or sys.stdout.isatty() or not sys.stderr.isatty():
        yield from results
        return
    start = drawn = time.perf_counter()
    try:
        for number, result in results:
            yield number, result
            now = time.perf_counter()
            if now - drawn >= REDRAW_SECONDS or drawn == start:
                drawn = now
                _write_error(f"{number + 1} of {total} files, {(number + 1) / (now - start):.1f} files/s", end="")
    finally:
        _write_error("", end="")


def print_counter(line: str, end: str = "") -> None:
    """Prints a line about progress on standard error, in place of the one before."""
    _write_error(escaped(line), end=end)


def clear_counter() -> None:
    """Erases the line about progress."""
    _write_error("", end="")


def print_event(event: str, values: Mapping[str, Any]) -> None:
    """Prints an event as a line of JSON on standard error: its name, the time in seconds since 1970, and more."""
    import json

    line = json.dumps({"event": event, "time": round(time.time(), 3), **values})
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def print_text(text: str) -> None:
    """Prints lines to standard output, at once."""
    write("\n".join(map(escaped, text.split("\n"))))


def print_error(message: str) -> None:
    """Prints an error as a line on standard error, above the progress counter if there is one."""
    _write_error(f"astfast: error: {escaped(message)}")


def print_warning(message: str) -> None:
    """Prints a warning as a line on standard error, above the progress counter if there is one."""
    _write_error(f"astfast: warning: {escaped(message)}")


def print_cut(count: int) -> None:
    """Prints how many inputs go on after what was tagged of them, if any."""
    if count:
        print_warning(
            f"{count} input{'s' * (count > 1)} longer than the model's input, tagged by the beginning only: pass "
            "--window to tag all"
        )


def print_bug(trace: str) -> None:
    """Prints the traceback of an error that astfast did not expect, and what to do about it."""
    _write_error(trace.rstrip())
    print_error("this is a bug in astfast: please report it, with the lines above and the output of astfast doctor")


def _write_error(text: str, end: str = "\n") -> None:
    """Writes to standard error in place of the progress counter, which comes back with the next file.

    What can't be written there is lost: the results are not to be lost with it.
    """
    with contextlib.suppress(OSError):
        print((START_OF_LINE if sys.stderr.isatty() else "") + text, end=end, file=sys.stderr, flush=True)
