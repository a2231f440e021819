"""Models that travel to other machines: what arrives is what was sent, once, and never something else."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import astfast
from astfast.engines.load import LoadArguments
from astfast.integrations import ray_models
from astfast.integrations.ray_models import Sent, SentFile, SentModel


class Stored:
    """Stands in for an object of Ray's store."""

    def __init__(self, content: bytes) -> None:
        self.content, self.gets = content, 0


@pytest.fixture
def ray_get(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import SimpleNamespace

    def get(stored: Stored) -> np.ndarray:
        stored.gets += 1
        return np.frombuffer(stored.content, np.uint8)

    ray = SimpleNamespace(get=get, put=lambda array: Stored(array.tobytes()))
    monkeypatch.setitem(sys.modules, "ray", ray)


def sent(folder: Path, **options: Any) -> Sent:
    return ray_models.send(LoadArguments((folder,), checkpoint_options=options))


def model(of: Sent) -> SentModel:
    assert of.models[0] is not None
    return of.models[0]


def tags(source: Any) -> Any:
    tagger = astfast.load(source, device="cpu", precision="float32")
    return tagger.classify(np.ones(8_000, np.float32), sampling_rate=16_000)


@pytest.mark.usefixtures("ray_get")
def test_a_model_that_is_where_the_driver_has_it_is_loaded_there(tiny_model: Path) -> None:
    arguments, fetched = sent(tiny_model).received()
    assert not fetched
    assert arguments.sources == (str(tiny_model),)


@pytest.mark.usefixtures("ray_get")
@pytest.mark.parametrize("as_file", [False, True])
def test_a_model_that_is_missing_is_fetched_once(tiny_model: Path, tmp_path: Path, as_file: bool) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    source = folder / "model.safetensors" if as_file else folder
    of = sent(source)
    expected = tags(source)
    shutil.rmtree(folder)
    arguments, fetched = of.received()
    assert fetched
    again, fetched_again = of.received()
    assert not fetched_again
    assert again == arguments
    assert {file.content.gets for file in model(of).files} == {1}
    (path,) = arguments.sources
    assert tags(path) == expected


@pytest.mark.usefixtures("ray_get")
def test_a_file_that_has_changed_since_is_not_taken_for_the_one_sent(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    of = sent(folder)
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    arguments, fetched = of.received()
    assert fetched
    assert arguments.sources != (str(folder),)


@pytest.mark.usefixtures("ray_get")
def test_what_was_begun_and_not_finished_is_fetched_anew(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    of = sent(folder)
    shutil.rmtree(folder)
    unfinished = tmp_path / "cache" / ray_models.FOLDER / f"{model(of).digest}.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "model.safetensors").write_bytes(b"half")
    arguments, fetched = of.received()
    assert fetched
    assert not unfinished.exists()
    astfast.load(arguments.sources[0], device="cpu", precision="float32")


@pytest.mark.usefixtures("ray_get")
def test_labels_of_a_file_travel_with_the_model(tiny_model: Path, tmp_path: Path) -> None:
    count = len(astfast.load(tiny_model, device="cpu").config.labels)
    names = tmp_path / "labels.txt"
    names.write_text("\n".join(f"name {i}" for i in range(count)))
    options = sent(tiny_model, labels=names, revision="main").arguments.checkpoint_options
    assert options == {"labels": tuple(f"name {i}" for i in range(count))}


@pytest.mark.usefixtures("ray_get")
def test_the_built_in_model_stays_where_it_is() -> None:
    of = ray_models.send(LoadArguments((None,)))
    assert of.bytes == 0
    assert of.received() == (LoadArguments((None,)), False)


def test_another_version_is_refused() -> None:
    of = Sent("0.0", LoadArguments((None,)), (None,))
    with pytest.raises(astfast.BackendError, match=r"has astfast .* the driver 0\.0: install the same"):
        of.received()


def test_no_room_for_a_model_is_said(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    of = SentModel("/nowhere", "", (SentFile("config.json", 2, 0, Stored(b"{}")),), "digest")
    with pytest.raises(astfast.BackendError, match=r"can't be written there .*: set ASTFAST_CACHE"):
        of.path()
