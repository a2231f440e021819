"""Loading a checkpoint: find its files, recognise the model family that they are of, and read them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from astfast import models
from astfast.checkpoints.sources import CheckpointFiles, find
from astfast.errors import CheckpointError, brief_name, listed
from astfast.models.base import Checkpoint, Family, LabelNames


def load(
    source: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    labels: LabelNames = None,
    **config: Any,
) -> Checkpoint:
    """Opens a checkpoint of any family, in any of its published layouts; no weight is read yet.

    ``source``: None (the built-in model), a folder in Hugging Face layout, a .safetensors, .pth, .pt or .bin file, or
    a hub id, for which ``revision``, ``cache_dir`` and ``local_files_only`` are as in huggingface_hub.
    ``labels``: names of the outputs: a sequence, or a file (see ``labels.read``).
    ``config``: fields of the Hugging Face config and preprocessor config (``frequency_stride``, ``time_stride``,
    ``max_length``, ``num_mel_bins``, ``mean``, ``std``, ...) that the files don't tell, or that are to be others;
    another ``max_length`` adapts an AST's position embeddings, which ``Checkpoint.approximate`` then says.

    Raises CheckpointError for a checkpoint that can't be found, read or mapped, TypeError for an unknown keyword.
    """
    (checkpoint,) = load_all(
        [source],
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        labels=labels,
        **config,
    )
    return checkpoint


def load_all(
    sources: Sequence[str | os.PathLike[str] | None],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    labels: LabelNames = None,
    **config: Any,
) -> Iterator[Checkpoint]:
    """As ``load``, the members of an ensemble. Each gets those of ``config`` that its family has; TypeError for one
    that no member's has."""
    if config:
        _check_keywords(config, frozenset().union(*(family.fields for family in models.families())), "a checkpoint")
    opened = [find(source, revision, cache_dir, local_files_only) for source in sources]
    families = [_family_of(files) for files in opened]
    known = frozenset().union(*(family.fields for family in families))
    of = " or ".join(f"{files.source} ({family.name})" for files, family in zip(opened, families, strict=True))
    _check_keywords(config, known, of)
    for files, family in zip(opened, families, strict=True):
        yield family.read(files, {name: x for name, x in config.items() if name in family.fields}, labels)


def from_files(
    files: CheckpointFiles, overrides: Mapping[str, Any] | None = None, labels: LabelNames = None
) -> Checkpoint:
    """The checkpoint that opened files are, read by the first family that recognises them. Errors as ``load``."""
    overrides, family = overrides or {}, _family_of(files)
    _check_keywords(overrides, family.fields, f"{files.source} ({family.name})")
    return family.read(files, overrides, labels)


def _family_of(files: CheckpointFiles) -> Family:
    """The first family that recognises the files; CheckpointError where none does."""
    for family in models.families():
        if family.recognises(files):
            return family
    *others, last = (family.name for family in models.families())
    known = f"{', '.join(others)} or {last}" if others else last
    model_type = (files.config or {}).get("model_type")
    if model_type is not None:
        raise CheckpointError(
            f"{files.source}'s config.json is of a {brief_name(str(model_type))} model: astfast runs {known} models."
        )
    names = sorted(files.tensors)
    raise CheckpointError(
        f"{files.source} is no {known} checkpoint: its tensors ({listed(names)}) fit none of the layouts "
        f"{'; '.join(layout for family in models.families() for layout in family.layouts)}."
    )


def _check_keywords(given: Mapping[str, Any], known: frozenset[str], of: str) -> None:
    for name in given:
        if name not in known:
            raise TypeError(f"unknown keyword {name}=: the fields of {of} are {', '.join(sorted(known))}")
