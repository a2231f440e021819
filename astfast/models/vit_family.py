"""The part of ``models.base.Family`` that all families of Vision Transformers share: their forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from astfast.models import vit
from astfast.models.vit_config import VitConfig
from astfast.ops import Ops


class VitFamily:
    """A family whose models are ``vit.Weights`` under a ``VitConfig``; it adds how its checkpoints are read."""

    def pack(self, ops: Ops, weights: vit.Weights) -> vit.Weights:
        return vit.pack(ops, weights)

    def workspace(self, config: VitConfig) -> dict[str, tuple[tuple[int, ...], str]]:
        return vit.workspace(config)

    def forward(self, ops: Ops, w: vit.Weights, spectrogram: Any, ws: Mapping[str, Any]) -> Any:
        return vit.forward(ops, w, spectrogram, ws)

    def embed(self, ops: Ops, w: vit.Weights, spectrogram: Any, ws: Mapping[str, Any]) -> Any:
        return vit.embed(ops, w, spectrogram, ws)
