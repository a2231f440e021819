"""Ray Datasets: one row out for each row in, with the tags of the tagger, whatever is in the rows."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import soundfile

import astfast
from astfast.integrations.ray import tag
from tests.cases.recordings import RATE, clips

LOADING = {"precision": "float32", "workers": 2, "num_cpus": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """``ray.data`` on a cluster of three processors: two for workers, one that reads."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASTFAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray.data
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for i, clip in enumerate(clips(30, 0.4)):
        soundfile.write(folder / f"{i:02d}.wav", np.tile(clip, 1 + i % 3), RATE)
    (folder / "bad.wav").write_bytes(b"no audio")
    return folder


@pytest.fixture(scope="module")
def tagger(tiny_model: Path) -> astfast.Tagger:
    return astfast.load(tiny_model, device="cpu", precision="float32", threads=1)


def tags(tagger: astfast.Tagger, path: str, **options: Any) -> Any:
    found = tagger.classify(path, top_k=3, on_error="return", **options)
    return found if isinstance(found, list) else None


def of_row(row: dict[str, Any]) -> Any:
    if row["labels"] is None:
        return None
    return [{"score": score, "label": label} for label, score in zip(row["labels"], row["scores"], strict=True)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*only its first")
@pytest.mark.parametrize("rows", ["listed", "bytes", "structs"])
def test_rows_are_the_taggers_own_tags(
    data: Any, tiny_model: Path, tagger: astfast.Tagger, folder: Path, rows: str
) -> None:
    paths = sorted(map(str, folder.iterdir()))
    if rows == "listed":
        source: Any = folder
    elif rows == "bytes":
        source = data.read_binary_files(paths, include_paths=True)
    else:
        contents = [{"path": path, "bytes": Path(path).read_bytes()} for path in paths]
        source = data.from_items([{"audio": content, "n": n} for n, content in enumerate(contents)])
    found = tag(source, model=tiny_model, top_k=3, batch_size=8, **LOADING).take_all()
    assert {row["file"]: of_row(row) for row in found} == {path: tags(tagger, path) for path in paths}
    (bad,) = (row for row in found if row["error"] is not None)
    assert (Path(bad["file"]).name, bad["kind"], bad["labels"]) == ("bad.wav", "undecodable", None)
    assert not {"bytes", "audio"} & set(found[0])
    if rows == "structs":
        assert sorted(row["n"] for row in found) == list(range(31))


@pytest.mark.slow
def test_windows_are_segments_of_their_row(data: Any, tiny_model: Path, tagger: astfast.Tagger, folder: Path) -> None:
    paths = sorted(map(str, folder.glob("[0-9]*.wav")))
    found = tag(paths, model=tiny_model, window=0.25, top_k=1, **LOADING).take_all()
    assert len(found) == len(paths)
    for row in found:
        segments = [{**s, "tags": of_row(s)} for s in row["segments"]]
        expected = tagger.segments(row["file"], window=0.25, top_k=1)
        assert [(s["start"], s["end"], s["tags"]) for s in segments] == [tuple(s.values()) for s in expected]


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_no_row(data: Any, tiny_model: Path, folder: Path) -> None:
    paths = [{"path": str(path), "n": n} for n in range(40) for path in sorted(folder.glob("0*.wav"))]
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                if b"ray::MapWorker(MapBatches(Tagging)).submit" in path.read_bytes():  # at work
                    killed.append(int(path.parent.name))
                    os.kill(killed[0], signal.SIGKILL)
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    options: Any = {"window": 0.025, "batch_size": 8, **LOADING}
    found = tag(data.from_items(paths), model=tiny_model, **options).take_all()
    thread.join(0)
    assert killed
    assert sorted((row["path"], row["n"]) for row in found) == sorted((row["path"], row["n"]) for row in paths)
    assert not any(row["error"] for row in found)


@pytest.mark.slow
def test_a_checkpoint_of_ray_leaves_out_what_is_done(data: Any, tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    from ray.data.checkpoint import CheckpointConfig

    paths = sorted(map(str, folder.iterdir()))
    listed = tmp_path / "list.parquet"
    context = data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="path", checkpoint_path=str(tmp_path / "checkpoint"), delete_checkpoint_on_success=False
    )
    try:
        for count in (20, 31):
            pandas.DataFrame({"path": paths[:count]}).to_parquet(listed)
            source = data.read_parquet(str(listed))
            tagged = tag(source, model=tiny_model, precision="float32", workers=1)  # which leaves two processors
            tagged.write_parquet(str(tmp_path / f"to-{count}"))
        with pytest.raises(ValueError, match=r"leaves out only what Ray reads from files: pass ray.data.read_parquet"):
            tag(folder, model=tiny_model)
    finally:
        context.checkpoint_config = None
    written = [pandas.read_parquet(tmp_path / f"to-{count}")["path"].tolist() for count in (20, 31)]
    assert sorted(written[0]) == paths[:20]
    assert sorted(written[1]) == paths[20:]


@pytest.mark.slow
def test_what_can_t_be_is_told_at_the_call(data: Any, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"unknown option merge=: those of tag are top_k, "):
        tag([], merge=1.0)
    with pytest.raises(ValueError, match="no audio files there: check the path"):
        tag(tmp_path, **LOADING)
    with pytest.raises(astfast.CheckpointError, match="no-model"):
        tag(["a.wav"], model=tmp_path / "no-model", **LOADING)
    with pytest.raises(astfast.BackendError, match="1 GPUs for each worker, and the cluster has 0: ask for less"):
        tag(["a.wav"], model=tiny_model, num_gpus=1)
    with pytest.raises(ValueError, match="only names of files can be listed"):
        tag([np.zeros(100)], model=tiny_model, **LOADING)
