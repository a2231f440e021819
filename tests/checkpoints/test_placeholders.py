"""What people have in the place of weights: an error that says what it is and how to get the weights."""

import json
import shutil

import pytest
import torch

from astfast.errors import CheckpointError
from astfast.models.recognise import load

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 10924092\n"
PAGE = "\n<!DOCTYPE html><html>Not found</html>"


@pytest.fixture
def folder(v4, tmp_path):
    return shutil.copytree(v4, tmp_path / "model")


@pytest.mark.parametrize(("content", "message"), [(POINTER, r"Git LFS pointer.*git lfs pull"), (PAGE, "is a web page")])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json", "preprocessor_config.json"])
def test_pointers_and_pages_in_a_folder(folder, name, content, message):
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=rf"{name} is a.*{message.removeprefix('is a')}"):
        load(folder)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt"])
def test_pointers_and_pages_as_files(tmp_path, suffix):
    (tmp_path / f"x{suffix}").write_text(POINTER)
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load(tmp_path / f"x{suffix}")
    (tmp_path / f"x{suffix}").write_text(PAGE)
    with pytest.raises(CheckpointError, match="web page"):
        load(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("beside_base", [True, False])
@pytest.mark.parametrize("config", ['{"base_model_name_or_path": "MIT/ast"}', "[1]", "{"])
def test_adapter_folders(folder, beside_base, config):
    (folder / "adapter_config.json").write_text(config)
    if not beside_base:
        (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    named = "of 'MIT/ast' " if "MIT" in config else ""
    with pytest.raises(CheckpointError, match=rf"has an adapter {named}\(adapter_config\.json\).*merge_and_unload"):
        load(folder)


def test_the_folder_of_a_training_names_its_last_checkpoint(folder, tmp_path):
    for step in (500, 1500, 1000):
        shutil.copytree(folder, tmp_path / "run" / f"checkpoint-{step}")
    (tmp_path / "run" / "checkpoint-last").mkdir()
    with pytest.raises(
        CheckpointError, match=r"with 3 checkpoints and no model of its own.*run/checkpoint-1500, the last"
    ):
        load(tmp_path / "run")
    assert load(tmp_path / "run" / "checkpoint-1500").config.labels
    shutil.copytree(folder, tmp_path / "run", dirs_exist_ok=True)  # a model of its own comes first
    assert load(tmp_path / "run").config.labels


def test_a_file_with_transformers_names_is_read_with_its_own_config(v4, model, tmp_path):
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(v4 / name, tmp_path)
    torch.save({f"model.{name}": x for name, x in model.state_dict().items()}, tmp_path / "best.pt")
    loaded = load(tmp_path / "best.pt")
    assert loaded.config == load(v4).config
    assert not loaded.notes


def test_processor_config_comes_first(v4, folder):
    nested = json.loads((folder / "preprocessor_config.json").read_text()) | {"mean": -7.5}
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": nested, "processor_class": "X"}))
    assert load(folder).config.front_end.mean == -7.5
    (folder / "processor_config.json").write_text(json.dumps({"audio_processor": nested | {"mean": -8.5}}))
    assert load(folder).config.front_end.mean == -8.5
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": nested, "processor_class": "X"}))
    (folder / "preprocessor_config.json").unlink()
    assert load(folder).config.front_end.mean == -7.5
    (folder / "processor_config.json").write_text("{}")
    assert load(folder).config.front_end.mean == -4.2677393
