"""The safetensors format, read and written: a JSON header of names, types, shapes and byte ranges, then the values.

Format: https://huggingface.co/docs/safetensors. The header is checked in full before anything is read, and values are
only read when asked for, bfloat16 included, which the numpy side of the safetensors package can't.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from astfast.checkpoints.lazy_tensor import DTYPES, ITEMSIZE, LazyTensor, TensorFile, is_shape, stored
from astfast.errors import CheckpointError, brief, brief_name

Dtype = Literal["float32", "float16"]  # of the files that ``write_safetensors`` makes
WRITTEN: dict[Dtype, str] = {"float32": "F32", "float16": "F16"}  # keys of DTYPES
MAX_HEADER_BYTES = 1 << 24  # 1/6 of the format's own limit; that of a model of 1,000 tensors has 100 kB


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Name -> tensor of a .safetensors file. Raises CheckpointError, naming file and tensor, for a broken file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header_size = int.from_bytes(file.read(8), "little")
            data = 8 + header_size  # where the values start
            if size < 8 or header_size > MAX_HEADER_BYTES or data > size:
                raise CheckpointError(
                    f"{path} is no safetensors file, or a truncated one: {size} bytes can't hold the header of "
                    f"{header_size} bytes that it announces. Download it again."
                )
            header = file.read(header_size)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error}. Check the file.") from error
    records = _parse(path, header)
    return _tensors(path, records, data, size)


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor], dtype: Dtype) -> None:
    """Writes tensors to a file, one in memory at a time. transformers demands the "pt" in the metadata.

    Raises CheckpointError for a value that ``dtype`` can't hold, and leaves a part of the file.
    """
    name_of_dtype = WRITTEN[dtype]
    numpy_dtype = np.dtype(DTYPES[name_of_dtype])

    def entries() -> Iterator[tuple[str, dict[str, Any]]]:
        start = 0
        for name, tensor in tensors.items():
            stop = start + prod(tensor.shape) * numpy_dtype.itemsize
            yield name, {"dtype": name_of_dtype, "shape": tensor.shape, "data_offsets": [start, stop]}
            start = stop

    header = json.dumps({"__metadata__": {"format": "pt"}, **dict(entries())}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, tensor in tensors.items():
            with np.errstate(over="ignore", under="ignore"):  # found just below
                values = np.asarray(tensor).astype(numpy_dtype)
            if not np.isfinite(values).all():
                raise CheckpointError(f"{name} has values that {dtype} can't hold, or that are no finite numbers.")
            file.write(values.tobytes())


def _parse(path: Path, header: bytes) -> dict[str, Any]:
    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise CheckpointError(f"{path}: the header has {brief(twice)} twice. Download the file again.")
        return entries

    try:
        records = json.loads(header, object_pairs_hook=refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is no JSON ({error}). Download the file again.") from error
    if not isinstance(records, dict):
        raise CheckpointError(f"{path}: the header is no JSON object. Download the file again.")
    records.pop("__metadata__", None)
    return records


def _tensors(path: Path, records: dict[str, Any], data: int, size: int) -> dict[str, LazyTensor]:
    """The format demands that the tensors fill the file without gap or overlap: one pass in file order checks it."""
    checked = {name: _record(path, name, record) for name, record in records.items()}
    end, before = 0, "the header"
    for key, (_, _, start, stop) in sorted(checked.items(), key=lambda item: item[1][2:]):
        name = brief_name(key)
        if start != end:
            problem = "overlaps with" if start < end else "leaves a gap after"
            raise CheckpointError(f"{path}: tensor {name} (byte {start}) {problem} {before} (ends at {end}).")
        if data + stop > size:
            raise CheckpointError(
                f"{path} is truncated: tensor {name} ends at byte {data + stop}, the file at {size}. Download it again."
            )
        end, before = stop, name
    if data + end != size:
        raise CheckpointError(f"{path}: {size - data - end} bytes follow the last tensor, {before}.")
    file = TensorFile(path)
    return {name: stored(file, name, dtype, data + start, shape) for name, (dtype, shape, start, _) in checked.items()}


def _record(path: Path, name: str, record: Any) -> tuple[str, tuple[int, ...], int, int]:
    """(dtype, shape, first byte, end) of one tensor, consistent with each other."""
    where = f"{path}: tensor {brief_name(name)}"
    match record:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, stop]}:
            pass
        case _:
            raise CheckpointError(f"{where} has no dtype, shape and two data_offsets in the header.")
    if dtype not in ITEMSIZE:
        raise CheckpointError(f"{where} is {brief_name(dtype)}: astfast reads {', '.join(DTYPES)}.")
    if not (is_shape(shape) and is_shape((start,)) and is_shape((stop,))):
        raise CheckpointError(f"{where} has a shape or offsets that are no counts: {brief(record)}.")
    expected = prod(shape) * ITEMSIZE[dtype]
    if stop - start != expected:
        raise CheckpointError(f"{where} has {stop - start} bytes, but {dtype} of shape {shape} takes {expected}.")
    return dtype, tuple(shape), start, stop
