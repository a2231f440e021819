"""Engines that are loaded where and when they are used."""

import pickle
import shutil
from pathlib import Path

import pytest

import astfast


def test_a_pickled_tagger_of_a_relative_path_loads_in_any_folder(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    shutil.copytree(tiny_model, tmp_path / "here" / "models" / "own")  # as a hub id looks
    names = [f"name {index}" for index in range(7)]
    (tmp_path / "here" / "names.txt").write_text("\n".join(names))
    monkeypatch.chdir(tmp_path / "here")
    tagger = astfast.load("models/own", device="cpu", precision="float32", labels="names.txt")
    pickled = pickle.dumps(tagger)
    monkeypatch.chdir(tmp_path / "there")
    assert list(pickle.loads(pickled).labels) == names
