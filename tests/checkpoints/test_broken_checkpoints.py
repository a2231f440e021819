"""Checkpoints that can't be used: a CheckpointError that names what is wrong, and nothing is ever executed."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from astfast.checkpoints import sources as checkpoint_files
from astfast.checkpoints.safetensors import read_safetensors
from astfast.checkpoints.torch_file import read_torch_file
from astfast.errors import CheckpointError
from astfast.models.recognise import load
from tests.cases.checkpoints import edit_json, random_model, write_authors, write_v4

DENSE = "audio_spectrogram_transformer.encoder.layer.1.attention.output.dense.weight"


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return random_model(num_hidden_layers=2)


@pytest.fixture
def folder(model, tmp_path) -> Path:
    return write_v4(model, tmp_path / "hf")


def rewrite(folder: Path, edit) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors")


# Tensors that don't make an AST ---------------------------------------------------------------------------------------


def test_missing_tensors_are_named(folder):
    rewrite(folder, lambda state: state.pop(DENSE))
    with pytest.raises(CheckpointError, match=rf"layout: transformers v4, 2 layers\) lacks 1 tensor: {DENSE}"):
        load(folder)


def test_missing_cls_token_is_named(folder):
    rewrite(folder, lambda state: state.pop("audio_spectrogram_transformer.embeddings.cls_token"))
    with pytest.raises(CheckpointError, match=r"transformers v4.*embeddings\.cls_token"):
        load(folder)


def test_half_a_head_is_missing_tensors(folder):
    rewrite(folder, lambda state: state.pop("classifier.dense.bias"))
    with pytest.raises(CheckpointError, match=r"lacks 1 tensor: classifier\.dense\.bias"):
        load(folder)


def test_one_missing_qkv_bias_is_named(folder):
    (folder / "config.json").unlink()
    name = DENSE.replace("output.dense.weight", "attention.key.bias")
    rewrite(folder, lambda state: state.pop(name))
    with pytest.raises(CheckpointError, match=name):
        load(folder / "model.safetensors", num_attention_heads=4)


def test_a_missing_layer_is_named_first_few_only(folder):
    def drop(state):
        for name in [name for name in state if "layer.0." in name]:
            del state[name]

    rewrite(folder, drop)
    with pytest.raises(
        CheckpointError, match=r"lacks 16 tensors: .*layer\.0\.layernorm_before\.weight, .*, …"
    ) as error:
        load(folder)
    assert str(error.value).count("layer.0.") == 4


def test_unexpected_tensors_are_named(folder):
    rewrite(folder, lambda state: state.update({"decoder.weight": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=r"beside those of an AST, 1 tensor: decoder\.weight"):
        load(folder)


def test_misshapen_tensors_are_named(folder):
    rewrite(folder, lambda state: state.update({DENSE: torch.zeros(64, 63)}))
    with pytest.raises(CheckpointError, match=rf"{DENSE} is \[64, 63\], not \[64, 64\]"):
        load(folder)


@pytest.mark.parametrize("shape", [(), (64,), (2, 1, 32), (1, 1, 64, 1)])
def test_misshapen_tensors_that_tell_the_geometry(folder, shape):
    name = "audio_spectrogram_transformer.embeddings.cls_token"
    rewrite(folder, lambda state: state.update({name: torch.zeros(shape)}))
    with pytest.raises(CheckpointError, match=r"embeddings\.cls_token is"):
        load(folder)


def test_misshapen_positions(folder):
    name = "audio_spectrogram_transformer.embeddings.position_embeddings"
    rewrite(folder, lambda state: state.update({name: torch.zeros(1, 19, 64)}))
    with pytest.raises(CheckpointError, match=r"17 patches, but its geometry makes 3 x 6"):
        load(folder)
    rewrite(folder, lambda state: state.update({name: torch.zeros(2, 20, 64)}))
    with pytest.raises(CheckpointError, match=r"position_embeddings is \[2, 20, 64\]"):
        load(folder)


def test_another_model(tmp_path):
    save_file({"encoder.weight": torch.zeros(3), "decoder.weight": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(
        CheckpointError,
        match=r"no AST, DASS, CED, MAEST or PaSST checkpoint.*decoder\.weight, encoder\.weight.*the authors' \.pth",
    ):
        load(tmp_path / "x.safetensors")
    save_file({}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no AST, DASS, CED, MAEST or PaSST checkpoint"):
        load(tmp_path / "x.safetensors")


def test_absurd_layer_counts_cost_nothing(folder):
    edit_json(folder / "config.json", num_hidden_layers=1000)
    with pytest.raises(CheckpointError, match="says 1000 layers"):
        load(folder)
    edit_json(folder / "config.json", num_hidden_layers=10**9)
    with pytest.raises(CheckpointError, match=r"num_hidden_layers .* must be an integer from 1 to 1000"):
        load(folder)


# Finding --------------------------------------------------------------------------------------------------------------


def test_paths_that_are_not_there(tmp_path):
    for source in (tmp_path / "absent", str(tmp_path / "absent.pth"), "./owner/name", "a/b/c", "model.pth", "x", ""):
        with pytest.raises(CheckpointError, match="no file or folder here and can't be a hub id"):
            load(source)
    with pytest.raises(CheckpointError, match="URL"):
        load("https://example.org/ast.pth")


def test_folder_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match=r"no weights: looked for model\.safetensors, .*pytorch_model\.bin"):
        load(tmp_path)


def test_unknown_suffix(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"reads \.safetensors, \.pth, \.pt, \.bin.*not model\.onnx"):
        load(tmp_path / "model.onnx")


def test_missing_builtin_model_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "BUILTIN", tmp_path)
    with pytest.raises(CheckpointError, match="the built-in model has no weights"):
        load()


def test_hub_id_that_is_not_cached_offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"not in the local cache.*no local file") as error:
        load("MIT/ast-of-no-name", cache_dir=tmp_path, local_files_only=True)
    assert str(tmp_path) in str(error.value)


def test_hub_model_from_the_cache(model, tmp_path):
    """The cache's own layout: refs and snapshots, which huggingface_hub reads without a network."""
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("a" * 40)
    write_v4(model, snapshot)
    refs = tmp_path / "models--owner--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    loaded = load("owner/name", cache_dir=tmp_path, local_files_only=True)
    assert loaded.source == "owner/name"
    assert loaded.config == load(snapshot).config
    with pytest.raises(CheckpointError, match="not in the local cache"):
        load("owner/name", cache_dir=tmp_path, local_files_only=True, revision="v2")
    (snapshot / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"owner/name in the local cache lacks config\.json or weights"):
        load("owner/name", cache_dir=tmp_path, local_files_only=True)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", ["{", "[1]", "\xff", "[" * 100_000])
def test_broken_json_files(folder, name, content):
    (folder / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load(folder)


def test_shards(model, tmp_path):
    folder = write_v4(model, tmp_path, shard="40KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    (folder / shards[1]).rename(folder / "away")
    with pytest.raises(CheckpointError, match=f"{shards[1]}, which isn't there"):
        load(folder)
    (folder / shards[1]).write_bytes((folder / shards[0]).read_bytes())
    with pytest.raises(CheckpointError, match="in another shard too"):
        load(folder)
    for bad in ("../evil.safetensors", "/etc/x.safetensors", "shard.exe", ""):
        edit_json(folder / "model.safetensors.index.json", weight_map={"x": bad})
        with pytest.raises(CheckpointError, match="must be a weights' file beside it"):
            load(folder)
    for bad in ({}, [], None):
        edit_json(folder / "model.safetensors.index.json", weight_map=bad)
        with pytest.raises(CheckpointError, match="no weight_map"):
            load(folder)


# safetensors ----------------------------------------------------------------------------------------------------------


def safetensors_bytes(header, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def record(start: int, stop: int, dtype: str = "F32", shape: tuple = (2,)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"1234567", "truncated"),
        (struct.pack("<Q", 2**63) + b"{}", "header of 9223372036854775808"),
        (struct.pack("<Q", 100_000_001) + b"{}", "header of 100000001"),
        (struct.pack("<Q", 3) + b"{}", "truncated"),
        (safetensors_bytes(b"{]"), "no JSON"),
        (safetensors_bytes(b"\xff\xfe"), "no JSON"),
        (safetensors_bytes(b"[" * 100_000), "no JSON"),
        (safetensors_bytes([1]), "no JSON object"),
        (safetensors_bytes({"w": [1]}), "w has no dtype, shape and two data_offsets"),
        (safetensors_bytes({"w": {"dtype": "F32", "shape": [1]}}), "w has no dtype"),
        (safetensors_bytes({"w": record(0, 16, "C64")}, bytes(16)), "w is C64"),
        (safetensors_bytes({"w": record(0, 8, shape=(-2,))}, bytes(8)), "w has a shape or offsets"),
        (safetensors_bytes({"w": record(0, 8, shape=(2.0,))}, bytes(8)), "w has a shape or offsets"),
        (safetensors_bytes({"w": record(0, 4, shape=(True,))}, bytes(4)), "w has a shape or offsets"),
        (safetensors_bytes({"w": record(-8, 0)}, bytes(8)), "w has a shape or offsets"),
        (safetensors_bytes({"w": record(0, 4)}, bytes(8)), "w has 4 bytes, but F32 of shape .* takes 8"),
        (safetensors_bytes({"w": record(8, 0)}, bytes(8)), "w has -8 bytes"),
        (safetensors_bytes({"w": record(0, 8)}, bytes(7)), "truncated: tensor w ends at"),
        (safetensors_bytes({"w": record(0, 8)}, bytes(9)), "1 bytes follow the last tensor, w"),
        (safetensors_bytes({"w": record(4, 12)}, bytes(12)), "w .* leaves a gap after the header"),
        (safetensors_bytes({"w": record(0, 8), "v": record(4, 12)}, bytes(12)), "v .* overlaps with w"),
        (safetensors_bytes({"w": record(0, 8), "v": record(9, 17)}, bytes(17)), "v .* leaves a gap after w"),
        (
            safetensors_bytes(b'{"w": %s, "w": %s}' % ((json.dumps(record(0, 8)).encode(),) * 2), bytes(8)),
            "'w' twice",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_broken_safetensors(tmp_path, content, message):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        read_safetensors(path)
    assert "broken.safetensors" in str(error.value)


def test_smallest_good_safetensors(tmp_path):
    """The files above, just right: the checks refuse nothing that the format allows."""
    path = tmp_path / "x.safetensors"
    header = {
        "__metadata__": {"a": "b"},
        "e": record(8, 8, shape=(0, 3)),
        "w": record(0, 8),
        "s": record(8, 12, shape=()),
    }
    path.write_bytes(safetensors_bytes(header, struct.pack("<3f", 1, 2, 3)))
    tensors = read_safetensors(path)
    assert {name: np.asarray(tensor).tolist() for name, tensor in tensors.items()} == {"w": [1, 2], "s": 3, "e": []}
    path.write_bytes(safetensors_bytes({}))
    assert read_safetensors(path) == {}


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 0.5, -1])
def test_truncated_safetensors(folder, keep):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(folder)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_damaged_bytes_are_a_checkpoint_error_or_read(model, tmp_path, kind):
    """300 files with a few bytes changed in their headers: nothing but CheckpointError ever comes out."""
    if kind == "pth":
        path = write_authors(model, tmp_path / "ast.pth")
        spans = [(0, 12_000), (path.stat().st_size - 6_000, path.stat().st_size)]  # data.pkl; the zip's directory
    else:
        path = write_v4(model, tmp_path) / "model.safetensors"
        spans = [(0, 8 + int.from_bytes(path.read_bytes()[:8], "little"))]
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            start, stop = spans[rng.integers(len(spans))]
            damaged[rng.integers(start, stop)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            for leaf in (read_torch_file if kind == "pth" else read_safetensors)(path).values():
                np.asarray(leaf)
        except CheckpointError:
            refused += 1
    assert refused > 100


def test_file_that_shrinks_after_loading(folder):
    loaded = load(folder)
    os.truncate(folder / "model.safetensors", 5000)
    with pytest.raises(CheckpointError, match=r"tensor audio_spectrogram_transformer\.layernorm\.weight ends early"):
        np.asarray(loaded.weights.norm.weight)


def test_file_that_is_gone_after_loading(folder):
    loaded = load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="can't be read"):
        np.asarray(loaded.weights.norm.weight)


def test_tensors_of_a_file_that_is_replaced_are_not_mixed(folder):
    loaded = load(folder)
    before = np.asarray(loaded.weights.norm.weight)
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1000] + bytes(1000))
    np.testing.assert_array_equal(np.asarray(loaded.weights.norm.weight), before)
    assert np.asarray(loaded.weights.head.linear.weight).any()
