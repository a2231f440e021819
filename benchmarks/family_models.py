"""CED, PaSST and DASS at published sizes with random weights: their checkpoints, and each in PyTorch as a peer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from astfast.benchmarking.peers import EngineUnderTest
from astfast.engines.base import FloatArray
from tests.cases import dass, timm_vit
from tests.cases.timm_vit import State

Forward = Callable[[State, torch.Tensor], torch.Tensor]  # weights, spectrograms [B, frames, mels] -> logits [B, L]
LABELS = 527


class FamilyModel(NamedTuple):
    """A model of a family, as tensors under its authors' names."""

    file: str  # of the checkpoint
    seconds: float  # of a clip
    state: Callable[[], State]
    forward: Forward


def _ced(width: int, layers: int = 12) -> FamilyModel:
    heads = width // 64

    def forward(w: State, x: torch.Tensor) -> torch.Tensor:
        return timm_vit.ced_logits_of_normalised(w, x, heads, fused=True)

    return FamilyModel(
        f"ced-{width}.pt", 10.0, lambda: timm_vit.random_state(timm_vit.ced_shapes(width, layers, LABELS)), forward
    )


def _passt(stride: int, grid: tuple[int, int], width: int = 768, layers: int = 12) -> FamilyModel:
    def forward(w: State, x: torch.Tensor) -> torch.Tensor:
        return timm_vit.passt_logits(w, x, width // 64, stride, fused=True)

    return FamilyModel(
        f"passt-{width}-s{stride}.pt",
        10.0,
        lambda: timm_vit.random_state(timm_vit.passt_shapes(width, layers, LABELS, grid)),
        forward,
    )


def _dass(name: str, sizes: dass.Sizes, seconds: float = 10.24) -> FamilyModel:
    return FamilyModel(f"dass-{name}.pth", seconds, lambda: dass.random_state(sizes), dass.logits)


MODELS = {
    "ced-tiny": _ced(192),
    "ced-mini": _ced(256),
    "ced-small": _ced(384),
    "ced-base": _ced(768),
    "passt-s-10": _passt(10, (12, 99)),
    "passt-s-16": _passt(16, (8, 62)),
    "dass-small": _dass("small", dass.SMALL),
    "dass-medium": _dass("medium", dass.MEDIUM),
    "tiny": _ced(64, layers=2),  # for the harness's own tests
}


def checkpoint(name: str, cache: Path) -> Path:
    """The checkpoint's file, written once and kept in ``cache``."""
    path = cache / "checkpoints" / MODELS[name].file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(MODELS[name].state()), path)
    return path


def torch_peer(name: str, precision: str, threads: int) -> EngineUnderTest:
    """The model in PyTorch, with fused attention; DASS with a scan that is vectorised over chunks."""
    torch.set_num_threads(threads)
    dtype = getattr(torch, precision)
    model = MODELS[name]
    w = {key: x.to(dtype) for key, x in model.state().items()}

    def run(features: FloatArray) -> FloatArray:
        with torch.inference_mode():
            logits = model.forward(w, torch.from_numpy(features).to(dtype))
        result: FloatArray = logits.float().numpy()
        return result

    isa = torch.backends.cpu.get_cpu_capability().lower()
    return EngineUnderTest("PyTorch", precision, isa, torch.__version__, run)
