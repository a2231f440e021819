"""Lazy tensors: their shape is known, their values stay in a file until ``np.asarray`` reads them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from astfast.errors import CheckpointError, brief_name

Float32 = NDArray[np.float32]

# Names of the safetensors format. bfloat16 is read as the upper half of a float32: numpy has no type for it.
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
# Bytes of an element. Those that aren't in DTYPES are described, and refused only where a model needs them.
ITEMSIZE = {**{"F64": 8, "F32": 4, "F16": 2, "BF16": 2}, **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}}
MAX_DIMENSIONS, MAX_ELEMENTS = 8, 1 << 48


class LazyTensor:
    """A tensor whose shape is known and whose values are read anew each time they are asked for, as float32.

    Nothing is kept: the caller of ``np.asarray(tensor)`` owns the array, so peak memory is what is held at one time.
    """

    __slots__ = ("_read", "shape")

    def __init__(self, shape: Sequence[int], read: Callable[[], Float32]) -> None:
        self.shape = tuple(shape)
        self._read = read

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        values = self._read()  # a fresh array, whatever ``copy`` asks for
        return values if dtype is None else values.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"LazyTensor{self.shape}"

    def reshape(self, *shape: int) -> LazyTensor:
        """The same values under another shape of the same size."""
        assert prod(shape) == prod(self.shape), (shape, self.shape)
        return LazyTensor(shape, lambda: self._read().reshape(shape))

    def rows(self, start: int, stop: int) -> LazyTensor:
        """``tensor[start:stop]``."""
        return LazyTensor((stop - start, *self.shape[1:]), lambda: self._read()[start:stop])


def concatenated(parts: Sequence[LazyTensor]) -> LazyTensor:
    """The parts stacked along their first dimension, each read straight into its place."""
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])

    def read() -> Float32:
        whole = np.empty(shape, np.float32)
        row = 0
        for part in parts:
            whole[row : row + part.shape[0]] = part
            row += part.shape[0]
        return whole

    return LazyTensor(shape, read)


def mean_of(tensors: Sequence[LazyTensor]) -> LazyTensor:
    """The mean of tensors of one shape, summed in float64."""

    def read() -> Float32:
        total = np.zeros(tensors[0].shape)
        for tensor in tensors:
            total += np.asarray(tensor)
        return (total / len(tensors)).astype(np.float32)

    return LazyTensor(tensors[0].shape, read)


def zeros(*shape: int) -> LazyTensor:
    """A tensor that no file holds, such as the bias of a layer that was trained without one."""
    return LazyTensor(shape, lambda: np.zeros(shape, np.float32))


def is_shape(shape: Any) -> bool:
    """Whether these are dimensions that a tensor may have: counts, not too many, and a product that is no overflow."""
    if not isinstance(shape, list | tuple) or len(shape) > MAX_DIMENSIONS:
        return False
    if not all(type(n) is int and 0 <= n < MAX_ELEMENTS for n in shape):
        return False
    return bool(prod(n for n in shape if n) < MAX_ELEMENTS)


def span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last of a tensor, both included."""
    return 0 if 0 in shape else 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))


def finite(name: str, values: Float32) -> Float32:
    """The values, unless one is NaN, infinite or beyond float32: then CheckpointError names the tensor."""
    if not np.isfinite(values).all():
        raise CheckpointError(f"{name} has values that are NaN or infinite in float32: save the model again.")
    return values


class TensorFile:
    """A file of tensors, opened once, by the first read: all of them are of the same file, whatever takes its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def read(self, dtype: str, count: int, offset: int) -> NDArray[Any]:
        """``count`` elements from byte ``offset`` on, fewer at the end of the file. Raises OSError."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        values: NDArray[Any] = np.empty(count, dtype)
        rest = values.data.cast("B")
        while rest and (got := os.preadv(self._fd, [rest], offset)):
            rest, offset = rest[got:], offset + got
        return values[: count - -(-len(rest) // values.itemsize)]

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # at exit, os may be gone before the file
        if self._fd >= 0:
            close(self._fd)


def stored(
    file: TensorFile, name: str, dtype: str, offset: int, shape: Sequence[int], strides: Sequence[int] | None = None
) -> LazyTensor:
    """Tensor ``name`` at byte ``offset`` of ``file``, stored as ``dtype`` (a key of ITEMSIZE, little-endian).

    ``strides`` count elements; None is C order. The values are read with plain reads, not mapped: mapped pages count
    as resident memory. Reading raises CheckpointError if the file has become shorter since or can't be read, for a type
    that isn't in DTYPES, and for values that are not finite.
    """
    shape = tuple(shape)
    where = f"{file.path}: tensor {brief_name(name)}"
    steps = strides if strides is not None else [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    count = span(shape, steps)

    def read() -> Float32:
        if dtype not in DTYPES:
            raise CheckpointError(f"{where} is {dtype}: astfast reads {', '.join(DTYPES)}.")
        if not count:
            return np.zeros(shape, np.float32)
        try:
            raw = file.read(DTYPES[dtype], count, offset)
        except OSError as error:
            raise CheckpointError(f"{where} can't be read: {error}. Check the file.") from error
        if raw.size != count:
            raise CheckpointError(f"{where} ends early: the file has changed since it was opened.")
        raw = np.lib.stride_tricks.as_strided(raw, shape, [step * raw.itemsize for step in steps])
        if dtype == "BF16":
            return finite(where, (raw.astype(np.uint32, order="C") << np.uint32(16)).view(np.float32))
        with np.errstate(over="ignore", under="ignore"):  # a float64 beyond float32 becomes infinite, and is refused
            return finite(where, raw.astype(np.float32, order="C", copy=False))

    return LazyTensor(shape, read)
