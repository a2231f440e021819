"""What a run lists: folders, globs, lists, manifests, archives and tables; their errors as inputs that fail."""

import datetime
import io
import itertools
import json
import math
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astfast.errors import AstfastError, AudioError
from astfast.volume import manifests
from astfast.volume.items import Item, Roots, Shard, digest
from astfast.volume.remote import Remote
from astfast.volume.sources import Sources


def ids(source: object, roots: Roots | None = None) -> list[str]:
    return [item.id for item in Sources(source, roots)]


def errors(source: object, roots: Roots | None = None) -> list[str]:
    return [str(item.audio) for item in Sources(source, roots) if isinstance(item.audio, AudioError)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("b.wav", "a.FLAC", "notes.txt", ".hidden.wav", "sub/c.ogg", "sub/deep/d.mp3", ".git/e.wav"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "sub" / "loop").symlink_to(root)
    (root / "sub" / "self").symlink_to(root / "sub" / "self")
    return root


def test_a_folder_is_walked_by_name_its_links_once_and_what_is_no_audio_counted(tree: Path) -> None:
    sources = Sources(tree)
    assert [item.file for item in sources] == [
        f"{tree}/{name}" for name in ("a.FLAC", "b.wav", "sub/c.ogg", "sub/deep/d.mp3")
    ]
    assert sources.passed_over == {"hidden": 2, "not audio": 2}  # notes.txt, and the link to itself


def test_a_folder_that_can_not_be_read_is_an_input_that_fails(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = os.scandir

    def scandir(path: Path) -> object:
        if path.name == "deep":
            raise PermissionError(13, "Permission denied")
        return inner(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert errors(tree) == [f"{tree}/sub/deep: the folder can't be read (Permission denied)"]
    assert len(ids(tree)) == 4


def test_pipes_of_folders_are_left_out_and_those_that_are_named_are_not(tree: Path) -> None:
    os.mkfifo(tree / "pipe.wav")
    (tree / "link.wav").symlink_to(tree / "pipe.wav")
    (tree / "gone.wav").symlink_to(tree / "nowhere.wav")
    (tree / "sub" / "loop").unlink()
    for source in (tree, f"{tree}/*"):
        sources = Sources(source)
        assert not {"pipe.wav", "link.wav"} & {Path(item.file).name for item in sources}
        assert sources.passed_over["not a file"] == 2
        assert f"{tree}/gone.wav" in ids(source)
    assert ids(tree / "pipe.wav") == [f"{tree}/pipe.wav"]


def test_globs_walk_folders_and_keep_what_they_name(tree: Path) -> None:
    assert sorted(ids(f"{tree}/*.wav")) == [f"{tree}/b.wav"]
    assert ids(f"{tree}/*.txt") == [f"{tree}/notes.txt"]
    (tree / "sub" / "loop").unlink()
    assert sorted(ids(f"{tree}/*")) == sorted(ids(tree))
    assert sorted(ids(f"{tree}/sub/**/*.mp3"))[0] == f"{tree}/sub/deep/d.mp3"
    assert errors(f"{tree}/*.opus") == [f"{tree}/*.opus: no file matches: check the pattern"]
    (tree / "odd[1].wav").write_bytes(b"x")
    assert ids(f"{tree}/odd[1].wav") == [f"{tree}/odd[1].wav"]


def test_names_on_lines_keep_blanks_and_bytes_that_are_no_utf8() -> None:
    listed = b"\xef\xbb\xbfa b.wav\r\n\n  \nx\xe9.wav\n sp.wav"
    assert [item.file for item in manifests.lines(io.BytesIO(listed), Roots())] == ["a b.wav", "x\udce9.wav", " sp.wav"]
    zero = b"a\nb.wav\0c.wav\0" + b"d" * 100_000 + b"\0"
    found = [item.file for item in manifests.lines(io.BytesIO(zero), Roots("/data"), zero=True)]
    assert found == ["a\nb.wav", "c.wav", "d" * 100_000]
    assert next(manifests.lines(io.BytesIO(b"c.wav"), Roots("/data"))).audio == "/data/c.wav"


def test_manifests_of_both_kinds_say_the_same(tmp_path: Path) -> None:
    rows = [
        {"path": "a.wav", "id": "first", "start": 1, "end": 2.5, "site": "north", "label": "dog"},
        {"path": "a.wav", "start": 3, "site": "south"},
        {"path": "b.wav"},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "m.csv").write_text(
        "\ufeffpath,id,start,end,site,label\r\na.wav,first,1,2.5,north,dog\r\na.wav,,3,,south,\r\nb.wav,,,,,\r\n"
    )
    own = digest("a.wav#t=1,2.5").hex()  # changes with the part, where the id does not
    from_json, from_csv = list(Sources(tmp_path / "m.jsonl")), list(Sources(tmp_path / "m.csv"))
    assert from_json[0] == Item("first", "a.wav", "a.wav", 1.0, 2.5, {"site": "north", "input_label": "dog"}, own)
    assert from_csv[0] == from_json[0]
    assert [item.id for item in from_csv] == [item.id for item in from_json] == ["first", "a.wav#t=3", "b.wav"]
    assert list(Sources(rows)) == from_json


def test_rows_that_are_none_fail_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(
        '{"path": "a.wav", "start": 2, "end": 1}\nnot json\n[1]\n{"id": "x"}\n'
        '{"path": "b.wav", "end": "nan"}\n{"path": "c.wav"}\n'
    )
    assert ids(path)[-1] == "c.wav"
    found = errors(path)
    for message, expected in zip(
        found,
        (
            "line 1: end is 1 and start 2",
            "line 2: not JSON",
            "line 3: not a JSON object",
            "line 4: no path",
            "line 5: end is 'nan'",
        ),
        strict=True,
    ):
        assert message.startswith(f"{path} {expected}")
    table = tmp_path / "m.csv"
    table.write_text("path,site\na.wav,x,y\nb.wav,z\n")
    assert errors(table) == [f"{table} line 2: 3 fields, more than the header's 2: correct the line"]
    assert ids(table)[-1] == "b.wav"


def test_a_quote_that_is_never_closed_is_a_failure_where_it_began(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text('path,site\n"a.wav","x\ny"\nb.wav,"5\nc.wav,z\nd.wav,z\n')
    assert ids(path)[0] == "a.wav"
    assert errors(path) == [f"{path} line 4: a quote that is never closed, all that follows is in it: correct the line"]
    path.write_text('path,site\na.wav,"closed"')
    assert errors(path) == []


def test_names_that_no_file_can_have_fail_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"path": "a\\ud800.wav"}\n{"path": "b.wav", "id": "\\ud800", "\\ud800": "\\ud800"}\n')
    first, second = Sources(path)
    assert isinstance(first.audio, AudioError)
    assert first.audio.kind == "invalid"
    assert str(first.audio).startswith(r"a\ud800.wav: a name with half of a character")
    assert second.audio == "b.wav"
    assert list(second.columns) == [r"\ud800"]
    assert errors(["a\ud800.wav"])
    assert len({digest(item.id) for item in (first, second)}) == 2


def test_columns_of_all_kinds_are_carried_as_text_and_numbers(recwarn: pytest.WarningsRecorder) -> None:
    when = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
    row = {"path": "a.wav", "at": when, "box": {"x": [1, None]}, "n": math.nan, "yes": True, "raw-1": b"x"}
    for (item,) in (Sources([row]), Sources([row])):
        assert item.columns == {"at": when.isoformat(), "box": '{"x": [1, null]}', "n": None, "yes": True}
    assert [str(w.message) for w in recwarn] == [
        "column 'raw-1' is not carried to the outputs: bytes has no form in them"
    ]


def test_parts_are_told_apart_to_the_sample_and_truth_is_no_time() -> None:
    rows = [{"path": "a.wav", "start": start} for start in (12345.678, 12345.679, True)]
    assert ids(rows)[:2] == ["a.wav#t=12345.678", "a.wav#t=12345.679"]
    assert errors(rows) == ["input 2: start is True: it must be seconds from the beginning, at least 0"]


def test_a_list_that_is_none_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("name,site\na.wav,x\n")
    with pytest.raises(AstfastError, match="names no column path, audio, file, but name, site"):
        ids(tmp_path / "m.csv")
    for header, hint in (("Path,site", "write 'path' for 'Path'"), ("path;site", "separate the columns with commas")):
        (tmp_path / "m.csv").write_text(f"{header}\na.wav,x\n")
        with pytest.raises(AstfastError, match=hint):
            ids(tmp_path / "m.csv")
    with pytest.raises(AstfastError, match=r"m\.jsonl: the list can't be opened"):
        ids(tmp_path / "m.jsonl")


def test_a_list_that_is_a_recording_or_ended_by_nul_bytes_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    for content in (b"a.wav\0b.wav\0", b"OggS\0\2\0\n\0", "a.wav\n".encode("utf-16")):
        path.write_bytes(content)
        with pytest.raises(AstfastError, match=r"list\.txt: not a list of names.*pass -0"):
            list(manifests.from_file(str(path), Roots()))
    path.write_bytes(b"a.wav\nb\0.wav\nc.wav\n")  # one bad name is one input that fails
    assert len(list(manifests.from_file(str(path), Roots()))) == 3


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_webdataset_shards_are_streamed_with_their_json(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"shard-000{suffix}"
    with tarfile.open(path, "w:gz" if suffix.endswith("gz") else "w") as archive:
        _add(archive, "x/0001.wav", b"one")
        _add(archive, "x/0001.json", b'{"site": "north", "tags": [1], "label": "dog"}')
        _add(archive, "x/0002.flac", b"two")
        _add(archive, "x/0002.txt", b"text")
        _add(archive, "x/.hidden.wav", b"no")
    sources = Sources(path)
    first, second = sources
    assert first[:3] == (f"{path}/x/0001", f"{path}/x/0001.wav", b"one")
    assert first.columns == {"site": "north", "input_tags": "[1]", "input_label": "dog"}
    assert (second.id, second.audio) == (f"{path}/x/0002", b"two")
    assert sources.passed_over == {"hidden": 1, "not audio": 1}


def test_links_in_a_tar_are_inputs_that_fail(tmp_path: Path) -> None:
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as archive:
        _add(archive, "a.wav", b"one")
        for name, kind in (("b.wav", tarfile.LNKTYPE), ("c.wav", tarfile.SYMTYPE), ("d.wav", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.wav"
            archive.addfile(member)
    sources = Sources(path)
    assert [type(item.audio) for item in sources] == [bytes, AudioError, AudioError]
    assert sources.passed_over == {"not a file": 1}
    assert errors(path)[0].startswith(f"{path}/b.wav: a link to a.wav inside a tar")


def test_a_damaged_tar_gives_what_comes_before_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(40):
            _add(archive, f"{number}.wav", bytes(1000))
    path.write_bytes(path.read_bytes()[:30_000])
    assert len(ids(path)) > 10
    assert ids(path)[-1] == str(path)
    assert f"{path}: the archive is damaged" in errors(path)[0]


def test_a_tar_that_goes_on_behind_its_end_says_so(tmp_path: Path) -> None:
    paths = [tmp_path / "a.tar", tmp_path / "b.tar"]
    for path in paths:
        with tarfile.open(path, "w") as archive:
            _add(archive, f"{path.stem}.wav", bytes(1000))
    joined = tmp_path / "c.tar"
    joined.write_bytes(paths[0].read_bytes() + paths[1].read_bytes())
    assert len(ids(joined)) == 2
    assert f"{joined}: the archive is damaged or no tar (another archive is joined behind its end)" in errors(joined)[0]
    padded = tmp_path / "padded.tar"
    padded.write_bytes(paths[0].read_bytes() + bytes(100_000))
    assert not errors(padded)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_shards_of_datasets_give_bytes_and_columns(tmp_path: Path, suffix: str) -> None:
    audio = [{"bytes": bytes([i]), "path": f"{i % 3}.wav"} for i in range(100)]
    table = pa.table({"audio": audio, "label": list(range(100)), "vector": [[1.0]] * 100})
    path = tmp_path / f"train.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    items = list(Sources(path))
    assert [item.audio for item in items] == [bytes([i]) for i in range(100)]
    assert items[99][:2] == (f"{path} row 99", "0.wav")
    assert items[99].columns == {"input_label": 99, "vector": "[1.0]"}
    path.write_bytes(b"no table")
    assert "can't be read" in errors(path)[0]


def test_urls_are_fetched_only_where_that_is_allowed(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/a.wav"
    (tmp_path / "a.wav").write_bytes(b"12345")
    assert errors([url]) == [f"{url}: URLs are not fetched: allow them with urls= and a limit in MB, or download it"]
    (item,) = Sources([url], Roots(url_bytes=5))
    assert item.audio.fetch() == b"12345"
    with pytest.raises(AudioError, match="more than 4e-06 MB"):
        Remote(url, 4).fetch()
    with pytest.raises(AudioError, match="can't be fetched"):
        Remote(url + "x", 4).fetch()


def test_inputs_themselves_have_numbers_for_names() -> None:
    wave = np.zeros(10, np.float32)
    array = {"array": wave, "sampling_rate": 16_000}
    items = list(Sources([b"bytes", array, wave]))
    assert [item.id for item in items] == ["input 0", "input 1", "input 2"]
    assert items[1].audio is array
    assert [item.audio for item in Sources(b"bytes")] == [b"bytes"]


def test_a_file_that_changes_has_another_stamp_and_one_with_an_id_of_its_own_only_if_it_is_another(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.wav"
    (missing,) = (item.stamped() for item in Sources(path))
    path.write_bytes(b"1")
    (before,) = (item.stamped() for item in Sources(path))
    path.write_bytes(b"12")
    (after,) = (item.stamped() for item in Sources(path))
    assert len({missing.stamp, before.stamp, after.stamp}) == 3
    (own,) = (item.stamped() for item in Sources([{"id": "mine", "path": str(path)}]))
    path.write_bytes(b"123")
    (same,) = (item.stamped() for item in Sources([{"id": "mine", "path": str(path)}]))
    (part,) = (item.stamped() for item in Sources([{"id": "mine", "path": str(path), "start": 1}]))
    (other,) = (item.stamped() for item in Sources([{"id": "mine", "path": "b.wav"}]))
    assert own.stamp == same.stamp
    assert len({own.stamp, part.stamp, other.stamp}) == 3


def test_shards_share_all_inputs_and_none_twice() -> None:
    items = [Item(f"clip {i}", "", "") for i in range(3000)]
    shares = [[item.id for item in Shard(i, 3).of(items)] for i in range(3)]
    assert sorted(itertools.chain(*shares)) == sorted(item.id for item in items)
    assert all(900 < len(share) < 1100 for share in shares)
    assert shares[0][:3] == ["clip 5", "clip 6", "clip 9"]  # the same on every machine, in every version
    assert Shard.parse("15/16") == Shard(15, 16)
    for text in ("16/16", "1", "a/b", "-1/2"):
        with pytest.raises(ValueError, match="shard"):
            Shard.parse(text)


def test_a_manifest_is_listed_as_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("".join(f'{{"path": "{i:06d}.wav"}}\n' for i in range(100_000)))
    start = time.process_time()
    assert next(iter(Sources(path))).id == "000000.wav"
    assert time.process_time() - start < 0.2


def test_files_of_one_name_that_are_apart_in_a_tar_are_inputs_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a.wav", "b.wav", "a.mp3"):
            archive.addfile(tarfile.TarInfo(name))
    assert [item.id for item in Sources(path)] == [f"{path}/{name}" for name in ("a", "b", "a.mp3")]
