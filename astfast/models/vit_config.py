"""Config of a Vision Transformer over spectrograms, of whichever family: its geometry, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from astfast.errors import CheckpointError
from astfast.front_end import FrontEnd, KaldiFbank
from astfast.models.base import ModelConfig
from astfast.models.fields import MAX_TOKENS, typed
from astfast.ops import patch_grid

SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("patch_size", "frequency_stride", "time_stride", "num_mel_bins", "max_length"),
)


@dataclass(frozen=True, kw_only=True)
class VitConfig(ModelConfig):
    """Geometry, labels and front end of a checkpoint, under the names of an AST's Hugging Face config.

    The spectrogram is [frames, mel bins]; patches are taken with ``frequency_stride`` along mel and ``time_stride``
    along time. Raises CheckpointError for a geometry that makes no model.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    patch_size: int = 16
    frequency_stride: int = 10
    time_stride: int = 10
    layer_norm_eps: float = 1e-12  # of the layers and the final norm
    head_layer_norm_eps: float = 1e-12  # of the classifier's own norm
    prefix_tokens: int = 2  # cls and dist, off which the logits are read; off all tokens where there are none
    front_end: FrontEnd = field(default_factory=KaldiFbank)

    def __post_init__(self) -> None:
        typed(vars(self) | {"num_mel_bins": self.num_mel_bins, "max_length": self.max_length}, SIZES, "the geometry")
        if self.hidden_size % self.num_attention_heads:
            raise CheckpointError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}. "
                "Check the checkpoint's config.json, or pass num_attention_heads=."
            )
        if min(self.num_mel_bins, self.max_length) < self.patch_size:
            raise CheckpointError(
                f"a spectrogram of {self.max_length} frames x {self.num_mel_bins} mel bins holds no patch of "
                f"{self.patch_size} x {self.patch_size}. Check max_length and num_mel_bins."
            )
        if self.num_tokens > MAX_TOKENS:
            raise CheckpointError(
                f"{self.grid[0]} x {self.grid[1]} patches are more than {MAX_TOKENS} tokens. Check max_length, "
                "num_mel_bins, patch_size and the strides."
            )

    @property
    def grid(self) -> tuple[int, int]:
        """(patches along mel, patches along time); patch index is ``f * grid[1] + t``."""
        sizes = self.patch_size, self.frequency_stride, self.time_stride
        return patch_grid(self.max_length, self.num_mel_bins, *sizes)

    @property
    def num_tokens(self) -> int:
        """The prefix tokens and one token a patch."""
        return self.prefix_tokens + self.grid[0] * self.grid[1]

    @property
    def embedding_size(self) -> int:
        return self.hidden_size

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads
