"""A call of an op is a value: both who can serve it, its kernel or torch's own ops, take the same arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from astfast.kernels.launch import Launch

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Call:
    """One op on one set of tensors. ``result`` names the tensor that the op returns."""

    op: str
    kernel: Callable[..., Launch]  # builds the launch
    torch_op: Callable[..., torch.Tensor]
    clips: Tensors  # arguments with a row a clip
    weights: Tensors
    settings: Mapping[str, Any]  # the arguments that are no tensors
    result: str
    written: tuple[str, ...]  # of ``clips``: written in full, never read
    updated: tuple[str, ...] = ()  # of ``clips``: read, then written
    tuning: Mapping[str, Any] = field(default_factory=dict)  # tile and precision, which only the kernel takes
    rounded: Tensors = field(default_factory=dict)  # weights of which torch's ops take a rounded copy

    @property
    def key(self) -> str:
        """What a verdict is remembered under: op, types, shapes (result, input, weights), words and whole numbers."""
        words = [f"{name}={value}" for name, value in self.settings.items() if isinstance(value, str | int)]
        source = next(iter(self.clips.values()))
        matrices = [x for x in self.weights.values() if x.dim() > 1 and x.element_size() == 1]
        typed = (source, *matrices, self.clips[self.result])
        types = dict.fromkeys(str(x.dtype).removeprefix("torch.") for x in typed)
        shapes = (self.clips[self.result].shape, source.shape, *(x.shape for x in self.weights.values() if x.dim() > 1))
        return " ".join([self.op, *types, *("x".join(map(str, shape)) for shape in shapes), *words])

    def launch(self) -> Launch:
        """The kernel's launch."""
        return self.kernel(**self.clips, **self.weights, **self.settings, **self.tuning)

    def run_torch(self) -> torch.Tensor:
        """Torch's own ops; their result need not be the tensor that ``result`` names."""
        return self.torch_op(**self.clips, **{**self.weights, **self.rounded}, **self.settings)

    def of_first(self, clips: int) -> Call:
        """The same call on its first clips, in outputs of its own: NaN, or a copy of what is updated."""
        return replace(self, clips={name: x[:clips] for name, x in self.clips.items()}).with_own_outputs()

    def with_own_outputs(self) -> Call:
        """The same call, but nothing that it writes is seen outside."""
        own = {name: torch.full_like(self.clips[name], float("nan")) for name in self.written}
        own |= {name: self.clips[name].clone() for name in self.updated}
        return replace(self, clips={**self.clips, **own})

    def in_float64(self) -> Call:
        """The same call on the same numbers, with outputs of its own, in float64 and with exact weights."""
        wide = replace(self, clips=_float64(self.clips), weights=_float64(self.weights), rounded={})
        return wide.with_own_outputs()

    def outputs(self, result: torch.Tensor) -> dict[str, torch.Tensor]:
        """Everything that a run has written, with ``result`` as it was returned."""
        return {name: self.clips[name] for name in (*self.written, *self.updated)} | {self.result: result}


def _float64(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: x.double() if x.is_floating_point() else x for name, x in tensors.items()}
