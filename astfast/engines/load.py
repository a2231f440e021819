"""From the arguments of ``astfast.load`` to an engine: checkpoint, backend and precision, each chosen once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from astfast import backends, notes
from astfast.backends import Choice
from astfast.engines import auto_precision
from astfast.engines.base import Engine, FloatArray, ModelEngine
from astfast.engines.eager import EagerEngine
from astfast.errors import BackendError, CheckpointError, UnsupportedModel, brief
from astfast.models import recognise
from astfast.models.base import Checkpoint, Model
from astfast.models.vit_family import merging, without_merging
from astfast.notes import Note
from astfast.ops import Ops
from astfast.scores import activation_of
from astfast.version import __version__

Source = str | Path | None


@dataclass(frozen=True)
class LoadArguments:
    """The arguments of ``astfast.load``; all that a pickled tagger carries."""

    sources: tuple[Source, ...]
    device: str | list[str] = "auto"
    precision: str = "auto"
    backend: str = "auto"
    threads: int | None = None
    batch_size: int | None = None
    deterministic: bool = False
    token_merging: float = 0.0
    replicas: int | str | None = None
    checkpoint_options: Mapping[str, Any] = field(default_factory=dict)  # revision, cache_dir, labels, config overrides


def anywhere(arguments: LoadArguments) -> LoadArguments:
    """The arguments for a process in another folder: relative paths of files that are here become absolute."""
    options = dict(arguments.checkpoint_options)
    paths = {name: _absolute(options[name]) for name in ("labels", "cache_dir") if name in options}
    sources = tuple(_absolute(source) for source in arguments.sources)
    return replace(arguments, sources=sources, checkpoint_options=options | paths)


def _absolute(source: Any) -> Any:
    return Path(source).absolute() if isinstance(source, str | os.PathLike) and Path(source).exists() else source


def load_engine(arguments: LoadArguments) -> Engine:
    """One engine a source, all on the same backend. Raises CheckpointError where an ensemble's members disagree.

    A model that the GPU backend has no code for runs on the CPU, with a warning, unless a GPU was asked for.
    """
    choice = backends.choose(arguments.backend, arguments.device, arguments.threads)
    try:
        return _engines(arguments, choice)
    except UnsupportedModel as error:
        if choice.backend != "cuda" or (arguments.backend, arguments.device) != ("auto", "auto"):
            raise
        notes.show(Note(f"GPU found but not used: {error}; running on the CPU"))
    return _engines(arguments, backends.choose("auto", "cpu", arguments.threads))


def _engines(arguments: LoadArguments, choice: Choice) -> Engine:
    members: list[Engine] = []
    checkpoints = recognise.load_all(arguments.sources, **arguments.checkpoint_options)
    for source, checkpoint in zip(arguments.sources, checkpoints, strict=True):
        for message in checkpoint.warnings:
            notes.show(Note(message))
        members.append(_replicated(_engine(checkpoint, choice, arguments), arguments))
        _check_agreement(members[0], members[-1], arguments.sources[0], source)
    if len(members) == 1:
        return members[0]
    from astfast.engines.ensemble import Ensemble  # imported where needed: most processes tag with one model

    return Ensemble(members)


def _replicated(engine: Engine, arguments: LoadArguments) -> Engine:
    if arguments.replicas is None:
        return engine
    if isinstance(engine, EagerEngine) and engine.ops.name == "cpu":
        from astfast.engines.core_replicas import on_core_groups  # asked for by few

        return on_core_groups(engine, arguments.replicas, arguments.threads)
    if arguments.replicas == "auto":
        return engine
    raise BackendError(
        f"replicas is {arguments.replicas}, and only the cpu backend has any: leave it out, or list GPUs as device"
    )


def _engine(checkpoint: Checkpoint, choice: Choice, arguments: LoadArguments) -> Engine:
    """The engine of one model. Precision "auto" is checked against float32, and so is int8, with a warning; what a
    check has found is looked up first, so that a precision which is not taken is packed once."""
    asked = arguments.precision
    precision = choice.fastest_precision() if asked == "auto" else asked
    ops = _opened(checkpoint, choice, precision, arguments)
    if precision == "float32" or asked not in ("auto", "int8") or not checkpoint.config.num_labels:
        return _on_devices(ops, checkpoint, arguments)
    hardware = " + ".join(each.hardware for each in ops).split(",")[0]  # bits don't depend on the number of threads
    key = f"{__version__} {ops[0].name} {precision} {hardware} {checkpoint.fingerprint}"
    largest, engine = auto_precision.remembered(key), None
    if largest is None:
        engine = _on_devices(ops, checkpoint, arguments)
        largest = _difference(engine, checkpoint, choice, replace(arguments, precision=precision))
        auto_precision.remember(key, checkpoint.source, largest)
    told = auto_precision.told(precision, largest)
    if asked == "int8" and largest > auto_precision.INT8_TOLERANCE:
        notes.show(Note(f"{checkpoint.source}: {told}; pass precision='auto' for a type that stays closer"))
    if asked == "auto" and not auto_precision.within_tolerance(largest):
        engine = None  # its memory is free before the next one is packed
        ops = _opened(checkpoint, choice, "float32", arguments)
    engine = engine or _on_devices(ops, checkpoint, arguments)
    if isinstance(engine, ModelEngine):
        engine.why = told
    return engine


def _difference(engine: Engine, checkpoint: Checkpoint, choice: Choice, arguments: LoadArguments) -> float:
    """How far an engine's scores of the check clips, no tokens merged, are from float32's at most."""
    if isinstance(engine, EagerEngine):
        exact_ops = auto_precision.PackedWhenUsed(choice.open(checkpoint.config.num_attention_heads, "float32"))
        unpacked = checkpoint.family.pack(exact_ops, checkpoint.weights)
        exact = auto_precision.check_logits(checkpoint, exact_ops, unpacked)
        exact_ops.release_freed_memory()
        fast = auto_precision.check_logits(checkpoint, engine.ops, without_merging(engine.weights))
    else:
        clips, whole = auto_precision.check_clips(engine.config), replace(arguments, token_merging=0.0)

        def logits(precision: str) -> FloatArray:
            return _on_devices(_opened(checkpoint, choice, precision, whole), checkpoint, whole).logits(clips)

        fast = logits(arguments.precision) if arguments.token_merging else engine.logits(clips)
        exact = logits("float32")
    config = checkpoint.config
    return auto_precision.difference(fast, exact, activation_of(config.problem_type, config.num_labels))


def _opened(model: Model, choice: Choice, precision: str, arguments: LoadArguments) -> list[Ops]:
    """The ops of each device."""
    heads = model.config.num_attention_heads
    return [choice.open(heads, precision, device, arguments.deterministic) for device in choice.devices]


def _on_devices(ops: Sequence[Ops], model: Model, arguments: LoadArguments) -> Engine:
    model = merging(model, arguments.token_merging)
    engines = [engine_for(each, model, arguments.batch_size) for each in ops]
    if len(engines) == 1:
        return engines[0]
    from astfast.engines.replicas import Replicas

    return Replicas(engines)


def engine_for(ops: Ops, model: Model, batch_size: int | None = None, waveforms: bool = True) -> Engine:
    """The engine that a backend's ops are run by, with the model packed for it.

    ``waveforms``: whether it will get such, and not only spectrograms. Raises UnsupportedModel where the backend has no
    code for the model.
    """
    if ops.engine == "cuda_graphs":
        from astfast.backends.cuda.ops import CudaOps
        from astfast.engines.cuda_graphs import CudaGraphEngine

        assert isinstance(ops, CudaOps)
        if waveforms:
            ops.known(model.config.front_end)
        return CudaGraphEngine(ops, model, batch_size)
    return EagerEngine(ops, model, batch_size)


def _check_agreement(first: Engine, other: Engine, first_source: Source, source: Source) -> None:
    if other.labels != first.labels:
        pairs = enumerate(zip(other.labels, first.labels, strict=False))
        unequal = (f"label {index} is {brief(a)} and {brief(b)}" for index, (a, b) in pairs if a != b)
        difference = next(unequal, f"{len(other.labels)} and {len(first.labels)}")
        raise CheckpointError(
            f"{source} has other labels than {first_source} ({difference}): the "
            "members of an ensemble must agree on them. Pass labels= for all of them."
        )
    activations = [activation_of(each.config.problem_type, len(each.labels)) for each in (first, other)]
    if activations[0] != activations[1] and "none" in activations:
        raise CheckpointError(
            f"{first_source} and {source} make no ensemble: the outputs of one are scores of a regression, those of "
            "the other probabilities. Pass problem_type= for both."
        )
