"""PyTorch checkpoints (.pth, .pt, .bin, .ckpt, as torch.save writes them), read without torch and without running code.

Since torch 1.6 such a file is a zip archive: ``data.pkl`` describes the tensors and refers to storages, each an
uncompressed member ``data/<key>``. Before, it was a row of pickles, then the storages one after another. Either way
``torch_pickle`` interprets the pickles, and what they say is checked against the file's size before a value is read.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from astfast.checkpoints.lazy_tensor import ITEMSIZE, MAX_ELEMENTS, LazyTensor, TensorFile, is_shape, span, stored
from astfast.checkpoints.torch_pickle import MAX_BYTES, Other, PickleError, Strided, interpret
from astfast.checkpoints.wrappers import AVERAGES
from astfast.errors import CheckpointError, brief, brief_name

STORAGES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
}
NESTED_UNDER = ("state_dict", "model", "model_state_dict")  # where training scripts put the weights beside other state
LOCAL_HEADER_BYTES = 30  # of a zip member, before its name and extra field
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of a file that is no archive
SHARED = 4  # times the file's bytes that its tensors may cover: tied weights, columns cut out of a wider matrix


class Storage:
    """A run of ``count`` elements at byte ``offset`` of the file."""

    __slots__ = ("count", "dtype", "offset")

    def __init__(self, dtype: str, count: int, offset: int) -> None:
        self.dtype, self.count, self.offset = dtype, count, offset

    @property
    def itemsize(self) -> int:
        return ITEMSIZE[self.dtype]


def read_torch_file(path: Path) -> dict[str, LazyTensor]:
    """Name -> tensor of a state dict saved by torch, also one kept under "state_dict" or "model" beside other state.

    Other state is not read, nor made; no code of the file is run. Raises CheckpointError, naming the file, for
    anything that isn't such a file: another object in the place of a tensor (named), a truncated or compressed archive,
    a tensor that reaches beyond its storage, tensors that together are far larger than the file.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            content = _from_archive(file, size) if zipfile.is_zipfile(file) else _from_pickles(file, size)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error}. Check the file.") from error
    except PickleError as error:
        raise CheckpointError(f"{path}: {error}. Save model.state_dict() again, or download it again.") from error
    except Exception as error:  # whatever broken bytes make zipfile raise
        raise CheckpointError(
            f"{path} is no state dict saved by torch, or a damaged one: {type(error).__name__}: {brief(str(error))}. "
            "Save model.state_dict() again, or download the file again."
        ) from error
    state = _state_dict(path, content)
    tensor_file = TensorFile(path)
    tensors = {name: _tensor(tensor_file, name, value) for name, value in state.items()}
    covered = sum(max(prod(x.shape), span(x.shape, x.strides)) * x.storage.itemsize for x in state.values())
    if covered > SHARED * size:
        raise CheckpointError(
            f"{path}: its tensors share storages so that they make {covered} bytes of a file of {size}. "
            "Save the model with tensors of their own: {name: x.clone() for name, x in model.state_dict().items()}."
        )
    return tensors


def _from_archive(file: BinaryIO, size: int) -> Any:
    """The object that ``data.pkl`` describes, its storages placed in the file."""
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise PickleError("it is a zip archive without a data.pkl, which torch.save didn't write")
        root = pickles[0].removesuffix("data.pkl")
        if root + "byteorder" in archive.namelist() and _member(archive, root + "byteorder", 16) != b"little":
            raise PickleError("it was saved on a big-endian machine")
        placed: dict[tuple[str, str, int], Storage] = {}

        def read_storage(pid: Any) -> Storage | Other:
            record = name, key, count = _storage_record(pid)
            if name not in STORAGES:
                return Other(name)  # named, and refused only if a tensor of the model is in it
            dtype = STORAGES[name]
            if record not in placed:
                member = _stored_member(archive, f"{root}data/{key}")
                if member.file_size < count * ITEMSIZE[dtype]:
                    raise PickleError(
                        f"storage {key} has {member.file_size} bytes, too few for {count} values of {dtype}"
                    )
                placed[record] = Storage(dtype, count, _data_offset(file, size, member))
            return placed[record]

        content, _ = interpret(_member(archive, root + "data.pkl", MAX_BYTES), read_storage)
        return content


def _from_pickles(file: BinaryIO, size: int) -> Any:
    """The object of a file of torch before 1.6: magic number, protocol, machine, object, keys of storages, storages."""
    file.seek(0)
    head = file.read(MAX_BYTES)
    if not head.startswith(b"\x80"):
        raise PickleError("it is no file of torch.save, or a truncated one")
    storages: dict[str, Storage] = {}

    def read_storage(pid: Any) -> Storage:
        name, key, count = _storage_record(pid)
        if name not in STORAGES:
            raise PickleError(f"storage {brief_name(key)} is a {name}: astfast reads {', '.join(STORAGES)}")
        dtype = STORAGES[name]
        if pid[5:] not in ((), (None,)):
            raise PickleError("it has a storage that is a view of another, as torch before 0.4 wrote them")
        storage = storages.setdefault(key, Storage(dtype, count, -1))
        if (storage.dtype, storage.count) != (dtype, count):
            raise PickleError(f"it describes storage {brief_name(key)} twice, differently")
        return storage

    magic, at = interpret(head, read_storage)
    protocol, at = interpret(head, read_storage, at) if magic == MAGIC else (None, at)
    if protocol != PROTOCOL:
        raise PickleError("it is a pickle that torch.save didn't write")
    machine, at = interpret(head, read_storage, at)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise PickleError("it was saved on a big-endian machine")
    content, at = interpret(head, read_storage, at)
    keys, at = interpret(head, read_storage, at)
    if not isinstance(keys, list) or len(keys) != len(storages) or not all(isinstance(key, str) for key in keys):
        raise PickleError("it lists other storages than its tensors are in")
    for key in keys:
        file.seek(at)
        storage = storages.get(key)
        if storage is None or storage.offset >= 0 or int.from_bytes(file.read(8), "little") != storage.count:
            raise PickleError(f"its storage {brief_name(key)} is of another size than its tensors need")
        storage.offset = at + 8
        at = storage.offset + storage.count * storage.itemsize
        if at > size:
            raise PickleError(f"it is cut short: storage {brief_name(key)} ends at byte {at}, the file at {size}")
    return content


def _storage_record(pid: Any) -> tuple[str, str, int]:
    """("storage", type, key, device, elements, ...) -> name of the type, key and elements."""
    match pid:
        case ("storage", Other(name=name), str(key), _, int(count), *_) if 0 <= count < MAX_ELEMENTS and len(key) < 100:
            return name, key, count
    raise PickleError("it has a storage record that torch doesn't write")


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Contents of an uncompressed member of at most ``limit`` bytes."""
    member = _stored_member(archive, name)
    if member.file_size > limit:
        raise PickleError(f"its {name} has {member.file_size} bytes: {limit} are the limit")
    return archive.read(member)


def _stored_member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        raise PickleError(f"its {name} is compressed, which torch never does")
    return member


def _data_offset(file: BinaryIO, size: int, member: zipfile.ZipInfo) -> int:
    """First byte of a member's data, which its local header precedes; checked to end within the file."""
    file.seek(member.header_offset)
    header = file.read(LOCAL_HEADER_BYTES)
    name_bytes, extra_bytes = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    offset = member.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes
    if header[:4] != b"PK\x03\x04" or offset + member.file_size > size:
        raise PickleError(f"its {member.filename} is cut short")
    return offset


def _state_dict(path: Path, content: Any) -> Mapping[str, Strided]:
    """The innermost mapping of names to tensors; where a copy averaged in training is beside it, with the copy's too,
    under the key that it has."""
    averaged = _averaged(content)
    alone = averaged and not any(isinstance(x, Strided) or key in NESTED_UNDER for key, x in content.items())
    if alone:
        return averaged
    return {**_trained(path, content), **averaged}


def _averaged(content: Any) -> dict[str, Strided]:
    """Tensors of copies of the weights that are kept beside them, their names under the key of the copy."""
    found: dict[str, Strided] = {}
    for prefix in AVERAGES:
        copy = content.get(prefix[:-1]) if isinstance(content, dict) else None
        for key in (*NESTED_UNDER, "module"):
            if isinstance(copy, dict) and isinstance(copy.get(key), dict):
                copy = copy[key]
        if isinstance(copy, dict):
            found |= {prefix + name: x for name, x in copy.items() if isinstance(name, str) and isinstance(x, Strided)}
    return found


def _trained(path: Path, content: Any) -> dict[str, Strided]:
    for key in NESTED_UNDER:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            _refuse_second(path, content, key)
            content = content[key]
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds {_what(content)}, not a state dict. Save model.state_dict() with torch.save."
        )
    for name, value in content.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path} has {_what(name)} for a name: it is no state dict. Save model.state_dict().")
        if not isinstance(value, Strided):
            raise CheckpointError(
                f"{path}: {brief_name(name)} is {_what(value)}, not a tensor. Save model.state_dict()."
            )
    return content


def _refuse_second(path: Path, content: Mapping[str, Any], key: str) -> None:
    """Raises CheckpointError for other tensors under another of NESTED_UNDER: which of both count can't be told."""
    for other in NESTED_UNDER:
        second = content.get(other)
        if other == key or not isinstance(second, dict) or second == content[key]:
            continue
        if any(isinstance(x, Strided) for x in second.values()):
            raise CheckpointError(
                f"{path} has weights under {key} and others under {other}: save those that count to a file of "
                "their own."
            )


def _what(value: Any) -> str:
    if isinstance(value, Other):
        return f"a {value.name} (named there, not run)"
    return "a tensor" if isinstance(value, Strided) else f"a {type(value).__name__}"


def _tensor(file: TensorFile, name: str, value: Strided) -> LazyTensor:
    storage, first, shape, strides = value
    where = f"{file.path}: tensor {brief_name(name)}"
    if not isinstance(storage, Storage):
        raise CheckpointError(f"{where} is in {_what(storage)}: astfast reads {', '.join(STORAGES)}.")
    if not (is_shape(shape) and is_shape(strides) and is_shape((first,)) and len(shape) == len(strides)):
        raise CheckpointError(f"{where} has a shape or strides that are no counts: {brief(shape)}, {brief(strides)}.")
    end = first + span(shape, strides)
    if end > storage.count:
        raise CheckpointError(
            f"{where} reaches element {end - 1} of a storage that has {storage.count}. Download it again."
        )
    if prod(shape) > storage.count:
        raise CheckpointError(
            f"{where} repeats the {storage.count} values of its storage (torch's expand). Save it with .clone()."
        )
    return stored(file, name, storage.dtype, storage.offset + first * storage.itemsize, shape, strides)
