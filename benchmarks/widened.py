"""AST-base made of the built-in model: weights of a trained model, at sizes of which none can be downloaded.

The hidden state is several copies of the built-in model's side by side, so that LayerNorms see the same mean and
variance, each copy has the heads of the original, and a linear layer reads the mean of the copies. On the patches of
the built-in model the logits are the same; on others, positions lie between those of the original.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import astfast
from astfast.engines.base import FloatArray
from astfast.models.ast.config import PREFIX
from benchmarks.models import GEOMETRIES

FITTING = ("ast-base", "ast-5s")  # geometries of as many layers, and a multiple of the built-in model's width


def checkpoint(geometry: str, cache: Path) -> Path:
    """Folder of a Hugging Face checkpoint of this geometry, written once and kept in ``cache``. ValueError for one that
    is not of several copies of the built-in model."""
    if geometry not in FITTING:
        raise ValueError(f"{geometry} is not made of the built-in model: {' and '.join(FITTING)} are")
    folder = cache / "checkpoints" / f"{geometry}-of-built-in"
    if (folder / "config.json").exists():
        return folder
    from safetensors.numpy import load_file, save_file

    sizes = GEOMETRIES[geometry]
    with tempfile.TemporaryDirectory() as original:
        astfast.convert(None, Path(original, "model"))
        tensors = load_file(Path(original, "model", "model.safetensors"))
        config, preprocessor = (
            json.loads(Path(original, "model", name).read_text())
            for name in ("config.json", "preprocessor_config.json")
        )
    copies = sizes.hidden_size // config["hidden_size"]
    wide = {name: _widened(name, tensor, copies) for name, tensor in tensors.items()}
    (positions,) = (name for name in wide if name.endswith("position_embeddings"))
    strides = {"time_stride": sizes.time_stride, "frequency_stride": sizes.frequency_stride}
    new = {**config, **strides, "max_length": sizes.max_length}
    wide[positions] = moved(wide[positions], config, new)
    new |= {name: copies * config[name] for name in ("hidden_size", "num_attention_heads", "intermediate_size")}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(wide, folder / "model.safetensors")
    (folder / "preprocessor_config.json").write_text(json.dumps({**preprocessor, "max_length": sizes.max_length}))
    (folder / "config.json").write_text(json.dumps(new))
    return folder


def _widened(name: str, tensor: FloatArray, copies: int) -> FloatArray:
    """A tensor of the built-in model for so many copies of its hidden state."""
    if name == "classifier.dense.bias":
        return tensor
    if name == "classifier.dense.weight":  # [L, D]
        return np.tile(tensor, (1, copies)) / copies
    if tensor.ndim == 2:  # [N, K]: each copy reads the mean of all
        return np.tile(tensor, (copies, copies)) / copies
    if tensor.ndim == 3:  # tokens and positions [1, T, D]
        return np.tile(tensor, copies)
    return np.tile(tensor, (copies, *[1] * (tensor.ndim - 1)))  # biases [N], LayerNorms [D], patches [D, 1, 16, 16]


def moved(positions: FloatArray, old: dict[str, Any], new: dict[str, Any]) -> FloatArray:
    """Positions [1, P + F T, D] -> [1, P + F' T', D], linear between those of the original: over frequency by where a
    patch begins, over time by the share of the input before it."""
    (rows, old_rows), (columns, old_columns) = (
        [(config[size] - config["patch_size"]) // config[stride] + 1 for config in (new, old)]
        for size, stride in (("num_mel_bins", "frequency_stride"), ("max_length", "time_stride"))
    )
    grid = positions[0, len(PREFIX) :].reshape(old_rows, old_columns, -1)
    across = np.arange(columns) * new["time_stride"] / new["max_length"]
    grid = _between(grid, 1, across * old["max_length"] / old["time_stride"])
    grid = _between(grid, 0, np.arange(rows) * new["frequency_stride"] / old["frequency_stride"])
    return np.concatenate([positions[:, : len(PREFIX)], grid.reshape(1, rows * columns, -1)], axis=1)


def _between(values: FloatArray, axis: int, at: FloatArray) -> FloatArray:
    """Values at fractional places along an axis, the last ones beyond its end."""
    at = np.minimum(at, values.shape[axis] - 1)
    left = np.floor(at).astype(np.intp)
    right = np.minimum(left + 1, values.shape[axis] - 1)
    share = np.expand_dims((at - left).astype(np.float32), [d for d in range(values.ndim) if d != axis])
    found: FloatArray = values.take(left, axis) * (1 - share) + values.take(right, axis) * share
    return found
