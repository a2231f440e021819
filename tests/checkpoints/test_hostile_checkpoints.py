"""Small files that once cost gigabytes or minutes: each is refused, or read, at the cost of its own size."""

import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from astfast import small_files
from astfast.checkpoints.safetensors import read_safetensors
from astfast.checkpoints.torch_file import read_torch_file
from astfast.engines import auto_precision
from astfast.errors import CheckpointError
from astfast.models.recognise import load
from tests.cases.checkpoints import edit_json, write_v4


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"x/{name}", content)
    return path


STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"  # of 4 floats


def state_dict(tensor: bytes) -> bytes:
    return b"\x80\x02}X\x01\0\0\0w" + tensor + b"s."


# .pth -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_byteorder_is_not_inflated(tmp_path, compression):
    path = archive(tmp_path / "x.pth", {"data.pkl": b"\x80\x02}.", "byteorder": bytes(10_000_000)}, compression)
    with pytest.raises(CheckpointError, match="byteorder is compressed"):
        read_torch_file(path)


def test_members_have_limits(tmp_path):
    path = archive(tmp_path / "x.pth", {"data.pkl": b"\x80\x02}.", "byteorder": bytes(17)})
    with pytest.raises(CheckpointError, match="byteorder has 17 bytes: 16 are the limit"):
        read_torch_file(path)
    path = archive(tmp_path / "x.pth", {"data.pkl": bytes((1 << 24) + 1)})
    with pytest.raises(CheckpointError, match=r"data\.pkl has 16777217 bytes"):
        read_torch_file(path)


@pytest.mark.parametrize("place", ["shape", "storage", "name"])
def test_messages_show_no_doubling_lists(tmp_path, place):
    """[x, x] of [x, x] of ...: 2^40 brackets as text."""
    doubling = b"]q\x00" + b"](h\x00h\x00eq\x00" * 40
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    tensor = {
        "shape": rebuild + STORAGE + b"K\x00h\x00h\x00\x89}tR",
        "storage": rebuild + b"h\x00Q" + b"K\x00K\x04\x85K\x01\x85\x89}tR",
        "name": b"h\x00",
    }[place]
    pickled = b"\x80\x02" + doubling + state_dict(tensor)[2:]
    path = archive(tmp_path / "x.pth", {"data.pkl": pickled, "data/0": bytes(16)})
    with pytest.raises(CheckpointError) as error:
        read_torch_file(path)
    assert len(str(error.value)) < 1000


def test_expanded_tensors_are_refused(tmp_path):
    torch.save({"w": torch.ones(1).expand(16384, 16384)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"tensor w repeats the 1 values of its storage"):
        read_torch_file(tmp_path / "x.pth")


def test_many_views_of_one_storage_are_refused(tmp_path):
    shared = torch.ones(100, 100)
    torch.save({f"w{i}": shared.T if i % 2 else shared for i in range(1000)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="share storages so that they make 40000000 bytes"):
        read_torch_file(tmp_path / "x.pth")
    torch.save({f"w{i}": shared for i in range(3)}, tmp_path / "x.pth")
    assert len(read_torch_file(tmp_path / "x.pth")) == 3


@pytest.mark.parametrize("shape", [[1] * 9, [2**48], [2**30, 2**30, 0], [-1], [1.0], [True], [10**400]])
def test_shapes_are_bounded(tmp_path, shape):
    arguments = (0, tuple(shape), (1,) * len(shape), False, None)
    numbers = b"".join(pickle.dumps(argument, 2)[2:-1] for argument in arguments)
    pickled = state_dict(b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + numbers + b"tR")
    archive(tmp_path / "x.pth", {"data.pkl": pickled, "data/0": bytes(16)})
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        read_torch_file(tmp_path / "x.pth")


def test_an_archive_of_several_disks(tmp_path):
    path = archive(tmp_path / "x.pth", {"data.pkl": b"\x80\x02}."})
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 2)  # two disks
    path.write_bytes(content[:end] + locator + content[end:])
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        read_torch_file(path)


# safetensors ----------------------------------------------------------------------------------------------------------


def header(path: Path, text: bytes) -> Path:
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def test_a_duplicate_among_many_names_is_found_at_once(tmp_path):
    names = b",".join(b'"%d":{}' % (i % 99_999) for i in range(100_000))
    with pytest.raises(CheckpointError, match="has '0' twice"):
        read_safetensors(header(tmp_path / "x.safetensors", b"{" + names + b"}"))


@pytest.mark.parametrize("shape", [[10**4000] * 200, [1] * 9, [2**47, 4], [2**48, 0]])
def test_shapes_of_big_numbers(tmp_path, shape):
    record = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    with pytest.raises(CheckpointError, match="tensor w has a shape or offsets that are no counts") as error:
        read_safetensors(header(tmp_path / "x.safetensors", json.dumps({"w": record}).encode()))
    assert len(str(error.value)) < 1000


def test_a_header_of_many_tensors_is_read_or_refused_in_time(tmp_path):
    """A megabyte of it, of records that are none and of good ones."""
    good = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    for record, message in ((b"{}", "has no dtype, shape and two"), (good, "fit none of the layouts")):
        for size in (1_000_000, 100_000):
            count = size // (len(record) + 9)
            text = b"{" + b",".join(b'"%d":' % i + record for i in range(count)) + b"}"
            if size == 100_000:  # where memory is traced, all takes several times as long
                tracemalloc.start()
            started = time.process_time()
            with pytest.raises(CheckpointError, match=message):
                load(header(tmp_path / "x.safetensors", text))
            assert time.process_time() - started < 2
        assert tracemalloc.get_traced_memory()[1] < 100 * len(text)
        tracemalloc.stop()


@pytest.mark.parametrize(
    "name",
    [
        lambda i: f"layers.{i % 1000}.blocks.{i % 1000}.norm.weight",  # as of a DASS of a million blocks
        lambda i: f"audio_spectrogram_transformer.encoder.layer.{i}.layernorm_before.bias",
        lambda i: f"v.blocks.{i * 1_000_003}.norm1.bias",
        lambda i: "model." * 8 + f"layers.{'9' * 80}{i}",
        lambda i: f"v.{i}" + "x" * 90_000 * (i < 4),
    ],
)
def test_names_of_any_model_are_recognised_or_refused_in_time(tmp_path, name):
    records = {name(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(3000)}
    path = header(tmp_path / "x.safetensors", json.dumps(records).encode())
    started = time.process_time()
    with pytest.raises(CheckpointError) as error:
        load(path)
    assert time.process_time() - started < 2
    assert len(str(error.value)) < 2000


# config.json and other small files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_length", 30_001),
        ("time_stride", 1_000_000),
        ("frequency_stride", 10**400),
        ("num_mel_bins", 4_097),
        ("patch_size", 1_025),
        ("hidden_size", 16_385),
        ("intermediate_size", 131_073),
        ("num_attention_heads", 30_000_000),
        ("head_dim", "x" * 100),
        ("head_dim", {}),
        ("head_dim", 10**6),
        ("layer_norm_eps", 1.5),
        ("layer_norm_eps", 10**400),
        ("layer_norm_eps", float("inf")),
        ("hidden_act", ["gelu"]),
        ("problem_type", 7),
        ("problem_type", "softmax"),
        ("qkv_bias", "yes"),
    ],
)
def test_numbers_of_config_json_have_ranges(model, tmp_path, field, value):
    write_v4(model, tmp_path)
    edit_json(tmp_path / "config.json", **{field: value})
    with pytest.raises(CheckpointError, match=rf"{field} in .*config\.json is .*: it must be ") as error:
        load(tmp_path)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("field", "value"),
    [("position_embedding_type", "relative_key"), ("pooling", "mean"), ("act_layer", "silu"), ("is_decoder", True)],
)
def test_variants_that_have_no_formula_are_refused_by_name(model, tmp_path, field, value):
    write_v4(model, tmp_path)
    edit_json(tmp_path / "config.json", **{field: value})
    with pytest.raises(CheckpointError, match=rf"{field} in .*config\.json is {value!r}: astfast runs an AST with"):
        load(tmp_path)


@pytest.mark.parametrize("field", ["num_attention_heads", "hidden_size", "max_length", "layer_norm_eps", "qkv_bias"])
def test_numbers_of_config_json_are_not_null(model, tmp_path, field):
    write_v4(model, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: None}))
    with pytest.raises(
        CheckpointError, match=rf"{field} in .*config\.json is null: it must be (an integer|a number|true)"
    ):
        load(tmp_path)


def test_numbers_of_preprocessor_config_json_are_not_null(model, tmp_path):
    write_v4(model, tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sampling_rate": None}))
    with pytest.raises(
        CheckpointError, match=r"sampling_rate in preprocessor_config\.json is null: it must be an integer"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("sampling_rate", value) for value in (0, 99, 999, 1_000_001, 2**31, 10**400, float("inf"), "16000")),
        *(("mean", value) for value in (1e39, -1e7, float("nan"), 10**400, [0.0])),
        *(("std", value) for value in (1e-39, 0, -1.0, 1e7)),
        ("do_normalize", 1),
        ("max_length", 2**31),
    ],
)
def test_numbers_of_preprocessor_config_json_have_ranges(model, tmp_path, field, value):
    write_v4(model, tmp_path)
    edit_json(tmp_path / "preprocessor_config.json", **{field: value})
    with pytest.raises(CheckpointError, match=rf"{field} in preprocessor_config\.json is .*: it must be "):
        load(tmp_path)


def test_too_many_tokens_are_refused(model, tmp_path):
    write_v4(model, tmp_path)
    edit_json(tmp_path / "config.json", max_length=20_000, time_stride=1)
    state = load_file(tmp_path / "model.safetensors")
    name = "audio_spectrogram_transformer.embeddings.position_embeddings"
    state[name] = torch.zeros(1, 3 * 19_985 + 2, 64)
    save_file(state, tmp_path / "model.safetensors")
    edit_json(tmp_path / "preprocessor_config.json", max_length=20_000)
    with pytest.raises(CheckpointError, match="3 x 19985 patches are more than 32768 tokens"):
        load(tmp_path)


def test_clips_of_the_check_of_precisions_are_bounded(v4):
    config = load(v4).config
    front_end = replace(config.front_end, max_length=30_000, sampling_rate=1_000_000)
    clips = auto_precision.check_clips(replace(config, time_stride=30_000, front_end=front_end))
    assert {len(clip) for clip in clips} == {auto_precision.MAX_SAMPLES}


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "labels.txt"])
def test_pipes_and_devices_are_refused_at_once(v4, tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"is a pipe or a device|no regular file"):
        load(v4, labels=tmp_path / name) if name == "labels.txt" else load(tmp_path / name)
    with pytest.raises(CheckpointError, match="no regular file"):
        load(v4, labels="/dev/zero")


def test_small_files_have_a_limit(v4, tmp_path, monkeypatch):
    assert small_files.read(v4 / "config.json", (v4 / "config.json").stat().st_size)
    with pytest.raises(OSError, match="more than 5 bytes"):
        small_files.read(v4 / "config.json", 5)
    (tmp_path / "names.txt").write_bytes(b"a\n" * (small_files.LIMIT // 2 + 1))
    with pytest.raises(CheckpointError, match="more than 10000000 bytes"):
        load(v4, labels=tmp_path / "names.txt")


# Values that are no numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, "float32"), (-np.inf, "float16"), (np.nan, "bfloat16"), (1e300, "float64")]
)
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_value_that_is_not_finite_is_named(tmp_path, value, dtype, kind):
    tensor = torch.zeros(3, 5, dtype=getattr(torch, dtype))
    tensor[1, 2] = value
    path = tmp_path / f"x.{kind}"
    (save_file if kind == "safetensors" else torch.save)({"layer.weight": tensor, "bias": torch.zeros(2)}, path)
    tensors = (read_safetensors if kind == "safetensors" else read_torch_file)(path)
    assert not np.asarray(tensors["bias"]).any()
    with pytest.raises(CheckpointError, match=r"tensor layer\.weight has values that are NaN or infinite"):
        np.asarray(tensors["layer.weight"])
