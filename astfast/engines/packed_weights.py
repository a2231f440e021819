"""Weights of a model as a backend's ops pack them; those of a large checkpoint on a CPU come from the cache folder."""

from __future__ import annotations

import time
from typing import Any

from astfast.models.base import Checkpoint, Model
from astfast.ops import Ops

SMALLEST = 32 << 20  # bytes of a checkpoint's files: a smaller one is packed in the time that a cached one takes
PACKED = {"float32": 1.0, "bfloat16": 0.5, "int8": 0.25}  # bytes of packed weights, over those of a file in float32
SETTLED = 2.0  # seconds since a file's last change, after which another change has another time on every file system


def pack(ops: Ops, model: Model) -> tuple[Any, bool]:
    """The weights of a model, packed by ``ops``, or what a process has packed of the same files; whether the latter."""
    if ops.name == "cpu" and isinstance(model, Checkpoint) and (size := _settled_size(model)) >= SMALLEST:
        from astfast.backends.cpu import packed_model  # which most processes have no use for
        from astfast.backends.cpu.ops import CpuOps

        assert isinstance(ops, CpuOps)
        return packed_model.packed(ops, model, round(PACKED[ops.precision] * size))
    return model.family.pack(ops, model.weights), False


def _settled_size(checkpoint: Checkpoint) -> int:
    """Bytes of a checkpoint's files; 0 if one of them is gone or has changed just now."""
    try:
        found = [path.stat() for path in checkpoint.paths]
    except OSError:
        return 0
    latest = max((status.st_ctime for status in found), default=0.0)  # st_mtime is whatever somebody has set
    return sum(status.st_size for status in found) if latest < time.time() - SETTLED else 0
