"""Checkpoints that can't be used: a CheckpointError that names what is wrong, and nothing is ever executed."""

import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import authors_state_dict, edit_json, random_model, write_authors, write_bin, write_v4
from safetensors.torch import load_file, save_file

from astfast import checkpoint_files
from astfast.checkpoint import load
from astfast.errors import CheckpointError
from astfast.safetensors_file import read_safetensors
from astfast.torch_file import read_torch_file

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
    with pytest.raises(CheckpointError, match=rf"layout: transformers v4, 2 layers\) lacks 1 tensors: {DENSE}"):
        load(folder)


def test_missing_cls_token_is_named(folder):
    rewrite(folder, lambda state: state.pop("audio_spectrogram_transformer.embeddings.cls_token"))
    with pytest.raises(CheckpointError, match=r"transformers v4.*embeddings\.cls_token"):
        load(folder)


def test_half_a_head_is_missing_tensors(folder):
    rewrite(folder, lambda state: state.pop("classifier.dense.bias"))
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors: classifier\.dense\.bias"):
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
    with pytest.raises(CheckpointError, match=r"beside those of an AST, 1 tensors: decoder\.weight"):
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
        CheckpointError, match=r"no AST checkpoint.*decoder\.weight, encoder\.weight.*the authors' \.pth"
    ):
        load(tmp_path / "x.safetensors")
    save_file({}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no AST checkpoint"):
        load(tmp_path / "x.safetensors")


def test_absurd_layer_counts_cost_nothing(folder):
    edit_json(folder / "config.json", num_hidden_layers=10**9)
    with pytest.raises(CheckpointError, match="says 1000000000 layers"):
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
        (safetensors_bytes({"w": record(0, 16, "I64")}, bytes(16)), "w is I64"),
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
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="can't be read"):
        np.asarray(loaded.weights.norm.weight)


# .pth and .bin --------------------------------------------------------------------------------------------------------


class CreatesFile:
    """Unpickled by pickle.load, it creates a file: what a malicious checkpoint would do."""

    def __init__(self, path: Path, call=os.mkdir) -> None:
        self.path, self.call = str(path), call

    def __reduce__(self):
        return self.call, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["instead", "value", "key", "nested"])
def test_pickle_with_code_is_refused_and_not_run(model, tmp_path, zipped, where):
    trap = tmp_path / "executed"
    state = dict(authors_state_dict(model))
    bomb = CreatesFile(trap)
    content = {
        "instead": bomb,
        "value": {**state, "x": bomb},
        "key": {**state, bomb: 1},
        "nested": {"state_dict": state, "args": bomb},
    }[where]
    torch.save(content, tmp_path / "ast.pth", _use_new_zipfile_serialization=zipped)
    named = r"posix\.mkdir" if zipped else r"ast\.pth: torch can't read it with weights_only=True"
    with pytest.raises(CheckpointError, match=named):
        load(tmp_path / "ast.pth")
    assert not trap.exists()
    torch.load(tmp_path / "ast.pth", weights_only=False)  # the trap is a real one
    assert trap.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor_v3"),
        ("collections", "defaultdict"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("astfast.torch_file", "Storage"),
        ("torch", "FloatStorage.__init__"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_other_global_is_refused_by_name(tmp_path, module, name, protocol):
    if protocol == 2:
        pickled = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"."
    else:
        strings = b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name))
        pickled = b"\x80\x04" + strings + b"\x93."
    write_zip(tmp_path / "x.pth", {"x/data.pkl": pickled})
    with pytest.raises(CheckpointError, match=f"refers to {module}.{name}, which no state dict needs"):
        read_torch_file(tmp_path / "x.pth")


def test_a_pickle_cannot_reach_the_next_load(model, tmp_path):
    """BUILD sets attributes of what find_class returned; those objects die with their load."""
    forged = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x07\x00\x00\x00injectedK\x01sb."
    write_zip(tmp_path / "x.pth", {"x/data.pkl": forged})
    with pytest.raises(CheckpointError):
        read_torch_file(tmp_path / "x.pth")
    read_torch_file(write_authors(model, tmp_path / "ast.pth"))


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {name: m[name] for name in m if not name.endswith("data.pkl")}, "without a data.pkl"),
        (lambda m: {**m, "other/data.pkl": b""}, "without a data.pkl"),
        (lambda m: {**m, "ast/byteorder": b"big"}, "big-endian"),
        (lambda m: {**m, "ast/data/0": m["ast/data/0"][:-4]}, "storage 0 has .* too few"),
        (lambda m: {name: m[name] for name in m if name != "ast/data/3"}, r"ast\.pth is no state dict.*ast/data/3"),
        (lambda m: {**m, "ast/data.pkl": m["ast/data.pkl"][:-40]}, r"ast\.pth is no state dict"),
        (lambda m: {**m, "ast/data.pkl": b""}, r"ast\.pth is no state dict"),
        (lambda m: {**m, "ast/data.pkl": pickle.dumps([1, 2], 2)}, "holds no state dict"),
        (lambda m: {**m, "ast/data.pkl": pickle.dumps({1: 2}, 2)}, "holds no state dict"),
        (lambda m: {**m, "ast/data.pkl": pickle.dumps({"lr": 0.1}, 2)}, "lr is a float, not a tensor"),
    ],
)
def test_broken_archives(model, tmp_path, change, message):
    path = write_authors(model, tmp_path / "ast.pth")
    write_zip(path, change(members(path)))
    with pytest.raises(CheckpointError, match=message):
        load(path)


def test_compressed_archives_are_refused(model, tmp_path):
    path = write_authors(model, tmp_path / "ast.pth")
    write_zip(path, members(path), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        load(path)


@pytest.mark.parametrize("keep", [0, 1, 4, 0.1, 0.5, 0.9, -1, -30])
def test_truncated_pth(model, tmp_path, keep):
    path = write_authors(model, tmp_path / "ast.pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"ast\.pth"):
        load(path)


@pytest.mark.parametrize(
    ("count", "first", "shape", "strides", "fits"),
    [
        (6, 0, (2, 3), (3, 1), True),
        (6, 1, (2, 3), (3, 1), False),
        (5, 0, (2, 3), (3, 1), False),
        (6, 0, (3, 2), (1, 3), True),
        (6, 0, (3, 2), (1, 4), False),
        (1, 0, (2, 3), (0, 0), True),
        (6, 6, (0, 3), (3, 1), True),
        (6, 0, (2, 3), (3,), False),
        (6, 3, (2, 3), (-3, 1), False),
        (6, -1, (2, 3), (3, 1), False),
    ],
)
def test_tensors_stay_within_their_storage(tmp_path, count, first, shape, strides, fits):
    import torch._utils

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Persistent(), first, shape, strides, False, {})

    class Persistent:
        pass

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count) if isinstance(value, Persistent) else None

    with (tmp_path / "data.pkl").open("wb") as file:
        Pickler(file, 2).dump({"w": Tensor()})
    values = np.arange(count, dtype="<f4")
    write_zip(tmp_path / "x.pth", {"x/data.pkl": (tmp_path / "data.pkl").read_bytes(), "x/data/0": values.tobytes()})
    if not fits:
        with pytest.raises(CheckpointError, match="tensor w"):
            read_torch_file(tmp_path / "x.pth")
        return
    expected = torch.as_strided(torch.from_numpy(values), shape, strides, first).numpy()
    assert np.array_equal(np.asarray(read_torch_file(tmp_path / "x.pth")["w"]), expected)


def test_integer_tensors_are_refused_by_name(model, tmp_path):
    state = authors_state_dict(model) | {"module.steps": torch.tensor([3])}
    torch.save(state, tmp_path / "ast.pth")
    with pytest.raises(CheckpointError, match=r"module\.steps is a LongStorage"):
        load(tmp_path / "ast.pth")


def test_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "ast.pth")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*Save model\.state_dict\(\)"):
        load(tmp_path / "ast.pth")


def test_legacy_pth_is_read_by_torch_or_names_the_extra(model, tmp_path, monkeypatch):
    state = authors_state_dict(model)
    torch.save(state, tmp_path / "ast.pth", _use_new_zipfile_serialization=False)
    tensors = read_torch_file(tmp_path / "ast.pth")
    assert tensors.keys() == state.keys()
    assert all(np.array_equal(np.asarray(tensors[name]), state[name].numpy()) for name in state)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if not installed
    with pytest.raises(CheckpointError, match=r"install astfast\[reference\]"):
        read_torch_file(tmp_path / "ast.pth")


def test_text_as_pth(tmp_path):
    (tmp_path / "ast.pth").write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match=r"ast\.pth is no file of torch\.save"):
        load(tmp_path / "ast.pth")


def test_broken_bin_in_a_folder(model, tmp_path):
    folder = write_bin(model, tmp_path)
    os.truncate(folder / "pytorch_model.bin", 3000)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        load(folder)
