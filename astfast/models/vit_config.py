"""Config of a Vision Transformer over spectrograms, of whichever family: its geometry, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from astfast.errors import CheckpointError
from astfast.front_end import FrontEnd, KaldiFbank
from astfast.models.base import ModelConfig
from astfast.models.fields import MAX_TOKENS, check_spectrogram, typed
from astfast.ops import patch_grid

SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("patch_size", "frequency_stride", "time_stride", "num_mel_bins", "max_length"),
)
# Pairs of tokens that attention compares, in all layers and heads, for each parameter: 3 for AST-base, 170 for a base
# model of 10,000 frames, 3,300 for the smallest DeiT on 27,000. A file that asks for more takes seconds a clip for each
# megabyte of it. Below the floor a model of any size takes a fraction of a second.
MAX_PAIRS_PER_PARAMETER, FREE_PAIRS = 4_000, 10**8


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
        check_spectrogram(self.max_length, self.num_mel_bins)
        if self.num_tokens > MAX_TOKENS:
            raise CheckpointError(
                f"{self.grid[0]} x {self.grid[1]} patches are more than {MAX_TOKENS} tokens. Check max_length, "
                "num_mel_bins, patch_size and the strides."
            )
        pairs = self.num_hidden_layers * self.num_attention_heads * self.num_tokens**2
        if pairs > max(FREE_PAIRS, MAX_PAIRS_PER_PARAMETER * self._parameters):
            raise CheckpointError(
                f"{self.num_tokens} tokens in {self.num_hidden_layers} layers of {self.num_attention_heads} heads make "
                f"{pairs:.1e} pairs to attend to, more than {MAX_PAIRS_PER_PARAMETER:,} for each of the model's "
                f"{self._parameters:,} parameters. Check max_length, the strides and num_attention_heads."
            )

    @property
    def _parameters(self) -> int:
        """Weights of the matrices, and positions: all but a few."""
        layer = 4 * self.hidden_size + 2 * self.intermediate_size
        others = self.num_tokens + self.patch_size**2 + self.num_labels
        return self.hidden_size * (self.num_hidden_layers * layer + others)

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
