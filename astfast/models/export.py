"""Any checkpoint that astfast loads -> a folder in Hugging Face layout, which transformers loads too."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astfast.checkpoints.safetensors import WRITTEN, Dtype, write_safetensors
from astfast.checkpoints.sources import CONFIG, PREPROCESSOR
from astfast.errors import CheckpointError
from astfast.models.base import Exported, Model
from astfast.models.recognise import load


def convert(
    source: str | os.PathLike[str] | None,
    folder: str | os.PathLike[str],
    *,
    dtype: Dtype = "float32",
    force: bool = False,
    **options: Any,
) -> tuple[str, ...]:
    """Writes a checkpoint to a folder in Hugging Face layout; returns notes on what differs from the original.

    ``source``, ``options``: as in ``models.recognise.load``.
    ``folder``: gets config.json, preprocessor_config.json and model.safetensors. It appears whole or not at all.
    ``dtype``: of the tensors in the file.
    ``force``: replace these three files, one at a time, in a folder that isn't empty; others in it stay.

    Raises CheckpointError for a source that can't be loaded or has no such layout, for a folder that isn't empty unless
    ``force``, and for one that can't be written.
    """
    if dtype not in WRITTEN:
        raise ValueError(f"dtype is {dtype!r}: use one of {', '.join(WRITTEN)}")
    checkpoint = load(source, **options)
    return (*checkpoint.warnings, *write_folder(checkpoint, folder, dtype=dtype, force=force))


def write_folder(
    model: Model, folder: str | os.PathLike[str], *, dtype: Dtype = "float32", force: bool = False
) -> tuple[str, ...]:
    """As ``convert``, from a model whose weights' leaves are anything that ``np.asarray`` takes."""
    exported = model.family.export(model.config, model.weights)
    try:
        target = Path(folder).expanduser().absolute()
        if target.is_file() or (target.is_dir() and any(target.iterdir()) and not force):
            raise CheckpointError(f"{target} exists and is not an empty folder: choose another, or pass force=True.")
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
