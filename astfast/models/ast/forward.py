"""Forward pass of the Audio Spectrogram Transformer (Gong et al. 2021, https://arxiv.org/abs/2104.01778).

Shapes: B clips, T tokens (cls, dist, F x T' patches), D hidden, L labels. The layers are those of ``models/vit.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from astfast.models import vit
from astfast.models.ast.config import PREFIX, AstConfig
from astfast.ops import Embed, Head, LayerNorm, Ops


@dataclass(frozen=True)
class AstWeights:
    """Weights that the forward pass reads; leaves are arrays as read, or a backend's packed form of them."""

    embed: Embed
    layers: tuple[vit.Layer, ...]
    last: vit.LastLayer
    norm: LayerNorm  # the final LN
    head: Head | None  # None for a checkpoint without a classifier


def pack(ops: Ops, w: AstWeights) -> AstWeights:
    """The same weights with every leaf in the backend's own layout; leaves are read one at a time."""
    layers = tuple(vit.pack_layer(ops, layer) for layer in w.layers)
    last = vit.pack_last_layer(ops, w.last)
    head = None if w.head is None else ops.pack_head(w.head)
    return AstWeights(ops.pack_embed(w.embed), layers, last, ops.pack_norm(w.norm), head)


def forward(ops: Ops, w: AstWeights, spectrogram: Any, ws: Mapping[str, Any]) -> Any:
    """Normalised log-mel spectrogram [B, frames, mels] -> logits [B, L], float32."""
    return ops.head(embed(ops, w, spectrogram, ws), w.head, ws["logits"])


def embed(ops: Ops, w: AstWeights, spectrogram: Any, ws: Mapping[str, Any]) -> Any:
    """Normalised log-mel spectrogram [B, frames, mels] -> mean of cls and dist after the final LN [B, D], float32."""
    x = ops.patch_embed(spectrogram, w.embed, ws["tokens"])  # [B, T, D]
    return ops.pool(vit.encode(ops, w.layers, w.last, x, ws), w.norm, ws["embedding"])


def workspace(config: AstConfig) -> dict[str, tuple[tuple[int, ...], str]]:
    """Every buffer of the forward pass, see ``Family.workspace``."""
    return {
        "spectrogram": ((config.max_length, config.num_mel_bins), "output"),
        **vit.workspace(config.num_tokens, config.hidden_size, config.intermediate_size, len(PREFIX)),
        "embedding": ((config.hidden_size,), "output"),
        "logits": ((config.num_labels,), "output"),
    }
