"""Calls of GPU ops as values, which a Triton kernel and PyTorch's ops can both run with the same arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from astfast.kernels.launch import Launch
from astfast.kernels.tuning import Tile

Tensors = Mapping[str, torch.Tensor]


def largest(exact: torch.Tensor) -> torch.Tensor:
    """The sensitivity (see ``OpCall``) of a result that is a sum itself: its largest element, for all of them."""
    return exact.abs().max()


@dataclass(frozen=True)
class OpCall:
    """One op on one set of tensors."""

    op: str  # name of the op, as in the Ops protocol
    kernel: Callable[..., Launch]  # builds the kernel's launch
    torch_op: Callable[..., torch.Tensor]
    clips: Tensors  # arguments whose first dimension is the batch
    weights: Tensors
    settings: Mapping[str, Any]  # arguments that are no tensors
    result: str  # name of the tensor in ``clips`` that the op returns
    written: tuple[str, ...]  # names in ``clips`` of tensors that are written in full and never read
    updated: tuple[str, ...] = ()  # names in ``clips`` of tensors that are read, then written
    tuning: Mapping[str, Any] = field(default_factory=dict)  # arguments of the kernel only: tile and precision
    rounded: Tensors = field(default_factory=dict)  # rounded copies of weights that PyTorch's ops take instead
    variant: str = ""  # name of a further kernel of the op
    others: tuple[OpCall, ...] = ()  # the same on further kernels
    # Of the exact result: how far each element moves per relative change of the largest sum that it comes from.
    sensitivity: Callable[[torch.Tensor], torch.Tensor] = largest

    @property
    def key(self) -> str:
        """Key of the cache: op, types, shapes (result, input, weights), the settings that are words or integers, and
        the kernel's tile and precision. Rows of a clip count to a quarter of a power of two: clips of all lengths would
        take minutes to time."""
        words = [f"{name}={value}" for name, value in self.settings.items() if isinstance(value, str | int)]
        words += [f"{name}={value}" for name, value in self.tuning.items()]
        source = next(iter(self.clips.values()))
        matrices = [x for x in self.weights.values() if x.dim() > 1 and x.element_size() == 1]
        typed = (source, *matrices, self.clips[self.result])
        types = dict.fromkeys(str(x.dtype).removeprefix("torch.") for x in typed)
        clips = (_rounded_rows(x.shape) for x in (self.clips[self.result], source))
        shapes = (*clips, *(x.shape for x in self.weights.values() if x.dim() > 1))
        return " ".join(
            [f"{self.variant} {self.op}".strip(), *types, *("x".join(map(str, shape)) for shape in shapes), *words]
        )

    def on(self, variant: str, kernel: Callable[..., Launch], tuning: Mapping[str, Any]) -> OpCall:
        """The same call on a further kernel."""
        return replace(self, variant=variant, kernel=kernel, tuning=tuning)

    def with_tiles(self, tiles: Iterable[Tile]) -> OpCall:
        """The call with its own kernel of other tiles as further kernels."""
        others = (self.on(str(tile), self.kernel, {**self.tuning, "tile": tile}) for tile in tiles)
        return replace(self, others=(*self.others, *others))

    def launch(self) -> Launch:
        """The launch of the kernel on these arguments."""
        return self.kernel(**self.clips, **self.weights, **self.settings, **self.tuning)

    def run_torch(self) -> torch.Tensor:
        """Runs PyTorch's ops. They may return a tensor of their own in place of the one that ``result`` names."""
        return self.torch_op(**self.clips, **{**self.weights, **self.rounded}, **self.settings)

    def of_first(self, clips: int) -> OpCall:
        """The same call on the first clips, with outputs of its own."""
        return replace(self, clips={name: x[:clips] for name, x in self.clips.items()}).with_own_outputs()

    def with_own_outputs(self) -> OpCall:
        """The same call with outputs of its own: NaN (-1) where it only writes, copies of what it updates."""
        own = {name: _unwritten(self.clips[name]) for name in self.written}
        own |= {name: self.clips[name].clone() for name in self.updated}
        return replace(self, clips={**self.clips, **own})

    def in_float64(self) -> OpCall:
        """The same call in float64 on the same numbers and exact weights, with outputs of its own."""
        wide = replace(self, clips=_float64(self.clips), weights=_float64(self.weights), rounded={})
        return wide.with_own_outputs()

    def outputs(self, result: torch.Tensor) -> dict[str, torch.Tensor]:
        """All tensors that a run has written, by name; ``result`` is what it returned."""
        return {name: self.clips[name] for name in (*self.written, *self.updated)} | {self.result: result}


def _rounded_rows(shape: torch.Size) -> tuple[int, ...]:
    """The shape of a tensor of clips, its rows rounded up to three significant bits where it has more dimensions."""
    if len(shape) < 3:
        return shape
    step = 1 << max(shape[1].bit_length() - 3, 0)
    return (shape[0], -(-shape[1] // step) * step, *shape[2:])


def _unwritten(x: torch.Tensor) -> torch.Tensor:
    return torch.full_like(x, float("nan") if x.is_floating_point() else -1)


def _float64(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: x.double() if x.is_floating_point() else x for name, x in tensors.items()}
