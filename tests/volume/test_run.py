"""Runs: results are those of the tagger, in bounded memory, whatever else is in the list; what fails fails alone."""

import io
import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import astfast
from astfast.engines.load import LoadArguments
from astfast.errors import OutputError
from astfast.volume import journal
from astfast.volume.detections import Merge
from astfast.volume.options import Options
from astfast.volume.tag_files import Run
from astfast.volume.workers import ThisProcess
from tests.cases.recordings import RATE, clips, file_bytes
from tests.fakes.instant_engine import InstantEngine


@pytest.fixture(scope="module")
def tagger(tiny_model: Path) -> astfast.Tagger:
    return astfast.load(tiny_model, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty clips of different lengths and rates, and two files that are none."""
    folder = tmp_path_factory.mktemp("clips")
    for i, clip in enumerate(clips(20, 0.4)):
        soundfile.write(folder / f"{i:02d}.wav", np.tile(clip, 1 + i % 5), RATE if i % 2 else 22_050)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.flac").write_text("no audio")
    return folder


def fake_run(source: Any, engine: InstantEngine | None = None, **options: Any) -> Run:
    asked = Options(**options).checked()
    return Run(source, ThisProcess(engine or InstantEngine(), asked), LoadArguments((None,)), asked)  # type: ignore[arg-type]


def tags(source: Any, **options: Any) -> list[dict[str, Any]]:
    return list(fake_run(source, **options).rows(lambda done: None))


def by_file(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["file"], []).append(row)
    return found


@pytest.mark.filterwarnings("ignore:.*only its first")
def test_rows_are_the_taggers_own_tags(tagger: astfast.Tagger, folder: Path) -> None:
    rows = by_file(list(astfast.tag_files(folder, tagger=tagger, top_k=3)))
    assert len(rows) == 22
    for path in sorted(folder.iterdir()):
        (row,) = rows[str(path)]
        if path.suffix == ".wav" and path.stat().st_size:
            assert row["tags"] == tagger.classify(path, top_k=3)
        else:
            assert path.name in row["error"]
    assert {row["kind"] for (row,) in rows.values() if "kind" in row} == {"empty", "undecodable"}


def test_windows_are_the_taggers_own_segments(tagger: astfast.Tagger, folder: Path) -> None:
    rows = by_file(list(astfast.tag_files(folder, tagger=tagger, window=0.5, hop=0.2, threshold=0.3)))
    for path in sorted(folder.glob("[0-9]*.wav")):
        segments = [{name: row[name] for name in ("start", "end", "tags")} for row in rows[str(path)]]
        assert segments == tagger.segments(path, window=0.5, hop=0.2, threshold=0.3)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten files of one to three channels, of other lengths and rates."""
    folder = tmp_path_factory.mktemp("recordings")
    for i in range(10):
        channels = np.stack(clips(1 + i % 3, 0.5 + 0.3 * i), axis=1)
        soundfile.write(folder / f"{i}.flac", channels, RATE if i % 2 else 22_050)
    return folder


@pytest.mark.parametrize("merge", [None, Merge(0.1)])
def test_each_channel_is_tagged_as_if_it_were_alone(recordings: Path, merge: Merge | None) -> None:
    how: dict[str, Any] = {"window": 0.4, "hop": 0.3, "threshold": 0.01, "merge": merge, "order": True}
    rows = tags(recordings, channel="each", **how)
    seen = set()
    for channel in range(3):
        alone = [row for row in tags(recordings, channel=channel, **how) if "error" not in row]
        mine = [{k: v for k, v in row.items() if k != "channel"} for row in rows if row["channel"] == channel]
        assert sorted(map(repr, mine)) == sorted(map(repr, alone))
        seen |= {row["file"] for row in alone}
    assert len(seen) == 10
    if merge is None:  # the windows of all channels side by side, in time
        places = [(row["file"], row["start"], row["channel"]) for row in rows]
        assert places == sorted(places)


@pytest.mark.filterwarnings("ignore:.*only its first")
def test_each_channel_of_any_kind_of_input_has_its_beginning(recordings: Path) -> None:
    content = (recordings / "2.flac").read_bytes()
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    kinds = [content, io.BytesIO(content), {"array": samples.T, "sampling_rate": rate}, recordings / "2.flac"]
    rows = by_file(tags(kinds, channel="each"))
    first = [(row["start"], row["end"], row["channel"], row["tags"]) for row in rows["input 0"]]
    assert [channel for _, _, channel, _ in first] == [0, 1, 2]
    assert len({json.dumps(found) for _, _, _, found in first}) == 3
    assert len(rows) == 4
    for of_kind in rows.values():
        assert [(row["start"], row["end"], row["channel"], row["tags"]) for row in of_kind] == first


def test_a_run_of_each_channel_goes_on_where_it_stopped(recordings: Path, tmp_path: Path) -> None:
    def run(out: Path, source: Any, channel: Any = "each") -> dict[str, Any]:
        planned = fake_run(source, channel=channel, window=0.4, scores=True, embeddings="npy", order=True)
        return planned.into(out, ["jsonl", "csv", "raven"], False, False, lambda done: None)

    files = sorted(recordings.iterdir())
    run(tmp_path / "at once", files)
    run(tmp_path / "twice", files[:4])
    assert run(tmp_path / "twice", files)["skipped"] == 4
    for kind in ("tags/*.jsonl", "tags/*.csv", "embeddings/*.jsonl"):
        once, twice = (
            [line for path in sorted((tmp_path / name).glob(kind)) for line in path.read_text().splitlines()]
            for name in ("at once", "twice")
        )
        assert len(once) > 30
        assert [line for line in twice if line != once[0]] == once[1:]
    with pytest.raises(OutputError, match='channel was "each" and is "mean"'):
        run(tmp_path / "twice", files, "mean")


def test_order_is_kept_where_it_is_asked_for(folder: Path) -> None:
    rows = tags([folder] * 3, order=True, window=0.1)
    files = [file for file, _ in itertools.groupby(row["file"] for row in rows)]
    assert files == sorted(map(str, folder.iterdir()))
    for _, group in itertools.groupby(rows, lambda row: row["file"]):
        starts = [row["start"] for row in group if "start" in row]
        assert starts == sorted(starts)


def test_a_long_recording_holds_nobody_up(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a long one.wav", np.zeros(RATE * 600, np.int16), RATE)
    for i in range(100):
        soundfile.write(tmp_path / f"short {i}.wav", np.zeros(RATE // 10, np.int16), RATE)
    engine = InstantEngine()
    run = fake_run(tmp_path, engine, window=0.5, decoders=1)
    is_long = [Path(row["file"]).name == "a long one.wav" for row in run.rows(lambda done: None)]
    assert len(is_long) == 1200 + 100
    last_short = max(i for i, long in enumerate(is_long) if not long)
    assert 50 < sum(is_long[:last_short]) < 200  # each has half of the model
    assert sum(size < engine.preferred_batch_size for size in engine.batches) < 5  # they share batches


def test_reading_is_bounded_and_stops_with_its_reader() -> None:
    taken = 0

    def inputs() -> Iterator[dict[str, Any]]:
        nonlocal taken
        while True:
            taken += 1
            yield {"array": np.zeros(16_000, np.float32), "sampling_rate": RATE}

    before = threading.active_count()
    rows = fake_run(inputs(), InstantEngine(delay=0.001)).rows(lambda done: None)
    assert len(list(itertools.islice(rows, 100))) == 100
    rows.close()
    assert threading.active_count() == before
    assert taken < 100_000


def test_the_first_result_comes_while_the_list_goes_on() -> None:
    go_on = threading.Event()

    def inputs() -> Iterator[dict[str, Any]]:
        yield {"array": np.zeros(1_600, np.float32), "sampling_rate": RATE}
        go_on.wait(20)

    rows = fake_run(inputs()).rows(lambda done: None)
    start = time.perf_counter()
    next(rows)
    assert time.perf_counter() - start < 5
    go_on.set()
    assert list(rows) == []


def test_what_listing_raises_comes_after_what_was_listed(tmp_path: Path) -> None:
    def inputs() -> Iterator[dict[str, Any]]:
        yield {"array": np.zeros(1_600, np.float32), "sampling_rate": RATE}
        raise RuntimeError("the list is broken")

    rows = fake_run(inputs()).rows(lambda done: None)
    assert "tags" in next(rows)
    with pytest.raises(RuntimeError, match="the list is broken"):
        next(rows)


def test_parts_of_files_are_tagged_alone(tmp_path: Path) -> None:
    wave = np.concatenate([np.full(RATE, value, np.float32) for value in (0.1, -0.2, 0.3, -0.4)])
    path = str(tmp_path / "a.wav")
    soundfile.write(path, wave, RATE, subtype="FLOAT")
    rows = tags(
        [{"path": path, "start": 1, "end": 2, "site": "x"}, {"path": path, "start": 2}, {"path": path, "start": 9}],
        order=True,
    )
    assert (rows[0]["start"], rows[0]["end"], rows[0]["site"]) == (1.0, 2.0, "x")
    assert {tag["label"]: tag["score"] for tag in rows[0]["tags"]} == {
        "loud": pytest.approx(0.2),
        "long": 0.5,
        "positive": 0.0,
    }
    assert (rows[1]["start"], rows[1]["end"]) == (2.0, 3.0)
    assert rows[2]["error"] == f"{path}: ends after 4.00 s, and the part to tag starts at 9.00 s"
    windows = tags([{"path": path, "start": 1.5, "end": 3.5}], window=1.0)
    assert [(row["start"], row["end"]) for row in windows] == [(1.5, 2.5), (2.5, 3.5)]


def test_channels_are_chosen_and_damage_can_be_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([np.full(RATE, 0.1), np.full(RATE, 0.5)], axis=1), RATE, subtype="FLOAT")
    for channel, level in (("mean", 0.3), ("max", 0.5), (0, 0.1)):
        (row,) = tags(path, channel=channel)
        assert {tag["label"]: tag["score"] for tag in row["tags"]}["loud"] == pytest.approx(level, rel=1e-4)
    whole = file_bytes(clips(1, 2.0)[0], format="FLAC")
    damaged = whole[:20_000] + bytes(9_000) + whole[29_000:]
    assert ["error" in row for row in tags([damaged], window=1.0)][-1:] == [False]
    assert "error" in tags([damaged], window=1.0, on_damage="error")[-1]


def test_an_id_that_was_listed_before_is_counted_not_tagged_again(folder: Path) -> None:
    run = fake_run([folder, folder / "01.wav", {"id": "x", "path": str(folder / "01.wav")}])
    assert len(list(run.rows(lambda done: None))) == 23
    assert run.progress.repeated == 1


def test_an_id_that_two_inputs_were_given_fails_the_second(folder: Path) -> None:
    rows = [{"path": f"{folder}/{name}.wav", "id": "x"} for name in ("00", "01", "00")]
    run = fake_run([*rows, {**rows[0], "start": 0.1}], order=True)
    first, *failed = run.rows(lambda done: None)
    assert first["id"] == "x"
    assert [row["id"] for row in failed] == [f"x ({folder}/01.wav)", f"x ({folder}/00.wav from 0.1 s)"]
    assert {row["kind"] for row in failed} == {"invalid"}
    assert "its id x was given to another input before" in failed[0]["error"]
    assert run.progress.repeated == 1


def test_a_part_without_a_sample_is_told_as_one(folder: Path) -> None:
    (row,) = tags([{"path": f"{folder}/00.wav", "start": 0.1, "end": 0.100001}])
    assert row["kind"] == "invalid"
    assert "the part from start 0.1 s to end 0.100001 s has no sample" in row["error"]


def test_detections_scores_and_embeddings_are_of_the_same_windows(tmp_path: Path) -> None:
    wave = np.concatenate([np.full(RATE, value, np.float32) for value in (0.1, 0.2, -0.3, 0.4)])
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    out = tmp_path / "out"
    options = {"window": 1.0, "labels": ["positive"], "threshold": 0.5, "merge": Merge()}
    run = fake_run(tmp_path / "a.wav", scores=True, embeddings="npy", **options)
    run.into(out, ["jsonl"], False, False, lambda done: None)
    rows = [json.loads(line) for line in (out / "tags" / "part-00000.jsonl").read_text().splitlines()]
    assert [(row["start"], row["end"], row["tags"]) for row in rows] == [
        (0.0, 2.0, [{"label": "positive", "score": 1.0}]),
        (3.0, 4.0, [{"label": "positive", "score": 1.0}]),
    ]
    assert np.load(out / "embeddings" / "part-00000.npy").shape == (4, 2)
    assert (out / "scores" / "part-00000.parquet").exists()


def rows_of(out: Path) -> list[str]:
    return sorted(line for path in out.glob("**/tags/*.jsonl") for line in path.read_text().splitlines())


def test_a_run_that_is_stopped_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "PART_INPUTS", 4)
    fake_run(folder).into(tmp_path / "whole", ["jsonl"], False, False, lambda done: None)
    seen: list[str] = []

    def stop(done: Any) -> None:
        seen.append(done.item.id)
        if len(seen) in (3, 9):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fake_run(folder).into(tmp_path / "out", ["jsonl"], False, False, stop)
        report = json.loads((tmp_path / "out" / "run.json").read_text())
        assert report["finished"] is False
        assert report["tagged"] + sum(report["failed"].values()) + report["skipped"] == len(seen)
    report = fake_run(folder).into(tmp_path / "out", ["jsonl"], False, False, stop)
    assert len(seen) == len(set(seen)) == 22
    assert report["skipped"] == 9
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")
    again = fake_run(folder).into(tmp_path / "out", ["jsonl"], False, False, stop)
    assert (again["tagged"], again["skipped"], again["failed_before"]) == (0, 22, 2)


def test_a_changed_file_is_tagged_again_and_a_repaired_one_at_last(tmp_path: Path) -> None:
    clips_folder, out = tmp_path / "clips", tmp_path / "out"
    clips_folder.mkdir()
    (clips_folder / "bad.wav").write_text("no audio")
    for name, value in (("a", 0.5), ("b", 0.25)):
        soundfile.write(clips_folder / f"{name}.wav", np.full(RATE, value), RATE)
    assert fake_run(clips_folder).into(out, ["jsonl"], False, False, lambda done: None)["failed"] == {"undecodable": 1}
    soundfile.write(clips_folder / "a.wav", np.full(RATE // 2, 0.75), RATE)
    soundfile.write(clips_folder / "bad.wav", np.full(RATE, 0.125), RATE)
    report = fake_run(clips_folder).into(out, ["jsonl"], False, False, lambda done: None)
    assert (report["tagged"], report["skipped"]) == (2, 1)
    rows = [json.loads(row) for row in rows_of(out)]
    assert [(Path(row["file"]).name, row["end"]) for row in rows] == [("a.wav", 0.5), ("b.wav", 1.0), ("bad.wav", 1.0)]
    assert (out / "failures.jsonl").read_text() == ""


def test_samples_are_told_by_what_they_are_and_files_that_are_open_are_read_again(tmp_path: Path) -> None:
    def report(*inputs: Any) -> tuple[int, int]:
        counts = fake_run(list(inputs)).into(tmp_path / "out", ["jsonl"], False, False, lambda done: None)
        return counts["tagged"], counts["skipped"]

    wave = np.full(RATE, 0.5, np.float32)
    content = file_bytes(wave, format="WAV")
    first = {"array": wave, "sampling_rate": RATE}
    assert report(first, content, io.BytesIO(content)) == (3, 0)
    assert report(first, content, io.BytesIO(content)) == (1, 2)
    assert report({"array": wave / 2, "sampling_rate": RATE}, content) == (1, 1)
    assert report({"array": wave / 2, "sampling_rate": RATE // 2}, content) == (1, 1)
    assert len(rows_of(tmp_path / "out")) == 3


def test_shards_write_side_by_side(folder: Path, tmp_path: Path) -> None:
    for i in range(3):
        fake_run(folder, shard=f"{i}/3").into(tmp_path / "out", ["jsonl"], False, False, lambda done: None)
    fake_run(folder).into(tmp_path / "whole", ["jsonl"], False, False, lambda done: None)
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"shard-0000{i}-of-00003" for i in range(3)]


def test_too_many_failures_end_the_run_and_lose_nothing(tmp_path: Path) -> None:
    files = [str(tmp_path / f"missing {i}.wav") for i in range(5)]
    with pytest.raises(
        astfast.AstfastError, match=r"2 inputs failed, more than the 1 allowed; the last one: .*missing"
    ):
        fake_run(files, max_failures=1).into(tmp_path / "out", ["jsonl"], False, False, lambda done: None)
    assert len((tmp_path / "out" / "failures.jsonl").read_text().splitlines()) >= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embeddings": "csv"}, "embeddings is 'csv'"),
        ({"merge": (0.0, 0.0)}, "pass window="),
        ({"max_failures": -1}, "max_failures is -1"),
        ({"decoders": 0}, "decoders is 0"),
        ({"urls": 0}, "urls is 0"),
        ({"shard": "3/3"}, "shard '3/3'"),
        ({"labels": ["horse"]}, "no label 'horse'"),
        ({"top_k": 0}, "top_k is 0"),
        ({"hop": 1.0}, "hop is 1.0 without a window"),
    ],
)
def test_impossible_options_are_refused_at_the_call(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fake_run([], **options)


def test_the_model_is_told_by_its_content(
    tagger: astfast.Tagger, folder: Path, tmp_path: Path, tiny_model: Path, other_tiny_model: Path
) -> None:
    out = tmp_path / "out"
    assert astfast.tag_files(folder / "01.wav", out, tagger=tagger, formats=["jsonl", "csv"])["tagged"] == 1
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert len(settings["model"]) == 64
    for model, merging, difference in ((other_tiny_model, 0.0, "model was"), (tiny_model, 0.5, "token_merging was")):
        other = astfast.load(model, device="cpu", precision="float32", token_merging=merging)
        with pytest.raises(astfast.OutputError, match=difference):
            astfast.tag_files(folder / "01.wav", out, tagger=other)
    seen: list[tuple[str, str | None]] = []
    astfast.tag_files(folder / "empty.wav", out, tagger=tagger, on_file=lambda *done: seen.append(done))
    assert seen[0][0] == str(folder / "empty.wav")
    assert "empty" in str(seen[0][1])


def test_a_file_that_vanishes_is_a_failure(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    for path in paths:
        soundfile.write(path, np.zeros(1_600), RATE)

    def inputs() -> Iterator[Path]:
        yield paths[0]
        paths[1].unlink()
        yield from paths[1:]

    rows = tags(inputs(), order=True)
    assert ["error" in row for row in rows] == [False, True, False]
    assert rows[1]["kind"] == "missing"
