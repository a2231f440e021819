"""CED, PaSST, MAEST and DASS at published sizes with random weights: checkpoints, and each in PyTorch as a peer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch

from astfast.benchmarking.peers import EngineUnderTest
from astfast.engines.base import FloatArray
from astfast.models.ced.front_end import front_end
from astfast.models.dass.config import DassConfig
from astfast.models.vit_config import VitConfig
from tests.cases import dass, timm_vit
from tests.cases.timm_vit import State

Forward = Callable[[State, torch.Tensor], torch.Tensor]  # weights, spectrograms [B, frames, mels] -> logits [B, L]
LABELS, STYLES = 527, 400  # of AudioSet, of MAEST


class FamilyModel(NamedTuple):
    """A model of a family, as tensors under its authors' names."""

    seconds: float  # of a clip
    state: Callable[[], State]
    forward: Forward
    options: Mapping[str, int] = MappingProxyType({})  # of loading it


class Output(NamedTuple):
    """What a model returns, as transformers' models do."""

    logits: torch.Tensor


def _ced(width: int, layers: int = 12) -> FamilyModel:
    heads = width // 64

    def forward(w: State, x: torch.Tensor) -> torch.Tensor:
        return timm_vit.ced_logits_of_normalised(w, x, heads, fused=True)

    return FamilyModel(10.0, lambda: timm_vit.random_state(timm_vit.ced_shapes(width, layers, LABELS)), forward)


def _passt(
    stride: int, grid: tuple[int, int], width: int = 768, layers: int = 12, labels: int = LABELS, seconds: float = 10.0
) -> FamilyModel:
    """Of PaSST, and of MAEST as its authors publish it."""

    def forward(w: State, x: torch.Tensor) -> torch.Tensor:
        return timm_vit.passt_logits(w, x, width // 64, stride, fused=True)

    shapes = timm_vit.passt_shapes(width, layers, labels, grid)
    return FamilyModel(seconds, lambda: timm_vit.random_state(shapes), forward)


def _dass(sizes: dass.Sizes) -> FamilyModel:
    return FamilyModel(10.24, lambda: dass.random_state(sizes), dass.logits)


MODELS = {
    "ced-tiny": _ced(192),
    "ced-mini": _ced(256),
    "ced-small": _ced(384),
    "ced-base": _ced(768),
    "passt-s-10": _passt(10, (12, 99)),
    "passt-s-16": _passt(16, (8, 62)),
    "maest-30s": _passt(10, (9, 187), labels=STYLES, seconds=30.0),
    "dass-small": _dass(dass.SMALL),
    "dass-medium": _dass(dass.MEDIUM),
    # for the harness's own tests
    "tiny-ced": _ced(64, layers=2)._replace(options={"max_length": 48}),
    "tiny-passt": _passt(10, (12, 99), 64, layers=2)._replace(options={"max_length": 32}),
    "tiny-maest": _passt(10, (9, 62), 64, layers=2, labels=STYLES)._replace(options={"max_length": 32}),
    "tiny-dass": _dass(dass.Sizes((1, 1), (16, 24)))._replace(options={"max_length": 16, "num_mel_bins": 16}),
}


def compiled_apart() -> tuple[VitConfig, DassConfig]:
    """Those that run_gpu.py times whose layers are not as wide as AST-base's: CED mini and DASS small."""
    labels = tuple(map(str, range(LABELS)))
    ced = VitConfig(
        labels=labels, front_end=front_end(), hidden_size=256, num_attention_heads=4, intermediate_size=1024,
        frequency_stride=16, time_stride=16, prefix_tokens=0,
    )  # fmt: skip
    return ced, DassConfig(labels=labels)


def checkpoint(name: str, cache: Path) -> Path:
    """The checkpoint's file, written once and kept in ``cache``."""
    path = cache / "checkpoints" / f"{name}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(MODELS[name].state()), path)
    return path


def torch_model(name: str, precision: str, device: str = "cpu") -> Callable[[torch.Tensor], Output]:
    """The model in PyTorch, with fused attention; DASS with a scan that is vectorised over chunks."""
    dtype, model = getattr(torch, precision), MODELS[name]
    w = {key: x.to(device, dtype) for key, x in model.state().items()}
    return lambda x: Output(model.forward(w, x))


def torch_peer(name: str, precision: str, threads: int) -> EngineUnderTest:
    """``torch_model`` on the CPU."""
    torch.set_num_threads(threads)
    model = torch_model(name, precision)

    def run(features: FloatArray) -> FloatArray:
        with torch.inference_mode():
            logits = model(torch.from_numpy(features).to(getattr(torch, precision))).logits
        result: FloatArray = logits.float().numpy()
        return result

    isa = torch.backends.cpu.get_cpu_capability().lower()
    return EngineUnderTest("PyTorch", precision, isa, torch.__version__, run)
