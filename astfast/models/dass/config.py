"""Config of a DASS model: sizes of its stages, and its front end."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from astfast.errors import CheckpointError
from astfast.front_end import KaldiFbank
from astfast.models.base import ModelConfig
from astfast.models.fields import check_spectrogram
from astfast.ops import halved

# Positions of images, in all blocks, for each parameter: 0.001 for DASS small, 0.03 for it on 30,000 frames. A file
# that asks for more takes seconds a clip for each megabyte of it; what is below the floor costs little in any model.
MAX_VISITS_PER_PARAMETER, FREE_VISITS = 4, 10**6


@dataclass(frozen=True, kw_only=True)
class DassConfig(ModelConfig):
    """Sizes of a DASS checkpoint, as its tensors have them; ``depths`` and ``dims`` as in its Hugging Face config.

    The image is the spectrogram [frames, mel bins] as it lies; the stem quarters it, each stage but the first halves
    it again. There are no positions: a model runs at any length.
    """

    depths: tuple[int, ...] = (2, 2, 8, 2)  # blocks of each stage
    dims: tuple[int, ...] = (96, 192, 384, 768)  # channels of each stage
    ranks: tuple[int, ...] = (6, 12, 24, 48)  # of the steps of each stage's scans
    mlp_dims: tuple[int, ...] = (384, 768, 1536, 3072)  # of the hidden layer of each stage's MLPs
    stem_dim: int = 48  # channels between the stem's two convolutions
    front_end: KaldiFbank = field(default_factory=KaldiFbank)

    def __post_init__(self) -> None:
        check_spectrogram(self.max_length, self.num_mel_bins)
        images = zip(self.grids[1:], self.depths, strict=True)
        visits = sum(prod(grid) * depth for grid, depth in images)
        sizes = zip(self.depths, self.dims, self.mlp_dims, strict=True)
        parameters = sum(depth * 2 * dim * (dim + mlp) for depth, dim, mlp in sizes)
        if visits > max(FREE_VISITS, MAX_VISITS_PER_PARAMETER * parameters):
            raise CheckpointError(
                f"a spectrogram of {self.max_length} frames x {self.num_mel_bins} mel bins makes {visits:,} positions "
                f"in blocks, more than {MAX_VISITS_PER_PARAMETER} for each of the model's {parameters:,} parameters. "
                "Check max_length, num_mel_bins and depths."
            )

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(rows along time, columns along mel) of the image after the stem's first convolution and in each stage."""
        grids = [halved((self.max_length, self.num_mel_bins))]
        for _ in self.dims:
            grids.append(halved(grids[-1]))
        return tuple(grids)

    @property
    def num_tokens(self) -> int:
        """Positions of the first stage, the largest image that blocks see."""
        return prod(self.grids[1])

    @property
    def embedding_size(self) -> int:
        return self.dims[-1]

    @property
    def num_attention_heads(self) -> int:
        return 1
