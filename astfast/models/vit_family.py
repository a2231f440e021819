"""The part of ``models.base.Family`` that all families of Vision Transformers share: their forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from astfast.errors import UnsupportedModel
from astfast.models import vit
from astfast.models.base import Model
from astfast.models.vit_config import VitConfig
from astfast.ops import Ops


def merging(model: Model, fraction: float) -> Model:
    """The model with layers that merge tokens, see ``token_merging.counts``. Raises UnsupportedModel for one of a
    family that has no tokens to merge."""
    if fraction == 0.0:
        return model
    if not isinstance(model.weights, vit.Weights):
        raise UnsupportedModel(f"token merging: {model.family.name} models have no tokens to merge; leave it out")
    return replace(model, weights=replace(model.weights, token_merging=fraction))


def without_merging(weights: Any) -> Any:
    """Packed weights of any model, for a forward pass that merges no tokens."""
    return replace(weights, token_merging=0.0) if isinstance(weights, vit.Weights) else weights


def merged_share(weights: Any) -> float:
    """The share of the tokens that layers with such weights merge."""
    return weights.token_merging if isinstance(weights, vit.Weights) else 0.0


class VitFamily:
    """A family whose models are ``vit.Weights`` under a ``VitConfig``; it adds how its checkpoints are read."""

    def pack(self, ops: Ops, weights: vit.Weights) -> vit.Weights:
        return vit.pack(ops, weights)

    def workspace(self, config: VitConfig) -> dict[str, tuple[tuple[int, ...], str]]:
        return vit.workspace(config)

    def shared(self, config: VitConfig) -> tuple[tuple[str, ...], ...]:
        return vit.shared(config)

    def forward(self, ops: Ops, w: vit.Weights, spectrogram: Any, ws: Mapping[str, Any]) -> Any:
        return vit.forward(ops, w, spectrogram, ws)

    def embed(self, ops: Ops, w: vit.Weights, spectrogram: Any, ws: Mapping[str, Any]) -> Any:
        return vit.embed(ops, w, spectrogram, ws)
