"""From the arguments of ``astfast.load`` to engines: checkpoint, backend and precision, each chosen once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from astfast import backends
from astfast.backends import Choice
from astfast.engines import auto_precision as precision
from astfast.engines.eager import Engine
from astfast.engines.replicas import Replicas
from astfast.errors import CheckpointError
from astfast.models import recognise as checkpoint
from astfast.models.base import Checkpoint, Model
from astfast.version import __version__

Source = str | Path | None
Runner = Engine | Replicas  # of one model: on one device, or the same on several


@dataclass(frozen=True)
class LoadArguments:
    """What ``astfast.load`` was called with; all that a pickled tagger carries."""

    sources: tuple[Source, ...]
    device: str | list[str] = "auto"
    precision: str = "auto"
    backend: str = "auto"
    threads: int | None = None
    batch_size: int | None = None
    deterministic: bool = False
    checkpoint_options: Mapping[str, Any] = field(default_factory=dict)  # revision, cache_dir, labels, config overrides


def load_members(arguments: LoadArguments) -> tuple[Runner, ...]:
    """One runner a source, all on the same backend. Raises CheckpointError where an ensemble's members disagree."""
    choice = backends.choose(arguments.backend, arguments.device, arguments.threads)
    members: list[Runner] = []
    for source in arguments.sources:
        loaded = checkpoint.load(source, **arguments.checkpoint_options)
        if loaded.approximate is not None:
            warnings.warn(loaded.approximate, stacklevel=4)
        members.append(_engine(loaded, choice, arguments))
        _check_agreement(members[0], members[-1], arguments.sources[0], source)
    return tuple(members)


def _engine(loaded: Checkpoint, choice: Choice, arguments: LoadArguments) -> Runner:
    if arguments.precision != "auto":
        return _pack(loaded, choice, arguments.precision, arguments)
    fastest = choice.fastest_precision()
    engine = _pack(loaded, choice, fastest, arguments)
    if fastest == "float32" or loaded.config.num_labels == 0:
        return engine

    def check() -> bool:
        clips = precision.check_clips(engine.config)
        exact = _pack(loaded, choice, "float32", arguments)
        return precision.within_tolerance(engine.config, engine.logits(clips), exact.logits(clips))

    key = f"{__version__} {engine.ops.name} {engine.ops.precision} {engine.hardware} {loaded.fingerprint}"
    if precision.remembered(key, check):
        return engine
    return _pack(loaded, choice, "float32", arguments)


def _pack(loaded: Checkpoint, choice: Choice, at: str, arguments: LoadArguments) -> Runner:
    engines = []
    for device in choice.devices:
        ops = choice.make(loaded.config.num_attention_heads, at, device, arguments.deterministic)
        engines.append(engine_on(ops, loaded, arguments.batch_size))
    return engines[0] if len(engines) == 1 else Replicas(engines)


def engine_on(ops: Any, model: Model, batch_size: int | None = None) -> Engine:
    """The engine that a backend's ops are run by."""
    if ops.name != "cuda":
        return Engine(ops, model.config, model.weights, batch_size, model.family)
    from astfast.engines.cuda_graphs import CudaGraphEngine

    return CudaGraphEngine(ops, model, batch_size)  # type: ignore[return-value]


def _check_agreement(first: Runner, other: Runner, first_source: Source, source: Source) -> None:
    if other.config.labels != first.config.labels:
        raise CheckpointError(
            f"{source} has {other.config.num_labels} labels that are not those of {first_source} "
            f"({first.config.num_labels}): the members of an ensemble must agree on them. Pass labels= for all of them."
        )
    if other.config.front_end.sampling_rate != first.config.front_end.sampling_rate:
        raise CheckpointError(
            f"{source} hears {other.config.front_end.sampling_rate} Hz and {first_source} "
            f"{first.config.front_end.sampling_rate} Hz: the members of an ensemble must agree on the sampling rate."
        )
