"""Postprocessing of model outputs on the GPU, so that fewer bytes are downloaded: identity, and activation with top-k.

The definitions are those of ``astfast.scores``, on tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Postprocess = Callable[
    [torch.Tensor], Sequence[torch.Tensor]
]  # output [B, ..] -> the tensors to download, [B, ..] each


def identity(x: torch.Tensor) -> tuple[torch.Tensor]:
    """Postprocess that returns the output unchanged."""
    return (x,)


def top_k_postprocess(k: int, activation: str) -> Postprocess:
    """Postprocess of logits [B, L]: the k best scores [B, k] float32, best first, and the indices [B, k] int64 of their
    labels. ``activation`` as ``scores.activation_of`` returns it."""

    def postprocess(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return top_k(activate(logits, activation), k)

    return postprocess


def activate(logits: torch.Tensor, activation: str) -> torch.Tensor:
    """``scores.activate``: logits [B, L] -> scores [B, L] float32, computed in float64."""
    x = logits.double()
    if activation == "sigmoid":
        x = x.sigmoid()
    elif activation == "softmax":
        x = x.softmax(-1)
    return x.float()


def top_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``scores.top_k``: the k best of [B, L] and their indices; ties by index, which ``torch.topk`` leaves open."""
    best = torch.sort(-scores, dim=-1, stable=True).indices[:, :k]
    return scores.gather(-1, best), best
