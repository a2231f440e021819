"""Daft: a column of paths or bytes to a column of tags."""

from pathlib import Path
from typing import Any

import pytest

import astfast
from astfast.integrations.daft import tag
from tests.cases.recordings import clips, file_bytes

LOADING: Any = {"precision": "float32", "threads": 1, "top_k": 2}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*only its first")
@pytest.mark.parametrize("column", ["path", "bytes"])
def test_columns_of_tags_are_the_taggers_own(tiny_model: Path, tmp_path: Path, column: str) -> None:
    daft = pytest.importorskip("daft")
    for i, clip in enumerate(clips(5)):
        (tmp_path / f"{i} %41.wav").write_bytes(file_bytes(clip, format="WAV") if i else b"no audio")
    paths = sorted(map(str, tmp_path.glob("*.wav")))
    values = [*paths, None] if column == "path" else [*(Path(path).read_bytes() for path in paths), None]
    frame = daft.from_pydict({"n": list(range(6)), column: values})
    rows = frame.with_column("tags", tag(frame[column], model=str(tiny_model), **LOADING)).to_pylist()
    tagger = astfast.load(tiny_model, device="cpu", precision="float32", threads=1)
    rows.sort(key=lambda row: row["n"])
    assert rows[5]["tags"] is None
    assert rows[0]["tags"]["labels"] == []
    assert "not audio" in rows[0]["tags"]["error"]
    for row, path in zip(rows[1:5], paths[1:], strict=True):
        found = row["tags"]
        tags = [{"score": s, "label": label} for s, label in zip(found["scores"], found["labels"], strict=True)]
        assert tags == tagger.classify(path, top_k=2)
        assert found["error"] is None


@pytest.mark.slow
def test_a_glob_of_daft_is_tagged(tiny_model: Path, tmp_path: Path) -> None:
    daft = pytest.importorskip("daft")
    (tmp_path / "a %41 b.wav").write_bytes(file_bytes(clips(1)[0], format="WAV"))
    frame = daft.from_glob_path(str(tmp_path / "*.wav"))
    (row,) = frame.with_column("tags", tag(frame["path"], model=str(tiny_model), **LOADING)).to_pylist()
    assert row["tags"]["error"] is None
    assert len(row["tags"]["labels"]) == 2


def test_an_unknown_option_is_refused() -> None:
    pytest.importorskip("daft")
    with pytest.raises(TypeError, match="unknown option window=: those of tag are top_k,"):
        tag(None, window=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="several results for a row"):
        tag(None, channel="each")  # type: ignore[arg-type]
