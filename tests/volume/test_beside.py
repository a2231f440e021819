"""Tables beside the recordings: where they are, what is in them, and what happens where they can't be."""

import errno
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from astfast.errors import OutputError
from astfast.volume import journal
from astfast.volume.formats import beside
from astfast.volume.items import Item
from astfast.volume.journal import Journal
from astfast.volume.records import About, Record, Row

ABOUT = About(("dog", "rain"), 16_000, {"model": "abc"})
ENDINGS = {"jsonl", "csv", "selections.txt", "labels.txt", "kaleidoscope.csv"}
ALL = list(beside.TABLES)


def record(path: Path, label: int = 0, part: str = "", **fields: Any) -> Record:
    rows = [Row(0.0, 1.0, [(label, 0.5)])]
    made = Record(f"{path.name}{part}", path.name, "", {}, rows, 1.0, 1.0, path=str(path), part=part)
    return made._replace(**fields)


def written(folder: Path) -> dict[str, str]:
    """Name and text of each table in a folder and below."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.astfast.*")}


def made(out: Path, *records: Record, formats: list[str] = ALL, **options: Any) -> None:
    run = Journal(out, ABOUT, formats, **options)
    for each in records:
        run.add(each)
    run.close(True, {})


def test_each_recording_has_its_tables_beside_it_and_none_are_mixed_up(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    names = ("a.wav", "a.mp3", "é 1.wav")
    made(
        tmp_path / "out",
        *(record(clips / name, i % 2) for i, name in enumerate(names)),
        record(clips / "a.wav", 1, "#t=1,2"),
    )
    expected = {f"{name}.astfast.{ending}" for name in (*names, "a.wav#t=1,2") for ending in ENDINGS}
    found = written(clips)
    assert set(found) == expected
    assert found["a.wav.astfast.labels.txt"] == "0.000000\t1.000000\tdog 0.50\n"
    assert found["a.mp3.astfast.labels.txt"] == "0.000000\t1.000000\train 0.50\n"
    assert json.loads(found["a.wav.astfast.jsonl"])["tags"] == [{"label": "dog", "score": 0.5}]
    assert f"\t{clips / 'a.wav'}\t" in found["a.wav.astfast.selections.txt"]
    assert found["a.wav#t=1,2.astfast.selections.txt"].splitlines()[1].startswith("1\t")
    assert f"{clips.parent},clips,a.wav" in found["a.wav.astfast.kaleidoscope.csv"]
    assert not (tmp_path / "out" / "tags").exists()
    assert len((tmp_path / "out" / "beside" / "part-00000.csv-beside.jsonl").read_text().splitlines()) == 4
    assert not list(tmp_path.rglob("*.unfinished"))


def test_an_input_without_tags_has_an_empty_table(tmp_path: Path) -> None:
    made(tmp_path / "out", record(tmp_path / "a.wav", rows=[]), formats=["audacity-beside"])
    assert written(tmp_path) == {"a.wav.astfast.labels.txt": ""}


def test_what_is_no_file_has_its_table_in_the_output_folder(tmp_path: Path) -> None:
    inside = [
        Record(name, name, "", {}, [Row(0.0, 1.0, [(0, 0.5)])]) for name in ("x.tar/a.wav", "y.tar/a.wav", "input 0")
    ]
    made(tmp_path / "out", *inside, formats=["audacity-beside"])
    assert set(written(tmp_path / "out" / "beside" / "files")) == {f"{each.id}.astfast.labels.txt" for each in inside}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_turns_out_to_be_read_only_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    inner = Path.open

    def refused(path: Path, *args: Any, **options: Any) -> Any:
        if path.parent.name == f"locked {code}":
            raise OSError(code, os.strerror(code))
        return inner(path, *args, **options)

    monkeypatch.setattr(Path, "open", refused)
    for name in (f"locked {code}", "free"):
        (tmp_path / name).mkdir()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        records = [record(tmp_path / f"locked {code}" / f"{i}.wav") for i in range(3)]
        made(tmp_path / "out", *records, record(tmp_path / "free" / "c.wav"), formats=["csv-beside"])
    assert [f"locked {code}: can't be written" in str(each.message) for each in shown] == [True]
    assert set(written(tmp_path / "free")) == {"c.wav.astfast.csv"}
    assert set(written(tmp_path / "out")) == {f"beside/files/{i}.wav.astfast.csv" for i in range(3)}


def test_a_full_disk_is_no_reason_to_write_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(beside.TABLES, "csv-beside", beside.Table(".csv", full))
    with pytest.raises(OSError, match="No space left"):
        beside.TABLES["csv-beside"].write(tmp_path / "list", [record(tmp_path / "a.wav")], ABOUT)


def test_named_folders_are_checked_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.wav").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    for source in (tmp_path, str(tmp_path), tmp_path / "a.wav", ["missing", tmp_path]):
        with pytest.raises(OutputError, match=r"no table can be written beside its files .*choose another format"):
            beside.check_folders(ALL, source)
    beside.check_folders(ALL, [tmp_path / "missing.wav", b"bytes", {"path": "x"}])
    beside.check_folders(ALL, iter([tmp_path]))  # is not consumed: its folders are found as they are read
    beside.check_folders(["csv"], tmp_path)


def test_tables_follow_their_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that changed has new ones, one that fails now has none, and beginning anew removes those that a run made."""
    monkeypatch.setattr(journal, "PART_INPUTS", 2)
    mine = tmp_path / "0.wav.labels.txt"
    mine.write_text("mine")
    paths = [tmp_path / f"{i}.wav" for i in range(5)]
    made(tmp_path / "out", *map(record, paths), formats=["audacity-beside"])
    changed = record(paths[0], 1, stamp="new"), record(paths[1], stamp="new", rows=[], error="bad", kind="damaged")
    made(tmp_path / "out", *changed, formats=["csv-beside"])
    found = written(tmp_path)
    assert {name for name in found if name.endswith(".txt")} == {f"{i}.wav.astfast.labels.txt" for i in (0, 2, 3, 4)}
    assert {name for name in found if name.endswith(".csv")} == {f"{i}.wav.astfast.csv" for i in (0, 2, 3, 4)}
    assert "rain" in found["0.wav.astfast.labels.txt"]
    assert "rain" in found["0.wav.astfast.csv"]
    made(tmp_path / "out", record(paths[3]), formats=["csv-beside"], overwrite=True)
    assert set(written(tmp_path)) == {"3.wav.astfast.csv"}
    assert mine.read_text() == "mine"


def test_a_run_that_was_killed_writes_the_tables_of_what_was_done(tmp_path: Path) -> None:
    killed = Journal(tmp_path / "out", ABOUT, ["csv-beside"])
    killed.add(record(tmp_path / "0.wav"))
    killed._lock.close()
    made(tmp_path / "out", record(tmp_path / "1.wav"), formats=["csv-beside"])
    assert set(written(tmp_path)) == {"0.wav.astfast.csv", "1.wav.astfast.csv"}


def test_a_run_that_is_finished_writes_no_table_again(tmp_path: Path) -> None:
    made(tmp_path / "out", record(tmp_path / "0.wav"))
    before = {path: path.stat().st_ino for path in tmp_path.glob("*.astfast.*")}
    made(tmp_path / "out")
    assert {path: path.stat().st_ino for path in tmp_path.glob("*.astfast.*")} == before


def test_long_names_stay_apart(tmp_path: Path) -> None:
    paths = [tmp_path / ("é" * 120 + f"{i}.wav") for i in range(2)]
    made(tmp_path / "out", *map(record, paths), formats=["kaleidoscope-beside"])
    assert len(written(tmp_path)) == 2


def test_items_know_their_file_and_part() -> None:
    assert Item("x", "x", "a/b.wav").path == str(Path("a/b.wav").absolute())
    assert (Item("x", "x", b"RIFF").path, Item("x", "x", "a.wav").part) == ("", "")
    assert [Item("x", "x", "a", start, end).part for start, end in ((1.5, None), (None, 2.0), (1.0, 2.0))] == [
        *("#t=1.5", "#t=0,2", "#t=1,2")
    ]
