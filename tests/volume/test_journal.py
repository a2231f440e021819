"""The output folder: nothing lost and nothing twice, whatever moment a run stops at; who may write there."""

import errno
import itertools
import json
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astfast.errors import OutputError
from astfast.volume import journal
from astfast.volume.items import Item, digest
from astfast.volume.journal import Journal
from astfast.volume.records import About, Record, Row, parse

SETTINGS = {"model": "abc", "top_k": 2, "window": None}
ABOUT = About(("dog", "cat, wild"), 16_000, SETTINGS)


def record(number: int, stamp: str = "", error: str | None = None) -> Record:
    rows = [] if error else [Row(0.0, 1.5, [(number % 2, number / 64)])]
    kind = "damaged" if error else None
    return Record(f"clip {number}", f"{number}.wav", stamp, {"site": "north"}, rows, 1.5, 1.5, error, kind)


def item(number: int, stamp: str = "") -> Item:
    return Item(f"clip {number}", f"{number}.wav", f"{number}.wav", stamp=stamp)


def rows(folder: Path) -> list[tuple[str, Any]]:
    lines = [line for path in sorted((folder / "tags").glob("*.jsonl")) for line in path.read_text().splitlines()]
    return sorted((row["id"], row["tags"][0]["score"]) for row in map(json.loads, lines))


def failures(folder: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (folder / "failures.jsonl").read_text().splitlines()]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "PART_INPUTS", 3)


def test_lines_keep_a_record_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    whole = record(3)._replace(
        file="x\udce9.wav",
        windows=[(0.0, 1.0), (1.0, 1.5)],
        scores=rng.random((2, 5)).astype(np.float16),
        embeddings=rng.random((2, 7), np.float32),
    )
    again = parse(whole.line())
    assert again._replace(scores=None, embeddings=None, windows=[]) == whole._replace(
        scores=None, embeddings=None, windows=[]
    )
    np.testing.assert_array_equal(again.scores, whole.scores)
    np.testing.assert_array_equal(again.embeddings, whole.embeddings)
    with pytest.raises(ValueError, match="does not end"):
        parse(whole.line()[:-1])


@pytest.mark.usefixtures("small_parts")
def test_a_run_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = Journal(out, ABOUT, ["jsonl"])
    for number in range(5):
        first.add(record(number, error="bad" if number == 4 else None))
    first._lock.close()  # as a kill does: nothing is closed or written
    assert len(rows(out)) == 3
    second = Journal(out, ABOUT, ["jsonl"])
    assert [number for number in range(8) if second.holds(item(number))] == [0, 1, 2, 3, 4]
    assert not second.holds(item(1, "another size"))
    for number in range(5, 8):
        second.add(record(number))
    second.close(True, {"tagged": 7})
    assert [name for name, _ in rows(out)] == [f"clip {number}" for number in (0, 1, 2, 3, 5, 6, 7)]
    assert failures(out) == ["clip 4"]
    assert json.loads((out / "run.json").read_text()) == {"tagged": 7, "settings": SETTINGS}
    assert sorted(path.name for path in out.iterdir()) == [
        ".journal",
        "failures.jsonl",
        "run.json",
        "tags",
        "warnings.jsonl",
    ]


def test_warnings_are_kept_by_input(tmp_path: Path) -> None:
    run = Journal(tmp_path, ABOUT, ["jsonl"])
    run.add(record(0)._replace(warnings=["a peak of 20", "odd"]))
    run.add(record(1))
    expected = [{"id": "clip 0", "file": "0.wav", "warning": text} for text in ("a peak of 20", "odd")]
    for _ in range(2):
        lines = (tmp_path / "warnings.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == expected
        run.close(True, {})
        run = Journal(tmp_path, ABOUT, ["jsonl"])
    run.release()


def test_a_line_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    first = Journal(tmp_path, ABOUT, ["jsonl"])
    first.add(record(0))
    first.add(record(1))
    first._lock.close()
    path = tmp_path / ".journal" / "open-00000.jsonl"
    whole = path.read_bytes()
    for damaged in (whole[:-7], whole[:-1], whole + b"\0" * 100, whole + b'{"id":1'):
        path.write_bytes(damaged)
        again = Journal(tmp_path, ABOUT, ["jsonl"])
        assert again.holds(item(0))
        assert again.holds(item(1)) == damaged.startswith(whole)
        again._lock.close()
        assert path.read_bytes() == (whole if damaged.startswith(whole) else whole[: whole.index(b"\n") + 1])


class Killed(BaseException):
    """Ends a run between two steps on the disk."""


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_no_step_on_the_disk_is_one_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int) -> None:
    """A run is stopped before its n-th opening, renaming or removing of a file; the next one makes it whole."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def work(folder: Path, count: int, stamp: str) -> None:
        run = Journal(folder, ABOUT, ["jsonl", "csv", "kaleidoscope"])
        try:
            for number in range(count):
                wanted = item(number, stamp if number == 1 else "")
                if not run.holds(wanted):
                    score = number + 20 * (wanted.stamp == "changed")
                    run.add(record(score, wanted.stamp or "")._replace(id=f"clip {number}"))
            run.close(True, {})
        finally:
            run._lock.close()

    work(tmp_path / "undisturbed", 5, "")
    work(tmp_path / "undisturbed", 9, "changed")
    expected = rows(tmp_path / "undisturbed")
    assert [score for _, score in expected] == [number / 64 for number in (0, 21, *range(2, 9))]
    steps = 0
    for name in ("open", "replace", "unlink"):
        inner = getattr(Path, name)

        def counted(path: Path, *args: Any, inner: Any = inner, **kw: Any) -> Any:
            nonlocal steps
            if steps == 0:
                raise Killed
            steps -= 1
            return inner(path, *args, **kw)

        monkeypatch.setattr(Path, name, counted)
    for allowed in itertools.count(step=stride):
        folder = tmp_path / f"stopped {allowed}"
        steps = -1  # no limit
        work(folder, 5, "")
        steps = allowed
        try:
            work(folder, 9, "changed")
            left, steps = steps, -1
        except Killed:
            left = steps = -1
            work(folder, 9, "changed")
        assert rows(folder) == expected, allowed
        assert (folder / "kaleidoscope.csv").read_text().count("\n") == 10
        assert not list(folder.rglob("*.unfinished"))
        if left >= 0:  # it was not stopped
            break
    assert allowed >= 70


def test_a_full_disk_ends_the_run_and_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Journal(tmp_path, ABOUT, ["jsonl"])
    run.add(record(0))
    inner = run._file

    class Full:
        def write(self, line: bytes) -> int:
            if len(line) > 10:
                return inner.write(line[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

    run._file = Full()  # type: ignore[assignment]
    with pytest.raises(OutputError, match=r"can't be written \(No space left on device\).*make room"):
        run.add(record(1))
    run.release()
    again = Journal(tmp_path, ABOUT, ["jsonl"])
    assert [again.holds(item(number)) for number in range(3)] == [True, False, False]
    again.add(record(1))
    again.close(True, {})
    assert [name for name, _ in rows(tmp_path)] == ["clip 0", "clip 1"]


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    first = Journal(tmp_path / "out", ABOUT, ["jsonl"])
    with pytest.raises(OutputError, match="another run is writing there"):
        Journal(tmp_path / "out", ABOUT, ["jsonl"])
    first.add(record(0))
    first.close(True, {})
    other = ABOUT._replace(settings={**SETTINGS, "top_k": 3, "hop": 1.0})
    with pytest.raises(OutputError, match=r"top_k was 2 and is 3, hop was null and is 1\.0\): .*overwrite=True"):
        Journal(tmp_path / "out", other, ["jsonl"])
    (tmp_path / "out" / "notes.txt").write_text("mine")
    anew = Journal(tmp_path / "out", other, ["csv"], overwrite=True)
    assert not anew.holds(item(0))
    anew.add(record(1))
    anew.close(True, {})
    assert sorted(path.name for path in (tmp_path / "out" / "tags").iterdir()) == ["part-00000.csv"]
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="holds other things"):
            Journal(tmp_path / "else", ABOUT, ["jsonl"], overwrite=overwrite)
    with pytest.raises(OutputError, match="is a file"):
        Journal(tmp_path / "else" / "thesis.txt", ABOUT, ["jsonl"])
    with pytest.raises(ValueError, match="format 'xml' is unknown: use some of jsonl"):
        Journal(tmp_path / "new", ABOUT, ["xml"])
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("small_parts")
def test_formats_may_change_between_runs_and_none_falls_behind(tmp_path: Path) -> None:
    for formats, numbers in ((["jsonl"], range(5)), (["csv"], range(5, 8)), (["parquet"], range(0))):
        run = Journal(tmp_path, ABOUT, formats)
        for number in numbers:
            run.add(record(number))
        run.close(True, {})
    names = sorted(path.name for path in (tmp_path / "tags").iterdir())
    assert names == [f"part-0000{part}.{ending}" for part in range(3) for ending in ("csv", "jsonl", "parquet")]
    assert len(rows(tmp_path)) == 8


def damages(whole: bytes) -> Iterator[bytes]:
    """What a disk or a hand may do to a file: cut it, blank it, change a letter, add to it, replace it."""
    yield from (whole[:-34], whole[: len(whole) // 2], whole[:40] + bytes(len(whole) - 40), b"", b"[]\n", whole * 2)
    yield b'{"id": "x", "odd": 1}\n'
    for at in range(0, len(whole), max(1, len(whole) // 12)):
        yield whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("name", ["part-00000.jsonl", "part-00001.jsonl"])
def test_a_damaged_part_is_dropped_and_its_inputs_are_tagged_again(tmp_path: Path, name: str) -> None:
    run = Journal(tmp_path, ABOUT, ["jsonl", "csv"])
    for number in range(6):
        run.add(record(number, error="bad" if number == 1 else None))
    run.close(True, {})
    path = tmp_path / ".journal" / name
    expected, lost = rows(tmp_path), {0, 1, 2} if "0000." in name else {3, 4, 5}
    for content in damages(path.read_bytes()):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=r"damaged-0000\d.jsonl: was damaged after.*are tagged again") as told:
            again = Journal(tmp_path, ABOUT, ["jsonl", "csv"])
        assert [each.category for each in told].count(UserWarning) == 1
        assert {number for number in range(6) if not again.holds(item(number))} == lost
        for number in sorted(lost):
            again.add(record(number, error="bad" if number == 1 else None))
        again.close(True, {})
        assert (rows(tmp_path), failures(tmp_path)) == (expected, ["clip 1"])
        assert len(list((tmp_path / "tags").iterdir())) == 4
        [path] = (each for each in path.parent.glob("part-*.jsonl") if b'"clip %d"' % min(lost) in each.read_bytes())


@pytest.mark.usefixtures("small_parts")
def test_a_damaged_part_before_an_open_one_loses_nothing_of_that(tmp_path: Path) -> None:
    run = Journal(tmp_path, ABOUT, ["jsonl"])
    for number in range(4):
        run.add(record(number))
    run._lock.close()  # as a kill does
    (tmp_path / ".journal" / "part-00000.jsonl").write_bytes(b"?")
    for _ in range(2):  # the second time without a part before it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = Journal(tmp_path, ABOUT, ["jsonl"])
        assert [again.holds(item(number)) for number in range(4)] == [False, False, False, True]
        again._lock.close()


@pytest.mark.usefixtures("small_parts")
def test_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    run = Journal(tmp_path, ABOUT, ["jsonl"])
    for number in range(4):
        run.add(record(number))
    run.close(True, {})
    path = tmp_path / ".journal" / "part-00000.index"
    for content in damages(whole := path.read_bytes()):
        if content[16:] == whole[16:]:
            continue  # then it is the index of another journal, and the part is not as it was written
        path.write_bytes(content)
        again = Journal(tmp_path, ABOUT, ["jsonl"])
        assert [again.holds(item(number)) for number in range(5)] == [True] * 4 + [False]
        again.release()
        assert path.read_bytes() == whole


def test_damaged_settings_are_refused_by_name(tmp_path: Path) -> None:
    Journal(tmp_path, ABOUT, ["jsonl"]).release()
    path = tmp_path / ".journal" / "settings.json"
    whole = path.read_bytes()
    for content in (whole[:-34], b"", b"[]\n", b'{"id": "x", "odd": 1}\n'):
        path.write_bytes(content)
        with pytest.raises(
            OutputError, match=r"settings\.json.*: is damaged: restore the file, or begin anew with overw"
        ):
            Journal(tmp_path, ABOUT, ["jsonl"])
    Journal(tmp_path, ABOUT, ["jsonl"], overwrite=True).close(True, {})


def test_beginning_anew_removes_only_what_a_run_has_made(tmp_path: Path) -> None:
    run = Journal(tmp_path, ABOUT, ["jsonl", "parquet", "raven", "audacity", "kaleidoscope"])
    run.add(record(0))
    run.close(True, {})
    mine = {tmp_path / name for name in ("tags/notes.txt", "raven/mine/x.csv", "audacity/mine.aup", "scores/mine")}
    for path in mine:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("mine")
    Journal(tmp_path, ABOUT, ["csv"], overwrite=True).release()
    left = {path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != ".journal"}
    assert left - {tmp_path / "failures.jsonl", tmp_path / "warnings.jsonl"} == mine


@pytest.mark.usefixtures("small_parts")
def test_failures_are_done_until_they_are_to_be_tried_again(tmp_path: Path) -> None:
    run = Journal(tmp_path, ABOUT, ["jsonl"])
    for number in range(4):
        run.add(record(number, error="bad" if number % 2 else None))
    run.close(True, {})
    assert failures(tmp_path) == ["clip 1", "clip 3"]
    again = Journal(tmp_path, ABOUT, ["jsonl"])
    assert (again.holds(item(1)), again.failed_before) == (True, {digest("clip 1"), digest("clip 3")})
    again.release()
    retried = Journal(tmp_path, ABOUT, ["jsonl"], retry=True)
    assert [retried.holds(item(number)) for number in range(4)] == [True, False, True, False]
    retried.add(record(1))
    retried.add(record(3, error="still"))
    retried.close(True, {})
    assert [name for name, _ in rows(tmp_path)] == ["clip 0", "clip 1", "clip 2"]
    assert failures(tmp_path) == ["clip 3"]


@pytest.mark.parametrize("count", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_what_is_done_is_known_at_once(tmp_path: Path, count: int) -> None:
    run = Journal(tmp_path, ABOUT, ["jsonl"])
    for number in range(count):
        run.add(record(number))
    run.close(True, {})
    start = time.process_time()
    again = Journal(tmp_path, ABOUT, ["jsonl"])
    assert all(again.holds(item(number)) for number in range(count))
    assert not again.holds(item(count))
    again.close(True, {})
    assert time.process_time() - start < 0.2 + 4.0 * count / 100_000  # of the 5 s of a resume


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield
    assert len(os.listdir("/proc/self/fd")) <= before + 30  # noqa: PTH208
