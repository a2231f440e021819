"""PyTorch checkpoints (.pth, .pt, .bin: state dicts as torch.save writes them), read without torch or pickle code.

The file is a zip archive: ``data.pkl`` describes the tensors and refers to storages, each an uncompressed member
``data/<key>``. The unpickler below resolves the handful of names that a state dict needs, to functions of its own
that only record shapes and places; any other name is refused before anything is called.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from astfast.checkpoints.lazy_tensor import DTYPES, LazyTensor, stored
from astfast.errors import CheckpointError

STORAGES = {"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16"}
OTHER_STORAGES = {"LongStorage", "IntStorage", "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage"}
NESTED_UNDER = ("state_dict", "model", "model_state_dict")  # where training scripts put the weights beside other state
LOCAL_HEADER_BYTES = 30  # of a zip member, before its name and extra field


@dataclass(frozen=True)
class Storage:
    """A run of ``count`` elements at byte ``offset`` of the file."""

    dtype: str
    offset: int
    count: int


@dataclass(frozen=True)
class Description:
    """Place and shape of one tensor in its storage; strides count elements."""

    storage: Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: Path) -> dict[str, LazyTensor]:
    """Name -> tensor of a state dict saved by torch, also one kept under "state_dict" or "model".

    Raises CheckpointError, naming the file, for anything that isn't one: a pickle that refers to other code (named,
    and never run), a truncated or compressed archive, a tensor that reaches beyond its storage. Files of torch before
    1.6 are no zip archives; they are read by torch itself, ``weights_only=True``, if it is installed.
    """
    if not zipfile.is_zipfile(path):
        return _read_legacy(path)
    try:
        with zipfile.ZipFile(path) as archive:
            content = _Unpickler(path, archive).load()
    except CheckpointError:
        raise
    except Exception as error:  # whatever broken bytes make zipfile and pickle raise
        raise CheckpointError(
            f"{path} is no state dict saved by torch, or a damaged one: {type(error).__name__}: {error}. "
            "Save model.state_dict() again, or download the file again."
        ) from error
    return {name: _tensor(path, name, value) for name, value in _state_dict(path, content).items()}


class _Unpickler:
    """Unpickles ``data.pkl``; every object it makes is plain data of this module."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self.archive = archive
        pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise CheckpointError(f"{path} is a zip archive without a data.pkl: torch.save didn't write it.")
        self.root = pickles[0].removesuffix("data.pkl")
        byteorder = self.root + "byteorder"
        if byteorder in archive.namelist() and archive.read(byteorder) != b"little":
            raise CheckpointError(f"{path} was saved on a big-endian machine: save it again on a little-endian one.")

    def load(self) -> Any:
        # Made for each file: a pickle can set attributes of what find_class returns, and must not reach another load.
        def rebuild_tensor(storage: Any, first: Any, shape: Any, strides: Any, *_: Any) -> Description:
            if not isinstance(storage, Storage):
                raise CheckpointError(f"{self.path} holds a tensor without a storage. Download the file again.")
            return Description(storage, first, tuple(shape), tuple(strides))

        def rebuild_parameter(data: Any, *_: Any) -> Any:
            return data

        admitted: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
            ("collections", "OrderedDict"): OrderedDict,
            **{("torch", name): name for name in (*STORAGES, *OTHER_STORAGES)},
        }
        path, storage = self.path, self._storage

        class Unpickler(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                if (module, name) not in admitted:
                    raise CheckpointError(
                        f"{path} refers to {module}.{name}, which no state dict needs: it is refused and nothing was "
                        "run. Save model.state_dict() alone with torch.save, or as .safetensors."
                    )
                return admitted[module, name]

            def persistent_load(self, pid: Any) -> Storage:
                return storage(pid)

        return Unpickler(io.BytesIO(self.archive.read(self._member(self.root + "data.pkl")))).load()

    def _storage(self, pid: Any) -> Storage:
        """("storage", type, key, device, elements) -> where the member ``data/<key>`` lies in the file."""
        kind, storage_type, key, _, count = pid
        if kind != "storage" or not isinstance(key, str) or type(count) is not int or count < 0:
            raise CheckpointError(f"{self.path} has a storage record that torch doesn't write: {pid!r}.")
        if storage_type not in STORAGES:  # integers, such as a step counter: described, refused only if they are needed
            return Storage(str(storage_type), 0, count)
        member = self._member(f"{self.root}data/{key}")
        dtype = STORAGES[storage_type]
        if member.file_size < count * np.dtype(DTYPES[dtype]).itemsize:
            raise CheckpointError(
                f"{self.path}: storage {key} has {member.file_size} bytes, too few for {count} values of {dtype}. "
                "Download the file again."
            )
        return Storage(dtype, self._data_offset(member), count)

    def _member(self, name: str) -> zipfile.ZipInfo:
        member = self.archive.getinfo(name)
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise CheckpointError(
                f"{self.path}: {name} is compressed, which torch never does. Save it with torch.save."
            )
        return member

    def _data_offset(self, member: zipfile.ZipInfo) -> int:
        """First byte of a member's data, which its local header precedes; checked to end within the file."""
        file = self.archive.fp
        assert file is not None
        file.seek(member.header_offset)
        header = file.read(LOCAL_HEADER_BYTES)
        name_bytes, extra_bytes = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
        offset = member.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        if header[:4] != b"PK\x03\x04" or offset + member.file_size > self.path.stat().st_size:
            raise CheckpointError(f"{self.path}: {member.filename} is cut short. Download the file again.")
        return offset


def _state_dict(path: Path, content: Any) -> Mapping[str, Any]:
    for key in NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{path} holds no state dict (name -> tensor). Save model.state_dict() with torch.save.")
    return content


def _tensor(path: Path, name: str, value: Any) -> LazyTensor:
    if not isinstance(value, Description):
        raise CheckpointError(f"{path}: {name} is a {type(value).__name__}, not a tensor. Save model.state_dict().")
    storage, first, shape, strides = value.storage, value.first, value.shape, value.strides
    if storage.dtype not in DTYPES:
        raise CheckpointError(f"{path}: tensor {name} is a {storage.dtype}: astfast reads {', '.join(DTYPES)}.")
    if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in (first, *shape, *strides)):
        raise CheckpointError(f"{path}: tensor {name} has a shape or strides that are no counts: {shape}, {strides}.")
    last = first + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.count:
        raise CheckpointError(
            f"{path}: tensor {name} reaches element {last} of a storage that has {storage.count}. Download it again."
        )
    offset = storage.offset + first * np.dtype(DTYPES[storage.dtype]).itemsize
    return stored(path, name, storage.dtype, offset, shape, strides)


def _read_legacy(path: Path) -> dict[str, LazyTensor]:
    try:
        with path.open("rb") as file:
            is_pickle = file.read(1) == b"\x80"
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error}. Check the file.") from error
    if not is_pickle:
        raise CheckpointError(f"{path} is no file of torch.save, or a truncated one. Download it again.")
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            f"{path} is a pickle of torch before 1.6, which only torch reads: install astfast[reference], or save the "
            "state dict again with a newer torch."
        ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or refused pickle
        raise CheckpointError(f"{path}: torch can't read it with weights_only=True: {error}") from error
    tensors = _state_dict(path, content)
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise CheckpointError(f"{path}: {name} is no floating-point tensor. Save model.state_dict().")
    return {name: _in_memory(value) for name, value in tensors.items()}


def _in_memory(tensor: Any) -> LazyTensor:
    return LazyTensor(tensor.shape, lambda: tensor.detach().float().contiguous().numpy())
