"""Every output format, read back: by parsers written from the programs' documentation, and by Parquet's readers."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astfast.commands.tag import OUT_FORMATS
from astfast.errors import OutputError
from astfast.volume.formats import PARTS, TABLES, audacity
from astfast.volume.journal import Journal
from astfast.volume.records import About, Record, Row

LABELS = ("dog", 'rain, "heavy"', "tab\there")
ABOUT = About(LABELS, 16_000, {"model": "abc"})
RECORDS = [
    Record("a.wav", "a.wav", "", {"site": "north", "n": 3}, [Row(0.0, 2.0, [(0, 0.75)]), Row(2.0, 4.0, [])], 4.0, 4.5),
    Record("bad.wav", "bad.wav", "", {}, [], error="bad.wav: damaged", kind="damaged"),
    Record("one", "x/y/b\udce9.flac", "", {"site": None}, [Row(0.5, 1.25, [(1, 0.5), (2, 0.25)])], 1.25, 1.25),
]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished run of RECORDS in all formats."""
    run = Journal(
        tmp_path / "out", ABOUT, ["jsonl", "csv", "parquet", "parquet-long", "raven", "audacity", "kaleidoscope"]
    )
    for record in RECORDS:
        run.add(record)
    run.close(True, {})
    return tmp_path / "out"


def test_json_lines_have_a_row_a_window(out: Path) -> None:
    rows = [json.loads(line) for line in (out / "tags" / "part-00000.jsonl").read_text("utf-8").splitlines()]
    assert rows[0] == {
        "id": "a.wav",
        "file": "a.wav",
        "start": 0.0,
        "end": 2.0,
        "tags": [{"label": "dog", "score": 0.75}],
        "site": "north",
        "n": 3,
    }
    assert rows[1]["tags"] == []
    assert rows[2]["file"] == "x/y/b\\xe9.flac"
    assert len(rows) == 3


def test_csv_has_a_row_a_tag(out: Path) -> None:
    with (out / "tags" / "part-00000.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "file", "start", "end", "label", "label_id", "score", "site", "n"]
    assert list(rows[0].values()) == ["a.wav", "a.wav", "0.000", "2.000", "dog", "0", "0.750000", "north", "3"]
    assert [row["label"] for row in rows] == list(LABELS)
    assert rows[1]["site"] == rows[1]["n"] == ""


def test_parquet_is_read_in_a_line_by_its_readers(out: Path) -> None:
    (wide,) = (out / "tags").glob("*.parquet")
    (long,) = (out / "tags-long").glob("*.parquet")
    table = pq.read_table(wide)
    assert table.column_names == ["id", "file", "start", "end", "tags", "site", "n"]
    assert table["tags"].to_pylist()[0] == [{"label": "dog", "score": 0.75}]
    assert json.loads(table.schema.metadata[b"astfast"]) == {"model": "abc"}
    assert table["n"].to_pylist() == ["3", "3", None]
    frame = pandas.read_parquet(long)
    assert frame["label"].tolist() == list(LABELS)
    assert frame["score"].dtype == np.float32
    assert frame["label"].dtype == "category"


@pytest.mark.parametrize("package", ["polars", "duckdb"])
def test_parquet_is_read_by_other_engines(out: Path, package: str) -> None:
    module = pytest.importorskip(package)
    query = str(out / "tags-long" / "*.parquet")
    if package == "polars":
        assert module.read_parquet(query)["label"].to_list() == list(LABELS)
    else:
        assert module.sql(f"select label, score from '{query}'").fetchall() == list(
            zip(LABELS, (0.75, 0.5, 0.25), strict=True)
        )


def read_selection_table(path: Path) -> list[dict[str, str]]:
    """As Raven does: tab-separated, columns by name in any order, no quoting; each row as long as the header."""
    header, *lines = [line.split("\t") for line in path.read_text("utf-8").split("\n")[:-1]]
    assert len(set(header)) == len(header)
    assert all(len(line) == len(header) for line in lines)
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_raven_opens_one_table_over_all_files(out: Path) -> None:
    rows = read_selection_table(out / "raven" / "selections.txt")
    needed = {"Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"}
    assert needed <= set(rows[0])
    assert [row["Selection"] for row in rows] == ["1", "2", "3"]
    assert {row["View"] for row in rows} == {"Spectrogram 1"}
    assert {row["Channel"] for row in rows} == {"1"}
    assert [(float(r["Begin Time (s)"]), float(r["End Time (s)"])) for r in rows] == [
        (0.0, 2.0),
        (5.0, 5.75),
        (5.0, 5.75),
    ]
    assert [float(row["File Offset (s)"]) for row in rows] == [0.0, 0.5, 0.5]
    assert [row["Confidence"] for row in rows] == ["0.7500", "0.5000", "0.2500"]
    assert rows[2]["Common Name"] == "tab here"
    assert all(0 <= float(row["Low Freq (Hz)"]) < float(row["High Freq (Hz)"]) <= 8000 for row in rows)
    files = (out / "raven" / "files.txt").read_text("utf-8").splitlines()
    assert files == [str(Path(name).absolute()) for name in ("a.wav", "x/y/b\\xe9.flac")]
    assert {row["Begin Path"] for row in rows} == set(files)


def read_label_track(path: Path) -> list[tuple[float, float, str]]:
    """As Audacity does: start, end and label between tabs, a line each; a line that starts with a backslash is more."""
    labels = []
    for line in path.read_text("utf-8").splitlines():
        start, end, label = line.split("\t")
        labels.append((float(start), float(end), label))
    assert all(start <= end for start, end, _ in labels)
    return labels


def test_audacity_opens_a_label_track_a_file(out: Path) -> None:
    assert read_label_track(out / "audacity" / "a.wav.txt") == [(0.0, 2.0, "dog 0.75")]
    assert read_label_track(out / "audacity" / "one.txt") == [
        (0.5, 1.25, f"{LABELS[1]} 0.50"),
        (0.5, 1.25, "tab here 0.25"),
    ]
    assert len(list((out / "audacity").rglob("*.txt"))) == 2


def test_the_command_line_has_every_format() -> None:
    made_by_options = {"scores", "embeddings", "embeddings-npy", "embeddings-places"}
    assert set(OUT_FORMATS) == {*PARTS, *TABLES} - made_by_options


def test_label_tracks_stay_in_their_folder_and_apart() -> None:
    names = ["/data/a.wav", "../a.wav", "../../a.wav", "x/" + "é" * 300 + "1", "x/" + "é" * 300 + "2", "..", "/"]
    names += [
        "b",
        "./b",
        "x//y",
        "x/y",
        "é" * 300 + "/a.wav",
        "n" * 290 + "/a.wav",
        "a/" * 2500 + "1",
        "a/" * 2500 + "2",
    ]
    places = [audacity.place(RECORDS[0]._replace(id=name), ".txt") for name in names]
    assert len(set(places)) == len(names)
    assert all(".." not in place.parts and not place.is_absolute() for place in places)
    assert all(len(part.encode()) <= 255 for place in places for part in place.parts)
    assert all(len(str(place).encode()) <= 2000 for place in places)
    assert audacity.place(RECORDS[0]._replace(id="https://host/a.wav"), ".txt") == Path("https:/host/a.wav.txt")


def test_kaleidoscope_opens_one_table(out: Path) -> None:
    with (out / "kaleidoscope.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("INDIR", "FOLDER", "IN FILE", "OFFSET", "DURATION", "scientific_name", "common_name", "confidence"),
        *("lat", "lon", "week", "overlap", "sensitivity"),
    ]
    assert [row["IN FILE"] for row in rows] == ["a.wav", "b\\xe9.flac", "b\\xe9.flac"]
    assert (rows[1]["INDIR"], rows[1]["FOLDER"]) == ("x", "y")
    assert [(float(row["OFFSET"]), float(row["DURATION"])) for row in rows][1] == (0.5, 0.75)
    assert {row["week"] for row in rows} == {""}


def test_arrays_have_a_row_a_window(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((2, 3)).astype(np.float16)
    embeddings = rng.random((2, 4), np.float32)
    run = Journal(tmp_path, ABOUT, ["scores", "embeddings", "embeddings-npy", "embeddings-places"])
    run.add(RECORDS[1])
    run.add(RECORDS[0]._replace(windows=[(0.0, 2.0, None), (2.0, 4.0, None)], scores=scores, embeddings=embeddings))
    run.close(True, {})
    table = pq.read_table(tmp_path / "scores" / "part-00000.parquet")
    assert table.schema.field("scores").type == pa.list_(pa.float16(), 3)
    np.testing.assert_array_equal(np.stack(table["scores"].to_pylist()), scores)
    table = pq.read_table(tmp_path / "embeddings" / "part-00000.parquet")
    np.testing.assert_array_equal(np.stack(table["embedding"].to_pylist()).astype(np.float32), embeddings)
    assert table.select(["id", "start", "end"]).to_pylist()[1] == {"id": "a.wav", "start": 2.0, "end": 4.0}
    np.testing.assert_array_equal(np.load(tmp_path / "embeddings" / "part-00000.npy"), embeddings)
    places = [json.loads(line) for line in (tmp_path / "embeddings" / "part-00000.jsonl").read_text().splitlines()]
    assert [place["end"] for place in places] == [2.0, 4.0]


@pytest.fixture
def out_of_channels(tmp_path: Path) -> Path:
    """A finished run in all formats whose rows are of single channels."""
    about = ABOUT._replace(settings={"channel": "each"})
    formats = ["jsonl", "csv", "parquet", "parquet-long", "raven", "audacity", "kaleidoscope"]
    run = Journal(tmp_path / "out", about, [*formats, "scores", "embeddings-npy", "embeddings-places"])
    rows = [Row(0.0, 2.0, [(0, 0.75)], 0), Row(0.0, 2.0, [(1, 0.5)], 1)]
    values = np.zeros((2, 3), np.float16), np.zeros((2, 4), np.float32)
    windows = [(0.0, 2.0, 0), (0.0, 2.0, 1)]
    run.add(Record("a.wav", "a.wav", "", {}, rows, 2.0, 2.0, None, None, (), windows, *values))
    run.close(True, {})
    return tmp_path / "out"


def test_every_format_says_which_channel_a_row_is_of(out_of_channels: Path) -> None:
    out = out_of_channels
    lines = [json.loads(line) for line in (out / "tags" / "part-00000.jsonl").read_text().splitlines()]
    assert [(line["channel"], line["tags"][0]["label"]) for line in lines] == [(0, "dog"), (1, LABELS[1])]
    with (out / "tags" / "part-00000.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "file", "channel", "start", "end", "label", "label_id", "score"]
    assert [(row[2], row[5]) for row in rows] == [("0", "dog"), ("1", LABELS[1])]
    for place in ("tags", "tags-long", "scores"):
        table = pq.read_table(next((out / place).glob("*.parquet")))
        assert table.schema.field("channel").type == pa.int32()
        assert table["channel"].to_pylist() == [0, 1]
    places = (out / "embeddings" / "part-00000.jsonl").read_text().splitlines()
    assert [json.loads(line)["channel"] for line in places] == [0, 1]
    assert [row["Channel"] for row in read_selection_table(out / "raven" / "selections.txt")] == ["1", "2"]
    with (out / "kaleidoscope.csv").open(newline="") as file:
        assert [row["CHANNEL"] for row in csv.DictReader(file)] == ["0", "1"]
    track = read_label_track(out / "audacity" / "a.wav.txt")
    assert [label for _, _, label in track] == ["dog 0.75 (channel 0)", f"{LABELS[1]} 0.50 (channel 1)"]


def test_a_part_without_results_is_a_file_all_the_same(tmp_path: Path) -> None:
    for name, made in PARTS.items():
        path = tmp_path / f"{name}{made.suffix}"
        made.write(path, RECORDS[1:2], ABOUT)
        assert path.exists()
    assert pq.read_table(tmp_path / "parquet.parquet").num_rows == 0


def test_parquet_without_its_package_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(OutputError, match=r"pip install 'astfast\[parquet\]'"):
        Journal(tmp_path / "out", ABOUT, ["parquet"])
    assert not (tmp_path / "out").exists()
