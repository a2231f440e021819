"""The Python of docs/volume.md, run as it is written."""

import re
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import soundfile

import astfast
from tests.cases.recordings import RATE, clips

PAGE = Path(__file__).parents[2] / "docs" / "volume.md"


def recipe(word: str) -> str:
    """The only block of Python with this in it."""
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if word in block)
    return block


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with four clips, one that is none, and a table of them with their bytes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for i, clip in enumerate(clips(4, 5.0)):
        soundfile.write(tmp_path / "clips" / f"{i}.flac", clip, RATE)
    (tmp_path / "clips" / "bad.flac").write_bytes(b"no audio")
    rows = [{"audio": {"path": str(p), "bytes": p.read_bytes()}} for p in sorted((tmp_path / "clips").iterdir())]
    pandas.DataFrame(rows).to_parquet(tmp_path / "clips.parquet")
    return tmp_path


def expected(folder: Path) -> list[list[str] | None]:
    """The labels of the clips in the order of their names, None for the bad one."""
    found = astfast.load().classify(sorted((folder / "clips").iterdir()), top_k=3, on_error="return")
    return [[tag["label"] for tag in tags] if isinstance(tags, list) else None for tags in found]


def test_results_are_read_by_pandas_polars_and_duckdb(here: Path) -> None:
    for name in ("duckdb", "polars"):
        pytest.importorskip(name)
    astfast.tag_files("clips", "tags", formats=["parquet-long", "jsonl", "csv"], top_k=3)
    imports, *lines = recipe("duckdb").strip().splitlines()
    scope: dict[str, object] = {}
    exec(imports, scope)
    lengths = [len(eval(line, scope)) for line in lines if line]
    confident = pandas.read_parquet("tags/tags-long").query("score > 0.5")["label"].nunique()
    assert lengths == [12, 12, confident, 4, 4, 12, 12]


def test_datasets_map(here: Path) -> None:
    pytest.importorskip("datasets")
    scope: dict[str, object] = {}
    exec(recipe("datasets.load_dataset"), scope)
    rows = list(scope["clips"])  # type: ignore[call-overload]
    assert [row["labels"] or None for row in rows] == expected(here)
    assert [row["error"] is not None for row in rows] == [row["labels"] == [] for row in rows]


@pytest.mark.slow
def test_data_loader(here: Path) -> None:
    """In a process of its own, whose main module its workers know."""
    show = "\nprint([[t['label'] for t in r] if isinstance(r, list) else None for _, r in sorted(results.items())])"
    (here / "recipe.py").write_text(recipe("DataLoader") + show)
    done = subprocess.run([sys.executable, "recipe.py"], check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(expected(here))


@pytest.mark.slow
@pytest.mark.parametrize("package", ["ray.data", "daft"])
def test_columns_of_tags(here: Path, package: str) -> None:
    pytest.importorskip(package)
    (here / "recipe.py").write_text(recipe(f"import {package}"))
    done = subprocess.run([sys.executable, "recipe.py"], check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = pandas.read_parquet("tagged")
    if package == "daft":
        rows = rows.join(pandas.json_normalize(rows["tags"].tolist())).rename(columns={"path": "file"})
    rows = rows.sort_values("file")
    found = [None if labels is None or not len(labels) else list(labels) for labels in rows["labels"]]
    assert found == expected(here)
    assert rows["error"].notna().tolist() == [labels is None for labels in found]
