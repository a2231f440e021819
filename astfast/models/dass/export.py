"""A DASS in the layout of the hub, which the authors' code and astfast load."""

from __future__ import annotations

from typing import Any

import numpy as np

from astfast.checkpoints.lazy_tensor import LazyTensor
from astfast.models.ast.hugging_face import preprocessor_json
from astfast.models.base import Exported
from astfast.models.dass.config import DassConfig
from astfast.models.dass.forward import Block, DassWeights
from astfast.models.dass.hugging_face import EXTRACTORS, config_json
from astfast.models.dass.key_layouts import DIRECTIONS, HUB
from astfast.ops import ConvNorm, LayerNorm, Linear

NOTE = "transformers has no DASS: it needs the authors' modeling_dass.py beside these files to load them"


def exported(config: DassConfig, weights: DassWeights) -> Exported:
    """See ``Family.export``; leaves of ``weights`` are anything that ``np.asarray`` takes."""
    preprocessor = {**preprocessor_json(config.front_end), "feature_extractor_type": EXTRACTORS[0]}
    return Exported(hub_tensors(weights), config_json(config), preprocessor, (NOTE,))


def hub_tensors(weights: DassWeights) -> dict[str, LazyTensor]:
    """Name in the layout of the hub -> tensor of the shape that it has there, read when asked for."""
    encoder = HUB.encoder if weights.head is not None else ""
    tensors: dict[str, LazyTensor] = {}

    def add(name: str, leaf: Any, function: Any, *shape: int) -> None:
        tensors[name] = LazyTensor(shape, lambda: np.ascontiguousarray(function(np.asarray(leaf, np.float32))))

    def add_pair(name: str, pair: LayerNorm | Linear) -> None:
        add(f"{name}.weight", pair.weight, lambda x: x, *pair.weight.shape)
        add(f"{name}.bias", pair.bias, lambda x: x, *pair.bias.shape)

    def add_conv(conv: str, norm: str, w: ConvNorm) -> None:
        n, k = w.conv.weight.shape[0], w.conv.weight.shape[1] // 9
        add(f"{conv}.weight", w.conv.weight, lambda x: x.reshape(n, 3, 3, k).transpose(0, 3, 2, 1), n, k, 3, 3)
        add(f"{conv}.bias", w.conv.bias, lambda x: x, n)
        add_pair(norm, w.norm)

    def add_block(name: str, b: Block) -> None:
        add_pair(f"{name}norm", b.in_proj.norm)
        add_pair(f"{name}op.out_norm", b.out_proj.norm)
        add_pair(f"{name}norm2", b.fc1.norm)
        add_pair(f"{name}mlp.fc1", b.fc1.linear)
        add_pair(f"{name}mlp.fc2", b.fc2)
        for module, linear in (("in_proj", b.in_proj.linear), ("out_proj", b.out_proj.linear)):
            add(f"{name}op.{module}.weight", linear.weight, lambda x: x, *linear.weight.shape)
        _, c, rank = b.scan.weight.shape
        add(
            f"{name}op.conv2d.weight",
            b.conv.weight,
            lambda x: x.reshape(c, 1, 3, 3).transpose(0, 1, 3, 2),
            c,
            1,
            3,
            3,
        )
        for parameter, leaf, *shape in (
            (HUB.x_proj, b.x_proj.weight, 4 * (rank + 2), c),
            (HUB.dt_proj, b.scan.weight, 4 * c, rank),
            ("op.dt_projs_bias", b.scan.bias, 4, c),
            ("op.A_logs", b.scan.log_decay, 4 * c, 1),
            ("op.Ds", b.scan.skip, 4 * c),
        ):
            add(
                name + parameter,
                leaf,
                lambda x, shape=shape: x.reshape(4, -1)[list(DIRECTIONS)].reshape(shape),
                *shape,
            )

    conv0, norm0, conv1, norm1 = (encoder + name for name in HUB.stem)
    add_conv(conv0, norm0, weights.stem)
    for i, stage in enumerate(weights.stages):
        before = f"{encoder}layers.{i - 1}."
        conv, norm = (conv1, norm1) if i == 0 else (before + HUB.down[0], before + HUB.down[1])
        add_conv(conv, norm, stage.down)
        for j, block in enumerate(stage.blocks):
            add_block(f"{encoder}layers.{i}.blocks.{j}.", block)
    add_pair(encoder + HUB.norm, weights.norm)
    if weights.head is not None:
        add_pair(HUB.head, weights.head)
    return tensors
