"""Terminal output: the progress counter, error lines, tables, and keywords as options."""

import io
import subprocess
import sys
from collections.abc import Iterator

import pytest

from astfast.commands import terminal


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def terminal_stderr(monkeypatch: pytest.MonkeyPatch, tick: float = 0.5) -> Terminal:
    """Standard error as a terminal, and a clock that advances by ``tick`` seconds each time it is read.

    No fixture: pytest puts its own standard error in place after fixtures have run.
    """
    stream = Terminal()
    ticks = iter(range(10_000))
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: next(ticks) * tick)
    return stream


def screen(text: str) -> list[str]:
    """Lines of a terminal after this output."""
    lines = [""]
    for part in text.replace("\n", "\0\n\0").split("\0"):
        if part == "\n":
            lines.append("")
        else:
            lines[-1] = (lines[-1] + part).split("\r\x1b[K")[-1]
    return lines


def test_counter_is_rewritten_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = terminal_stderr(monkeypatch)
    shown = [screen(stderr.getvalue()) for _ in terminal.progress(enumerate(range(4)), 4)]
    assert shown == [[""], ["1 of 4 files, 2.0 files/s"], ["2 of 4 files, 2.0 files/s"], ["3 of 4 files, 2.0 files/s"]]
    assert screen(stderr.getvalue()) == [""]


def test_counter_is_drawn_ten_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = terminal_stderr(monkeypatch, tick=1 / 64)
    assert list(terminal.progress(enumerate(range(70)), 70)) == list(enumerate(range(70)))
    assert stderr.getvalue().count("files/s") == 10  # after 1, 8, 15, ..., 64 ticks: 7 of them are 0.109 s


def test_errors_are_above_the_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = terminal_stderr(monkeypatch)
    for number, _ in terminal.progress(enumerate(range(3)), 3):
        if number == 1:
            terminal.print_error("b.wav: no audio")
        if number == 2:
            terminal.print_warning("c.wav is long")
            assert screen(stderr.getvalue()) == [
                "astfast: error: b.wav: no audio",
                "astfast: warning: c.wav is long",
                "",
            ]
    assert screen(stderr.getvalue()) == ["astfast: error: b.wav: no audio", "astfast: warning: c.wav is long", ""]


def test_counter_is_erased_when_the_command_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = terminal_stderr(monkeypatch)

    def results() -> Iterator[tuple[int, str]]:
        yield 0, "a"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(terminal.progress(results(), 2))
    assert "1 of 2" in stderr.getvalue()
    assert screen(stderr.getvalue()) == [""]


@pytest.mark.parametrize(("stdout_is_terminal", "stderr_is_terminal"), [(True, True), (False, False)])
def test_no_counter(stdout_is_terminal: bool, stderr_is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal() if stdout_is_terminal else io.StringIO())
    monkeypatch.setattr(sys, "stderr", Terminal() if stderr_is_terminal else io.StringIO())
    assert list(terminal.progress(enumerate("ab"), 2)) == [(0, "a"), (1, "b")]
    terminal.print_error("text")
    assert sys.stderr.getvalue() == ("\r\x1b[K" if stderr_is_terminal else "") + "astfast: error: text\n"


def test_no_counter_for_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = terminal_stderr(monkeypatch)
    assert list(terminal.progress(enumerate("a"), 1)) == [(0, "a")]
    assert stderr.getvalue() == ""


def test_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = Terminal()
    monkeypatch.setattr(sys, "stdout", stdout)
    tags = [{"score": 0.5, "label": "dog"}]
    terminal.ResultPrinter("text", windows=False).print_result(0, "a.wav", tags)
    windows = terminal.ResultPrinter("text", windows=True)
    windows.print_result(0, "b.wav", {"start": 0.0, "end": 3661.5, "tags": tags})
    windows.print_result(0, "b.wav", {"start": 3661.5, "end": 3662.0, "tags": []})
    windows.finish()
    row = f"     50.0%  {'█' * 10:<20}  dog"
    assert stdout.getvalue().splitlines() == [
        "\x1b[1ma.wav\x1b[0m",
        row,
        "\x1b[1mb.wav\x1b[0m",
        "  0:00.0 - 1:01:01.5",
        row,
        "  1:01:01.5 - 1:01:02.0",
    ]


def test_escapes() -> None:
    for text, expected in {
        "plain, 日本 é, nb\xa0sp, a\u200cb": "plain, 日本 é, nb\xa0sp, a\u200cb",
        "a\tb\nc\r\x1b[2J\x9b\x7f": r"a\tb\nc\r\x1b[2J\x9b\x7f",
        "\u2028\u202e\u2066\udcff": r"\u2028\u202e\u2066\udcff",
    }.items():
        assert terminal.escaped(text) == expected


def test_columns_are_aligned() -> None:
    assert terminal.table(("a", "bcd"), [("12", "3"), ("4", "")]) == "a   bcd\n12  3\n4"


def test_c_libraries_do_not_write_between_our_messages() -> None:
    script = (
        "import os, sys; from astfast.commands.terminal import library_messages_hidden as hidden\n"
        "try:\n"
        "    with hidden():\n"
        "        os.write(2, b'Note: Illegal Audio-MPEG-Header')\n"
        "        print('ours', file=sys.stderr)\n"
        "        raise OSError\n"
        "except OSError:\n"
        "    os.write(2, b'later'); print(' as before', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "ours\nlater as before\n"
    closed = f"import sys; sys.stderr = None\n{script}"
    assert subprocess.run([sys.executable, "-c", closed], check=False).returncode == 0
