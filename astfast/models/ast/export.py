"""Any checkpoint that astfast loads -> a folder in Hugging Face layout, which transformers loads too."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from astfast.checkpoints.lazy_tensor import LazyTensor
from astfast.errors import CheckpointError
from astfast.models.ast.config import ModelConfig
from astfast.models.ast.forward import AstWeights, LastLayer, Layer
from astfast.models.ast.geometry import MODEL_TYPE
from astfast.models.ast.key_layouts import V4
from astfast.models.recognise import load
from astfast.ops import LayerNorm, Linear

Dtype = Literal["float32", "float16"]
SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16"}


def convert(
    source: str | os.PathLike[str] | None,
    folder: str | os.PathLike[str],
    *,
    dtype: Dtype = "float32",
    force: bool = False,
    **options: Any,
) -> tuple[str, ...]:
    """Write ``source`` (see ``checkpoint.load``, which takes ``options``) to ``folder``; returns what to know of it.

    The folder gets config.json, preprocessor_config.json and model.safetensors in the layout of transformers v4. It
    appears whole or not at all. Raises CheckpointError for a source that can't be loaded, and for a folder that isn't
    empty unless ``force``, which then replaces these three files, one at a time, and leaves others alone.
    """
    checkpoint = load(source, **options)
    config = checkpoint.config
    write_folder(config, checkpoint.weights, folder, dtype=dtype, force=force)
    notes = [] if checkpoint.approximate is None else [checkpoint.approximate]
    if checkpoint.weights.head is not None and config.head_layer_norm_eps != config.layer_norm_eps:
        notes.append(
            f"config.json has layer_norm_eps {config.layer_norm_eps:g} and head_layer_norm_eps "
            f"{config.head_layer_norm_eps:g}: transformers ignores the second and uses the first for the classifier too"
        )
    return tuple(notes)


def write_folder(
    config: ModelConfig,
    weights: AstWeights,
    folder: str | os.PathLike[str],
    *,
    dtype: Dtype = "float32",
    force: bool = False,
) -> Path:
    """As ``convert``, from weights whose leaves are anything that ``np.asarray`` takes."""
    target = Path(folder).expanduser().absolute()
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not force):
        raise CheckpointError(
            f"{target} exists and is not an empty folder: choose another, or pass force=True (--force)."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        stage.chmod(0o755)
        _write_safetensors(stage / "model.safetensors", v4_tensors(weights), dtype)
        _write_json(stage / "preprocessor_config.json", _preprocessor_json(config))
        _write_json(stage / "config.json", _config_json(config, dtype, weights.head is not None))
        if target.is_dir():
            for path in sorted(stage.iterdir(), reverse=True):  # config.json last
                path.replace(target / path.name)
        else:
            stage.rename(target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return target


def v4_tensors(weights: AstWeights) -> dict[str, LazyTensor]:
    """Name in the layout of transformers v4 -> tensor of the shape that it has there, read when asked for."""
    encoder = V4.encoder if weights.head is not None else ""
    d = weights.norm.weight.shape[0]
    tensors: dict[str, LazyTensor] = {}

    def add(name: str, pair: LayerNorm | Linear) -> None:
        tensors[f"{name}.weight"] = _lazy(pair.weight)
        tensors[f"{name}.bias"] = _lazy(pair.bias)

    def add_rows(name: str, linear: Linear, part: int) -> None:
        for kind, leaf in (("weight", linear.weight), ("bias", linear.bias)):
            tensors[f"{name}.{kind}"] = _lazy(leaf).rows(part * d, (part + 1) * d)

    embed = weights.embed
    for row, name in enumerate(("cls", "dist")):
        tensors[encoder + V4.names[name]] = _lazy(embed.prefix).rows(row, row + 1).reshape(1, 1, d)
    tensors[encoder + V4.names["position"]] = _lazy(embed.position).reshape(1, *embed.position.shape)
    projection = encoder + V4.names["projection"]
    add(projection, embed.projection)
    tensors[f"{projection}.weight"] = tensors[f"{projection}.weight"].reshape(d, 1, embed.patch_size, embed.patch_size)

    layers: tuple[Layer | LastLayer, ...] = (*weights.layers, weights.last)
    for n, layer in enumerate(layers):
        prefix = encoder + V4.layer.format(n)
        if isinstance(layer, Layer):
            norm1, q, (kv, k, v) = layer.qkv.norm, layer.qkv.linear, (layer.qkv.linear, 1, 2)
        else:
            norm1, q, (kv, k, v) = layer.q.norm, layer.q.linear, (layer.kv.linear, 0, 1)
        add(prefix + V4.names["norm1"], norm1)
        add_rows(prefix + V4.names["q"], q, 0)
        add_rows(prefix + V4.names["k"], kv, k)
        add_rows(prefix + V4.names["v"], kv, v)
        add(prefix + V4.names["proj"], layer.proj)
        add(prefix + V4.names["norm2"], layer.fc1.norm)
        add(prefix + V4.names["fc1"], layer.fc1.linear)
        add(prefix + V4.names["fc2"], layer.fc2)
    add(encoder + V4.names["norm"], weights.norm)
    if weights.head is not None:
        add(V4.head["head.norm"], weights.head.norm)
        add(V4.head["head.linear"], weights.head.linear)
    return tensors


def _lazy(leaf: Any) -> LazyTensor:
    return LazyTensor(leaf.shape, lambda: np.asarray(leaf, np.float32))


def _write_safetensors(path: Path, tensors: Mapping[str, LazyTensor], dtype: Dtype) -> None:
    """One tensor in memory at a time. The metadata is what transformers asks of a file that torch could have saved."""
    size = np.dtype(dtype).itemsize

    def entries() -> Iterator[tuple[str, dict[str, Any]]]:
        start = 0
        for name, tensor in tensors.items():
            stop = start + prod(tensor.shape) * size
            yield name, {"dtype": SAFETENSORS_DTYPES[dtype], "shape": tensor.shape, "data_offsets": [start, stop]}
            start = stop

    header = json.dumps({"__metadata__": {"format": "pt"}, **dict(entries())}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, tensor in tensors.items():
            with np.errstate(over="ignore"):  # found just below
                values = np.asarray(tensor).astype(f"<f{size}")
            if not np.isfinite(values).all():
                raise CheckpointError(f"{name} has values that {dtype} can't hold, or that are no finite numbers.")
            file.write(values.tobytes())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _config_json(config: ModelConfig, dtype: Dtype, has_head: bool) -> dict[str, Any]:
    content: dict[str, Any] = {
        "architectures": ["ASTForAudioClassification" if has_head else "ASTModel"],
        "model_type": MODEL_TYPE,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": config.layer_norm_eps,
        "head_layer_norm_eps": config.head_layer_norm_eps,
        "patch_size": config.patch_size,
        "frequency_stride": config.frequency_stride,
        "time_stride": config.time_stride,
        "max_length": config.max_length,
        "num_mel_bins": config.num_mel_bins,
        "torch_dtype": dtype,
    }
    if has_head:
        content["id2label"] = {str(index): name for index, name in enumerate(config.labels)}
        content["label2id"] = {name: index for index, name in enumerate(config.labels)}
    if config.problem_type is not None:
        content["problem_type"] = config.problem_type
    return content


def _preprocessor_json(config: ModelConfig) -> dict[str, Any]:
    front_end = config.front_end
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "sampling_rate": front_end.sampling_rate,
        "num_mel_bins": front_end.num_mel_bins,
        "max_length": front_end.max_length,
        "mean": front_end.mean,
        "std": front_end.std,
        "do_normalize": front_end.do_normalize,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }
