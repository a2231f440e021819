"""Runs on a Ray cluster: the same results as of one process, whatever happens to the workers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import astfast
from astfast.engines.load import LoadArguments, load_engine
from astfast.integrations import ray_cluster, ray_models
from astfast.integrations.ray_cluster import CHUNK, Chunk, Cluster, Listing
from astfast.integrations.ray_worker import Share
from astfast.volume.detections import Merge
from astfast.volume.items import Item
from astfast.volume.options import Options
from astfast.volume.tag_files import Run
from astfast.volume.workers import ThisProcess, Workers
from tests.cases.recordings import RATE, clips

SHARE = Share(1, 0, 100e6)


def items(count: int, size: int = 0) -> list[Item]:
    return [Item(str(i), str(i), bytes(size)) for i in range(count)]


def chunks(listing: Listing, shares: int = 1) -> list[Chunk]:
    found = []
    while not listing.is_empty():
        if chunk := listing.chunk(shares, 1.0):
            found.append(chunk)
    return found


def test_chunks_are_all_items_in_order() -> None:
    found = chunks(Listing(items(200)))
    assert [item.id for chunk in found for item in chunk.items] == [str(i) for i in range(200)]
    assert [chunk.first for chunk in found] == [0, *np.cumsum([len(chunk.items) for chunk in found])[:-1]]
    assert max(len(chunk.items) for chunk in found) == CHUNK


def test_the_last_chunks_are_shared_out() -> None:
    listing = Listing(items(20))
    while not listing.listed_all:
        time.sleep(0.001)
    assert [len(chunk.items) for chunk in chunks(listing, shares=4)] == [5, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1]


def test_chunks_of_large_items_are_small() -> None:
    found = chunks(Listing(items(30, ray_cluster.CHUNK_BYTES // 3 + 1)))
    assert max(len(chunk.items) for chunk in found) == 3


def test_listing_waits_for_its_reader() -> None:
    listed = []

    def endless() -> Iterator[Item]:
        for item in items(1000, 1 << 20):
            listed.append(item)
            yield item

    listing = Listing(endless())
    time.sleep(0.1)
    assert len(listed) <= 66
    listing.stop()


def test_what_listing_raises_comes_after_all_before_it() -> None:
    def broken() -> Iterator[Item]:
        yield from items(3)
        raise astfast.AstfastError("the list is broken")

    listing = Listing(broken())
    while not listing.listed_all:
        time.sleep(0.001)
    first = listing.chunk(1, 1.0)
    assert first == Chunk(0, items(3))
    with pytest.raises(astfast.AstfastError, match="the list is broken"):
        listing.chunk(1, 1.0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_halves_are_the_whole(count: int) -> None:
    halves = Chunk(7, items(count), 2).halves()
    assert [item for half in halves for item in half.items] == items(count)
    assert all(half.deaths == 2 for half in halves)
    assert halves[-1].first + len(halves[-1].items) == 7 + count


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of two processors; the cache folder of its workers."""
    ray = pytest.importorskip("ray")
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASTFAST_CACHE", str(cache))
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield cache
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of different lengths, and files that are none."""
    folder = tmp_path_factory.mktemp("clips")
    for i, clip in enumerate(clips(120, 0.4)):
        soundfile.write(folder / f"{i:03d}.wav", np.tile(clip, 1 + i % 9), RATE)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.flac").write_text("no audio")
    return folder


def arguments(model: Path) -> LoadArguments:
    return LoadArguments((model,), device="cpu", precision="float32", threads=1)


def here(model: Path, options: Options) -> Workers:
    return ThisProcess(load_engine(arguments(model)), options)


def run(workers: Workers, model: Path, source: Any, out: Path, options: Options, on_file: Any = None) -> Any:
    return Run(source, workers, arguments(model), options).into(
        out, ["jsonl"], False, False, on_file or (lambda done: None)
    )


def results(out: Path) -> list[str]:
    """Rows and failures of a run, sorted."""
    files = [*(out / "tags").iterdir(), out / "failures.jsonl", out / "warnings.jsonl"]
    return sorted(line for file in files for line in file.read_text().splitlines())


def actors() -> list[int]:
    """The processes of workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::Actor" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    "options", [Options(order=True), Options(window=1.0, hop=0.5, merge=Merge(0.0)), Options(window=1.0, scores=True)]
)
def test_two_workers_give_the_rows_of_one_process(
    tiny_model: Path, folder: Path, tmp_path: Path, options: Options
) -> None:
    expected = run(here(tiny_model, options), tiny_model, folder, tmp_path / "here", options)
    workers = Cluster(arguments(tiny_model), options, 2, SHARE)
    counts = run(workers, tiny_model, folder, tmp_path / "there", options)
    workers.close()
    assert results(tmp_path / "there") == results(tmp_path / "here")
    for name in ("tagged", "failed", "hours", "cut"):
        assert counts[name] == expected[name]
    if options.order:
        orders = [(tmp_path / out / "tags" / "part-00000.jsonl").read_text() for out in ("here", "there")]
        assert orders[0] == orders[1]


def alive(killed: list[int], patience: float = 120.0) -> int:
    """The process of a worker that was not killed, which may take a while to start again."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if others := set(actors()) - set(killed):
            return min(others)
        time.sleep(0.05)
    raise AssertionError(f"no worker was started in {patience:.0f} s for those that were killed: {killed}")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_is_killed_loses_nothing(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    options = Options(window=0.2, hop=0.05, top_k=2)
    run(here(tiny_model, options), tiny_model, folder, tmp_path / "here", options)
    workers = Cluster(arguments(tiny_model), options, 2, SHARE)
    done: list[str] = []
    killed: list[int] = []

    def kill(finished: Any) -> None:
        done.append(finished.item.id)
        if len(done) in (2, 40, 80):
            killed.append(alive(killed))
            os.kill(killed[-1], signal.SIGKILL)

    run(workers, tiny_model, folder, tmp_path / "there", options, kill)
    workers.close()
    assert len(set(killed)) == 3
    assert len(done) == len(set(done)) == 122
    assert results(tmp_path / "there") == results(tmp_path / "here")


class Deadly:
    """A file object that takes its reader down."""

    name = "deadly"

    def read(self, size: int = -1) -> bytes:
        os._exit(1)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_input_that_kills_workers_fails_alone(tiny_model: Path, folder: Path) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    source: list[Any] = [*sorted(folder.glob("*.wav"))[:30], Item("deadly", "deadly", Deadly(), stamp="")]
    workers = Cluster(arguments(tiny_model), Options(), 2, SHARE)
    planned = Run(source, workers, arguments(tiny_model), Options())
    rows = list(planned.rows(lambda done: None))
    workers.close()
    assert len(rows) == 31
    failed = [row for row in rows if "error" in row]
    assert [(row["id"], row["kind"]) for row in failed] == [("deadly", "killed")]
    assert "3 workers died of it" in failed[0]["error"]


@pytest.mark.slow
def test_a_model_is_sent_once_a_node(
    cluster: Path, tiny_model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    send = ray_models.send

    def send_and_remove(of: LoadArguments) -> Any:
        sent = send(of)
        shutil.rmtree(model)
        return sent

    monkeypatch.setattr(ray_models, "send", send_and_remove)
    workers = Cluster(arguments(model), Options(), 2, SHARE)
    planned = Run(folder, workers, arguments(model), Options())
    rows = {row["id"]: row for row in planned.rows(lambda done: None)}
    import ray

    fetched = [ray.get(seat.actor.about.remote()).fetched for seat in workers.seats]
    workers.close()
    expected = Run(folder, here(tiny_model, Options()), arguments(tiny_model), Options()).rows(lambda done: None)
    assert rows == {row["id"]: row for row in expected}
    assert sorted(fetched) == [False, True]
    assert len([path for path in (cluster / "ray").iterdir() if path.is_dir()]) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_what_a_worker_can_t_load_is_raised_as_it_is(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="the model has no label 'nothing'"):
        Cluster(arguments(tiny_model), Options(labels=["nothing"]), 1, SHARE)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_that_can_t_start_are_told(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "STARTING", 1.0)
    with pytest.raises(astfast.BackendError, match="no worker could start in 1 s: ask for less for each"):
        Cluster(arguments(tiny_model), Options(), 1, Share(3, 0, 1e6))


def test_an_address_that_nothing_listens_at_is_told_at_once() -> None:
    pytest.importorskip("ray")
    with (
        pytest.raises(astfast.BackendError, match=r"ray='127.0.0.1:9': no cluster answers there .*: check the address"),
        ray_cluster.workers("127.0.0.1:9", LoadArguments((None,)), Options(), None, None, None),
    ):
        raise AssertionError("connected")


@pytest.mark.slow
def test_the_command_goes_on_where_it_was_interrupted(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    """120 files are done 0.2 s after the first: 2,400 are under way whenever the signal comes."""
    pytest.importorskip("ray")
    many, out = tmp_path / "many", tmp_path / "out"
    for copy in range(20):
        shutil.copytree(folder, many / str(copy), copy_function=os.link)
    command = [sys.executable, "-m", "astfast", "tag", str(many), "--out", str(out), "--model", str(tiny_model)]
    command += ["--precision", "float32", "--top-k", "2", "--window", "0.2", "--hop", "0.05"]
    on_ray = [*command, "--ray", "local", "--workers", "2", "--progress", "json"]
    process = subprocess.Popen(on_ray, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = (json.loads(line) for line in process.stderr if line.startswith("{"))
    assert any(line["event"] == "file_finished" for line in lines)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    assert process.wait(30) == 130
    assert time.monotonic() - start < 10
    done = len(results(out))
    finished = subprocess.run(on_ray, check=False, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 1, finished.stderr  # some files are no audio
    assert done < len(results(out))
    alone = tmp_path / "alone"
    subprocess.run([part.replace(str(out), str(alone)) for part in command], check=False, timeout=120)
    assert results(out) == results(alone)
