"""Loading a checkpoint: find its files, recognise its layout, and map it to canonical weights and a config."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astfast.checkpoints.sources import CheckpointFiles, find
from astfast.models.ast.config import ModelConfig
from astfast.models.ast.forward import AstWeights
from astfast.models.ast.geometry import checked_overrides, model_fields, resolve
from astfast.models.ast.key_layouts import canonical_weights, recognise


@dataclass(frozen=True)
class Checkpoint:
    """A model as published: its config, and weights that stay in their files until a backend packs them.

    Every leaf of ``weights`` has a ``shape`` and gives a fresh float32 array each time ``np.asarray`` asks for it.
    """

    source: str  # path, hub id or "the built-in model"
    layout: str  # name of the key layout that was recognised
    config: ModelConfig
    weights: AstWeights  # head None for a bare ASTModel: embeddings only
    approximate: str | None  # why the results are an approximation of the published model's, if they are
    paths: tuple[Path, ...]  # of the files that hold the weights

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the config and of the files' places, sizes and times: another model has another."""
        digest = hashlib.sha256(repr((self.layout, self.config)).encode())
        for path in map(Path.resolve, self.paths):
            status = path.stat()
            digest.update(repr((str(path), status.st_size, status.st_mtime_ns)).encode())
        return digest.hexdigest()


def load(
    source: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    labels: Iterable[str] | str | os.PathLike[str] | None = None,
    **config: Any,
) -> Checkpoint:
    """Open an AST checkpoint in any of its published layouts; no weight is read yet.

    ``source``: None (the built-in model), a folder in Hugging Face layout, a .safetensors, .pth, .pt or .bin file, or
    a hub id, for which ``revision``, ``cache_dir`` and ``local_files_only`` are as in huggingface_hub. ``labels``
    names the outputs: a sequence, or a file (see ``labels.read``). ``config``: fields of the Hugging Face config and
    preprocessor config (``frequency_stride``, ``time_stride``, ``max_length``, ``num_mel_bins``, ``mean``, ``std``,
    ...) that the files don't tell, or that are to be others; another ``max_length`` adapts the position embeddings,
    which ``Checkpoint.approximate`` then says.

    Raises CheckpointError for a checkpoint that can't be found, read or mapped, TypeError for an unknown keyword.
    """
    overrides = checked_overrides(config)
    return from_files(find(source, revision, cache_dir, local_files_only), overrides, labels)


def from_files(
    files: CheckpointFiles,
    overrides: Mapping[str, Any] | None = None,
    labels: Iterable[str] | str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """The checkpoint that opened files are, with ``checked_overrides`` of its config. Errors as ``load``."""
    overrides = overrides or {}
    fields = model_fields(files.source, files.config)
    known = {**(fields or {}), **overrides}
    tensors = recognise(files.tensors, files.source, known.get("num_hidden_layers"), known.get("qkv_bias"))
    resolved = resolve(files, fields, tensors, overrides, labels)
    weights = canonical_weights(tensors, resolved.config, resolved.file_grid)
    native, time = resolved.file_grid[1], resolved.config.grid[1]
    approximate = None
    if time != native:
        how = "cropped" if time < native else "interpolated"
        approximate = (
            f"{files.source} was trained on {native} patches along time and runs on {time} (max_length="
            f"{resolved.config.max_length}): its position embeddings are {how}, its scores an approximation."
        )
    return Checkpoint(files.source, tensors.layout.name, resolved.config, weights, approximate, files.paths)
