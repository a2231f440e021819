"""Any checkpoint that astfast loads, or the average of several -> a folder in Hugging Face layout.

transformers loads it too where it has a class for the family.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from astfast.checkpoints.lazy_tensor import mean_of
from astfast.checkpoints.safetensors import WRITTEN, Dtype, write_safetensors
from astfast.checkpoints.sources import CONFIG, PREPROCESSOR, PROCESSOR
from astfast.errors import CheckpointError, brief
from astfast.models.base import Checkpoint, Exported, Model
from astfast.models.recognise import load


def convert(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    folder: str | os.PathLike[str],
    *,
    dtype: Dtype = "float32",
    force: bool = False,
    **options: Any,
) -> tuple[str, ...]:
    """Writes a checkpoint to a folder in Hugging Face layout; returns notes on what differs from the original.

    ``source``, ``options``: as in ``models.recognise.load``; of a list of sources the mean of the weights is written.
    ``folder``: gets config.json, preprocessor_config.json and model.safetensors. It appears whole or not at all.
    ``dtype``: of the tensors in the file.
    ``force``: replace these three files, one at a time, in a folder that isn't empty; others in it stay.

    Raises CheckpointError for a source that can't be loaded or has no such layout, for sources whose weights can't be
    averaged, for a folder that isn't empty unless ``force``, for one with a processor_config.json, which loaders prefer
    to what is written, and for one that can't be written.
    """
    if dtype not in WRITTEN:
        raise ValueError(f"dtype is {dtype!r}: use one of {', '.join(WRITTEN)}")
    sources: Sequence[Any] = source if isinstance(source, list | tuple) else [source]
    if not sources:
        raise ValueError("no source: an average needs at least one")
    checkpoints = [load(one, **options) for one in sources]
    warnings = dict.fromkeys(warning for checkpoint in checkpoints for warning in checkpoint.warnings)
    return (*warnings, *_write_exported(_averaged(checkpoints), folder, dtype, force))


def write_folder(
    model: Model, folder: str | os.PathLike[str], *, dtype: Dtype = "float32", force: bool = False
) -> tuple[str, ...]:
    """As ``convert``, from a model whose weights' leaves are anything that ``np.asarray`` takes."""
    return _write_exported(model.family.export(model.config, model.weights), folder, dtype, force)


def _averaged(checkpoints: Sequence[Checkpoint]) -> Exported:
    """The first checkpoint with the mean of all weights, such as those of several epochs of one training.

    Raises CheckpointError, naming two sources and the difference, for models that are not of one kind.
    """
    first, *others = checkpoints
    for other in others:
        different = _difference(first, other)
        if different is not None:
            raise CheckpointError(
                f"{other.source} and {first.source} can't be averaged: their {different} differ. Average checkpoints "
                "of one model, or load a list of them as an ensemble."
            )
    exported = first.family.export(first.config, first.weights)
    if not others:
        return exported
    all_tensors = [exported.tensors, *(other.family.export(other.config, other.weights).tensors for other in others)]
    tensors = {name: mean_of([each[name] for each in all_tensors]) for name in exported.tensors}
    return replace(exported, tensors=tensors)


def _difference(first: Checkpoint, other: Checkpoint) -> str | None:
    """What makes two checkpoints different models: their families or the first value of their configs; or None."""
    if other.family is not first.family:
        return f"families ({other.family.name}, {first.family.name})"
    if (other.weights.head is None) != (first.weights.head is None):
        return "classifiers (one has none)"
    if type(other.config) is not type(first.config):
        return f"layouts ({other.layout}, {first.layout})"
    return _first_difference("", other.config, first.config)


def _first_difference(name: str, ours: Any, theirs: Any) -> str | None:
    """The first value that differs, within records and tuples; None where none does."""
    if is_dataclass(ours) and type(ours) is type(theirs):
        names = [field.name for field in fields(ours)]
        parts = ((f"{name}.{part}".lstrip("."), getattr(ours, part), getattr(theirs, part)) for part in names)
        return next(filter(None, (_first_difference(*part) for part in parts)), None)
    if ours == theirs:
        return None
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        if len(ours) != len(theirs):
            return f"numbers of {name} ({len(ours)}, {len(theirs)})"
        index = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        return f"values of {name}[{index}] ({brief(ours[index])}, {brief(theirs[index])})"
    return f"values of {name} ({brief(ours)}, {brief(theirs)})"


def _write_exported(exported: Exported, folder: str | os.PathLike[str], dtype: Dtype, force: bool) -> tuple[str, ...]:
    try:
        target = Path(folder).expanduser().absolute()
        if target.is_file() or (target.is_dir() and any(target.iterdir()) and not force):
            raise CheckpointError(f"{target} exists and is not an empty folder: choose another, or pass force=True.")
        if (target / PROCESSOR).is_file():
            raise CheckpointError(f"{target / PROCESSOR} would come before the {PREPROCESSOR} written: remove it.")
        _write(exported, target, dtype)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user's home that is unknown
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{folder}: can't be written ({reason}): choose another folder, or free space") from error
    return exported.notes


def _write(exported: Exported, target: Path, dtype: Dtype) -> None:
    """The files of a folder, written beside it and then moved there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        stage.chmod(0o755)
        write_safetensors(stage / "model.safetensors", exported.tensors, dtype)
        _write_json(stage / PREPROCESSOR, exported.preprocessor)
        _write_json(stage / CONFIG, {**exported.config, "torch_dtype": dtype})
        if target.is_dir():
            for path in sorted(stage.iterdir(), reverse=True):  # config.json last
                path.replace(target / path.name)
        else:
            stage.rename(target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
