"""A model's packed weights in the cache folder: packed by the first process, mapped by the others, which share them.

What is in a file depends on the checkpoint, the tier, the precision and the code that packs it; all of them make its
name. A model's ``pack`` asks for its weights in the same order every time, so that a file holds them in that order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from astfast import cache_files
from astfast.backends.cpu.ops import CpuOps, HeadPack, NormLinearPack
from astfast.backends.cpu.tiers import native

PACKING = ("checkpoints", "models", "backends/cpu")  # packages whose code decides what is packed, beside C++


class Source(Protocol):
    """The checkpoint that is packed, see ``models.base.Checkpoint``."""

    @property
    def family(self) -> Any: ...
    @property
    def weights(self) -> Any: ...
    @property
    def source(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


def packed(ops: CpuOps, model: Source, size: int) -> tuple[Any, bool]:
    """The weights of a model, mapped from the cache, where they are put if they are not there; packed in memory where
    that is impossible; and whether they are mapped. ``size``: bytes that they take, about."""
    try:
        fingerprint = model.fingerprint
        name = _name(ops, fingerprint)
        found = _mapped(ops, model, name)
        if found is None:
            with cache_files.writing(name, size) as writer:
                if writer is not None:
                    _write(ops, model, writer)
                    if model.fingerprint != fingerprint:
                        raise OSError("the checkpoint has changed while it was read")
            found = _mapped(ops, model, name)
    except OSError:  # of the cache or of the checkpoint: the latter comes again where it matters
        found = None
    return (model.family.pack(ops, model.weights), False) if found is None else (found, True)


def _name(ops: CpuOps, checkpoint: str) -> str:
    parts = _code(), ops.tier, ops.precision, checkpoint
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@cache
def _code() -> str:
    """Digest of the code that reads checkpoints and packs them, so that each version of it has files of its own."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[2]
    sources = sorted(path for part in PACKING for path in (package / part).rglob("*.py"))
    for path in (Path(str(native().__file__)), *sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _checksum(ops: CpuOps) -> cache_files.Checksum:
    return lambda content: int(native().checksum(content, ops.threads))


def _write(ops: CpuOps, model: Source, writer: cache_files.Writer) -> None:
    written = _Written(ops, writer)
    model.family.pack(written, model.weights)
    about = f"{model.source}, {ops.precision}, {ops.tier}"
    writer.finish({"about": about, "weights": written.places}, _checksum(ops))


def _mapped(ops: CpuOps, model: Source, name: str) -> Any:
    """The weights in the file of this name; None where there is none that fits."""
    contents = cache_files.read(name, _checksum(ops))
    if contents is None:
        return None
    try:
        stored = _Stored(ops, contents)
        weights = model.family.pack(stored, model.weights)
        return weights if stored.at_end else None
    except (LookupError, TypeError, ValueError):
        return None


class _Written:
    """Ops that write what they pack to a file, and keep nothing."""

    def __init__(self, ops: CpuOps, writer: cache_files.Writer) -> None:
        self._ops, self._writer = ops, writer
        self.places: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ops, name)

        def pack(*weights: Any, **options: Any) -> None:
            self.places.append([name, self._placed(_parts(self._ops, method(*weights, **options)))])

        return pack

    def _placed(self, part: Any) -> Any:
        if isinstance(part, tuple | list):
            return [self._placed(inner) for inner in part]
        return {"array": self._writer.add(part)} if isinstance(part, np.ndarray) else part


class _Stored:
    """Ops that take what they would pack from a file."""

    def __init__(self, ops: CpuOps, contents: cache_files.Contents) -> None:
        self._ops, self._contents = ops, contents
        self._next = 0

    @property
    def at_end(self) -> bool:
        return self._next == len(self._contents.header["weights"])

    def __getattr__(self, name: str) -> Any:
        def pack(*_: Any, **__: Any) -> Any:
            method, places = self._contents.header["weights"][self._next]
            if method != name:
                raise LookupError(name)
            self._next += 1
            return _whole(self._ops, *self._read(places))

        return pack

    def _read(self, place: Any) -> Any:
        if isinstance(place, list):
            return [self._read(inner) for inner in place]
        return self._contents.array(place["array"]) if isinstance(place, dict) else place


def _parts(ops: CpuOps, packed: Any) -> tuple[Any, ...]:
    """Numbers and arrays that packed weights consist of, behind the name of their kind."""
    if isinstance(packed, NormLinearPack):
        return "norm_linear", _parts(ops, packed.norm), _parts(ops, packed.linear)
    if isinstance(packed, HeadPack):
        return "head", None if packed.norm is None else _parts(ops, packed.norm), _parts(ops, packed.linear)
    if isinstance(packed, np.ndarray):
        return "array", packed
    if isinstance(packed, native().PackedLinear):
        return "linear", *ops.context.linear_parts(packed)
    if isinstance(packed, native().PackedEmbed):
        projection, *rest = ops.context.embed_parts(packed)
        return "embed", ("linear", *projection), *rest
    return type(packed).__name__, *packed.parts()


def _whole(ops: CpuOps, kind: str, *parts: Any) -> Any:
    """The inverse of ``_parts``."""
    make: dict[str, Callable[..., Any]] = {
        "norm_linear": lambda norm, linear: NormLinearPack(_whole(ops, *norm), _whole(ops, *linear)),
        "head": lambda norm, linear: HeadPack(None if norm is None else _whole(ops, *norm), _whole(ops, *linear)),
        "array": lambda array: array,
        "linear": ops.context.linear_of_parts,
        "embed": lambda projection, *rest: ops.context.embed_of_parts(_whole(ops, *projection), *rest),
        "PackedNorm": native().PackedNorm,
        "PackedScan": native().PackedScan,
    }
    return make[kind](*parts)
