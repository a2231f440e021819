"""DASS for the benchmarks: random checkpoints of published sizes, plain PyTorch to compare with, operation counts."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from astfast.front_end import KaldiFbank
from astfast.models.dass.config import DassConfig
from tests.cases import dass


@dataclass(frozen=True)
class DassGeometry:
    """Sizes of a published model; the other sizes follow from them."""

    sizes: dass.Sizes
    max_length: int  # frames

    def model_config(self) -> DassConfig:
        """The config of the same sizes in astfast."""
        sizes = self.sizes
        return DassConfig(
            depths=sizes.depths,
            dims=sizes.dims,
            ranks=tuple(map(sizes.rank, range(len(sizes.dims)))),
            mlp_dims=tuple(4 * dim for dim in sizes.dims),
            stem_dim=sizes.dims[0] // 2,
            labels=tuple(f"sound {i}" for i in range(sizes.labels)),
            front_end=KaldiFbank(max_length=self.max_length, mean=dass.MEAN, std=dass.STD),
        )

    def write_checkpoint(self, folder: Path) -> None:
        """The checkpoint in the hub's layout."""
        dass.write_hub(dass.random_state(self.sizes), self.sizes, folder, self.max_length)

    def torch_model(self, precision: str = "float32") -> Any:
        """The same weights in plain PyTorch with a vectorised scan, as a transformers model is called."""
        import torch

        state = {name: tensor.to(getattr(torch, precision)) for name, tensor in dass.random_state(self.sizes).items()}
        return lambda features: SimpleNamespace(logits=dass.logits(state, features))


GEOMETRIES = {"dass-small": DassGeometry(dass.SMALL, 1024), "dass-medium": DassGeometry(dass.MEDIUM, 1024)}


def operations(config: DassConfig) -> float:
    """Multiplications and additions in the products and convolutions of one clip; scans are not counted."""
    stem, *grids = map(prod, config.grids)
    total = 2 * stem * 9 * config.stem_dim
    widths = (config.stem_dim, *config.dims)
    for i, tokens in enumerate(grids):
        c = config.dims[i]
        block = 2 * c * c + 9 * c + 4 * (config.ranks[i] + 2) * c + 4 * config.ranks[i] * c + 2 * config.mlp_dims[i] * c
        total += 2 * tokens * (9 * widths[i] * c + config.depths[i] * block)
    return float(total + 2 * config.dims[-1] * config.num_labels)
