""".pth and .bin files that can't be used: an error that names what is wrong, and nothing is ever executed."""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from astfast.checkpoints.torch_file import read_torch_file
from astfast.errors import CheckpointError
from astfast.models.recognise import load
from tests.cases.checkpoints import authors_state_dict, random_model, write_authors, write_bin


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return random_model(num_hidden_layers=2)


# Archives -----------------------------------------------------------------------------------------------------------


class CreatesFile:
    """Unpickled by pickle.load, it creates a file: what a malicious checkpoint would do."""

    def __init__(self, path: Path, call=os.mkdir) -> None:
        self.path, self.call = str(path), call

    def __reduce__(self):
        return self.call, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["instead", "value", "key", "beside"])
def test_code_in_a_pickle_is_never_run(model, tmp_path, zipped, where):
    trap = tmp_path / "executed"
    state = dict(authors_state_dict(model))
    bomb = CreatesFile(trap)
    content = {
        "instead": bomb,
        "value": {**state, "x": bomb},
        "key": {**state, bomb: 1},
        "beside": {"state_dict": state, "args": bomb},
    }[where]
    torch.save(content, tmp_path / "ast.pth", _use_new_zipfile_serialization=zipped)
    if where == "beside":  # named, and left alone: a script's settings are no reason to refuse its weights
        assert read_torch_file(tmp_path / "ast.pth").keys() == state.keys()
    else:
        with pytest.raises(CheckpointError, match=r"posix\.mkdir \(named there, not run\)"):
            load(tmp_path / "ast.pth")
    assert not trap.exists()
    torch.load(tmp_path / "ast.pth", weights_only=False)  # the trap is a real one
    assert trap.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch._utils", "_rebuild_tensor_v3"),
        ("collections", "OrderedDict"),
        ("astfast.checkpoints.torch_pickle", "Storage"),
        ("torch", "FloatStorage.__init__"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_global_is_a_name_and_nothing_else(tmp_path, module, name, protocol):
    if protocol == 2:
        pickled = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"."
    else:
        strings = b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name))
        pickled = b"\x80\x04" + strings + b"\x93."
    write_zip(tmp_path / "x.pth", {"x/data.pkl": pickled})
    with pytest.raises(CheckpointError, match=rf"holds a {module}\.{name} \(named there, not run\), not a state dict"):
        read_torch_file(tmp_path / "x.pth")


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
        (lambda m: {**m, "ast/data.pkl": m["ast/data.pkl"][:-40]}, r"ast\.pth: the pickle ends early"),
        (lambda m: {**m, "ast/data.pkl": b""}, r"ast\.pth: the pickle ends early"),
        (lambda m: {**m, "ast/data.pkl": pickle.dumps([1, 2], 2)}, "holds a list, not a state dict"),
        (lambda m: {**m, "ast/data.pkl": pickle.dumps({1: 2}, 2)}, "has a int for a name"),
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
        (1, 0, (2, 3), (0, 0), False),
        (6, 0, (2, 3), (0, 1), True),
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


def test_integer_tensors_are_refused_where_they_are_read(tmp_path):
    torch.save({"steps": torch.tensor([3]), "w": torch.ones(2)}, tmp_path / "ast.pth")
    tensors = read_torch_file(tmp_path / "ast.pth")
    assert np.asarray(tensors["w"]).tolist() == [1, 1]
    with pytest.raises(CheckpointError, match=r"tensor steps is I64: astfast reads F64, F32"):
        np.asarray(tensors["steps"])


def test_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "ast.pth")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*Save model\.state_dict\(\)"):
        load(tmp_path / "ast.pth")


def legacy_file(path: Path, state: object) -> bytearray:
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_files_of_torch_before_1_6(tmp_path, dtype):
    state = {
        "a": torch.randn(3, 4, dtype=dtype),
        "steps": torch.tensor([1, 2]),
        "c": torch.randn(2, 5, dtype=dtype).t(),
    }
    state["d"] = state["a"][1:]  # in the storage of a
    legacy_file(tmp_path / "ast.pth", OrderedDict(state))
    tensors = read_torch_file(tmp_path / "ast.pth")
    assert list(tensors) == ["a", "steps", "c", "d"]
    for name in "acd":
        assert np.array_equal(np.asarray(tensors[name]), state[name].float().numpy())


def test_legacy_files_cut_or_damaged(tmp_path):
    path = tmp_path / "ast.pth"
    content = legacy_file(path, {"a": torch.randn(300), "b": torch.randn(4)})
    for keep in (1, 10, 40, 300, len(content) - 1):
        path.write_bytes(content[:keep])
        with pytest.raises(CheckpointError, match=r"ast\.pth: .*(ends early|cut short|another size)"):
            read_torch_file(path)
    path.write_bytes(pickle.dumps({"a": [1.0]}))
    with pytest.raises(CheckpointError, match=r"a pickle that torch\.save didn't write"):
        read_torch_file(path)
    at = content.index(b"little_endian") + len(b"little_endian")
    path.write_bytes(content[:at] + content[at:].replace(b"\x88", b"\x89", 1))
    with pytest.raises(CheckpointError, match="big-endian"):
        read_torch_file(path)


def test_text_as_pth(tmp_path):
    (tmp_path / "ast.pth").write_text("not found")
    with pytest.raises(CheckpointError, match=r"ast\.pth: it is no file of torch\.save"):
        load(tmp_path / "ast.pth")


def test_broken_bin_in_a_folder(model, tmp_path):
    folder = write_bin(model, tmp_path)
    os.truncate(folder / "pytorch_model.bin", 3000)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        load(folder)


def test_a_tensor_alone_is_called_one(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "t.pth")
    with pytest.raises(CheckpointError, match=r"t\.pth holds a tensor, not a state dict"):
        load(tmp_path / "t.pth")


def test_two_state_dicts_in_one_file_are_refused(tmp_path: Path) -> None:
    """Unless they are one, or the other key has settings."""
    one, other = {"a": torch.ones(3)}, {"a": torch.zeros(3)}
    torch.save({"model": one, "state_dict": other}, tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match="has weights under state_dict and others under model: save those"):
        read_torch_file(tmp_path / "two.pth")
    for beside in (one, {"depth": 3}):
        torch.save({"state_dict": one, "model": beside}, tmp_path / "one.pth")
        assert np.asarray(read_torch_file(tmp_path / "one.pth")["a"]).tolist() == [1, 1, 1]
