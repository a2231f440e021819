"""A model as a torch.nn.Module made of ``torch.ops.astfast``, for torch.compile and torch.export.

The forward pass is that of the model's family, with the ops of ``torch_ops`` as its backend and weights as buffers, so
that an exported program carries them. ``astfast.load`` and ``astfast.accelerate`` are faster: they pack once, reuse
their buffers, and write the residual stream in place.
"""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch

from astfast.errors import CheckpointError
from astfast.integrations import torch_ops, transformers
from astfast.models import recognise, vit
from astfast.models.base import Checkpoint
from astfast.ops import Embed, Head, LayerNorm, Linear, NormLinear, map_arrays, patch_grid


class AstModule(torch.nn.Module):
    """Normalised log-mel spectrograms [B, max_length, num_mel_bins] float32 -> logits [B, L] float32.

    ``model``: what ``astfast.load`` takes, or a live transformers ASTForAudioClassification. Weights are buffers:
    matrices in ``dtype``, the rest in float32. Raises CheckpointError as ``astfast.load`` does.
    """

    def __init__(
        self, model: str | os.PathLike[str] | torch.nn.Module | None, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        loaded: Checkpoint
        if isinstance(model, torch.nn.Module):
            loaded = recognise.from_files(transformers.files_of(model))
        else:
            loaded = recognise.load(model)
        if not loaded.config.num_labels:
            raise CheckpointError(
                f"{loaded.source} has no classifier, and an AstModule returns its logits: pass another."
            )
        if not isinstance(loaded.weights, vit.Weights):
            raise CheckpointError(
                f"{loaded.source} is a {loaded.family.name}; an AstModule runs Vision Transformers: use astfast.load."
            )
        self.family, self.config = loaded.family, loaded.config
        self.ops = TorchOps(loaded.config.num_attention_heads, dtype)
        self.weights = Node(self.family.pack(self.ops, loaded.weights))  # type: ignore[arg-type]
        self.outputs = dict.fromkeys(self.family.workspace(loaded.config))  # ops return new tensors

    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.family.forward(self.ops, self.weights, spectrogram, self.outputs)  # type: ignore[arg-type]
        return logits


class Node(torch.nn.Module):
    """A dataclass of weights as a module: the same attributes, but tensors are buffers and tuples lists of nodes."""

    def __init__(self, w: Any) -> None:
        super().__init__()
        for f in fields(w):
            value = getattr(w, f.name)
            if isinstance(value, torch.Tensor):
                self.register_buffer(f.name, value)
            elif isinstance(value, tuple):
                setattr(self, f.name, torch.nn.ModuleList(map(Node, value)))
            else:
                setattr(self, f.name, Node(value) if is_dataclass(value) else value)


class TorchOps:
    """The part of the Ops protocol that a forward pass from a spectrogram needs, on ``torch.ops.astfast``."""

    def __init__(self, heads: int, dtype: torch.dtype) -> None:
        self.heads = heads
        self.dtype = dtype

    def pack_embed(self, w: Embed) -> Embed:
        return replace(map_arrays(_tensor, w), projection=self.pack_linear(w.projection))

    def pack_norm_linear(self, w: NormLinear, value_columns: int = 0) -> NormLinear:
        return NormLinear(self.pack_norm(w.norm), self.pack_linear(w.linear))

    def pack_linear(self, w: Linear, input_layer: NormLinear | None = None, into: str = "stream") -> Linear:
        packed = map_arrays(_tensor, w)
        return replace(packed, weight=packed.weight.to(self.dtype))

    def pack_norm(self, w: LayerNorm) -> LayerNorm:
        return map_arrays(_tensor, w)

    def pack_head(self, w: Head) -> Head:
        return map_arrays(_tensor, w)

    def patch_embed(self, spectrogram: torch.Tensor, w: Any, out: None) -> Any:
        p, geometry = w.projection, (w.patch_size, w.frequency_stride, w.time_stride)
        _, frames, mels = spectrogram.shape
        grid, position, prefix = patch_grid(frames, mels, *geometry), w.position, len(w.prefix)
        if prefix + grid[0] * grid[1] < len(position):  # fewer patches along time: each row has the first positions
            patches = position[prefix:].unflatten(0, (grid[0], -1))[:, : grid[1]].flatten(0, 1)
            position = torch.cat((position[:prefix], patches))
        return torch_ops.patch_embed(spectrogram, p.weight, p.bias, w.prefix, position, *geometry)

    def norm_linear(self, x: torch.Tensor, w: Any, out: None, activation: str | None = None) -> Any:
        norm, linear = w.norm, w.linear
        return torch_ops.norm_linear(
            x, norm.weight, norm.bias, norm.eps, linear.weight, linear.bias, activation == "gelu"
        )

    def attention(self, q: torch.Tensor, kv: torch.Tensor, out: None, sizes: None = None) -> Any:
        return torch_ops.attention(q, kv, self.heads)

    def linear_residual(self, x: torch.Tensor, w: Any, residual: torch.Tensor) -> Any:
        return torch_ops.linear_residual(x, w.weight, w.bias, residual)

    def pool(self, x: torch.Tensor, w: Any, out: None, sizes: None = None) -> Any:
        return torch_ops.pool(x, w.weight, w.bias, w.eps)

    def head(self, x: torch.Tensor, w: Any, out: None) -> Any:
        return torch_ops.head(x, w.norm.weight, w.norm.bias, w.norm.eps, w.linear.weight, w.linear.bias)


def _tensor(x: Any) -> Any:
    return torch.from_numpy(np.array(x, dtype=np.float32))
