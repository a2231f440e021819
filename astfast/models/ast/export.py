"""An AST in the layout of transformers v4, which transformers and astfast load."""

from __future__ import annotations

from typing import Any

import numpy as np

from astfast.checkpoints.lazy_tensor import LazyTensor
from astfast.models import vit
from astfast.models.ast.config import PREFIX, AstConfig
from astfast.models.ast.hugging_face import config_json, preprocessor_json
from astfast.models.ast.key_layouts import V4
from astfast.models.base import Exported
from astfast.models.vit import LastLayer, Layer
from astfast.ops import LayerNorm, Linear


def exported(config: AstConfig, weights: vit.Weights) -> Exported:
    """See ``Family.export``; leaves of ``weights`` are anything that ``np.asarray`` takes."""
    notes: tuple[str, ...] = ()
    if weights.head is not None and config.head_layer_norm_eps != config.layer_norm_eps:
        notes = (
            f"config.json has layer_norm_eps {config.layer_norm_eps:g} and head_layer_norm_eps "
            f"{config.head_layer_norm_eps:g}: transformers ignores the second and uses the first for the classifier "
            "too",
        )
    return Exported(v4_tensors(weights), config_json(config), preprocessor_json(config.front_end), notes)


def v4_tensors(weights: vit.Weights) -> dict[str, LazyTensor]:
    """Name in the layout of transformers v4 -> tensor of the shape that it has there, read when asked for."""
    encoder = V4.encoder if weights.head is not None else ""
    d = weights.norm.weight.shape[0]
    tensors: dict[str, LazyTensor] = {}

    def add(name: str, pair: LayerNorm | Linear) -> None:
        tensors[f"{name}.weight"] = _lazy(pair.weight)
        tensors[f"{name}.bias"] = _lazy(pair.bias)

    def add_rows(name: str, linear: Linear, part: int) -> None:
        for parameter, leaf in (("weight", linear.weight), ("bias", linear.bias)):
            tensors[f"{name}.{parameter}"] = _lazy(leaf).rows(part * d, (part + 1) * d)

    embed = weights.embed
    for row, name in enumerate(PREFIX):
        tensors[encoder + V4.names[name]] = _lazy(embed.prefix).rows(row, row + 1).reshape(1, 1, d)
    tensors[encoder + V4.names["position"]] = _lazy(embed.position).reshape(1, *embed.position.shape)
    projection = encoder + V4.names["projection"]
    add(projection, embed.projection)
    tensors[f"{projection}.weight"] = tensors[f"{projection}.weight"].reshape(d, 1, embed.patch_size, embed.patch_size)

    assert weights.last is not None
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
