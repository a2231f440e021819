"""The geometry of a model, frozen, with everything that follows from it derived in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

from astfast.errors import CheckpointError
from astfast.front_end import FrontEnd


@dataclass(frozen=True)
class ModelConfig:
    """Geometry, labels and front end of an AST checkpoint, under the names of its Hugging Face config.

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
    labels: tuple[str, ...] = ()  # display names by index; empty for a model without a head
    problem_type: str | None = None  # "single_label_classification", "multi_label_classification" or unknown
    front_end: FrontEnd = field(default_factory=FrontEnd)

    def __post_init__(self) -> None:
        sizes = {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": self.intermediate_size,
            "patch_size": self.patch_size,
            "frequency_stride": self.frequency_stride,
            "time_stride": self.time_stride,
            "num_mel_bins": self.num_mel_bins,
            "max_length": self.max_length,
        }
        for name, size in sizes.items():
            if size < 1:
                raise CheckpointError(f"{name} is {size}: it must be at least 1. Check the checkpoint's config.json.")
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

    @property
    def num_mel_bins(self) -> int:
        return self.front_end.num_mel_bins

    @property
    def max_length(self) -> int:
        """Frames of the spectrogram that the model reads."""
        return self.front_end.max_length

    @property
    def grid(self) -> tuple[int, int]:
        """(patches along mel, patches along time); patch index is ``f * grid[1] + t``."""
        return (
            (self.num_mel_bins - self.patch_size) // self.frequency_stride + 1,
            (self.max_length - self.patch_size) // self.time_stride + 1,
        )

    @property
    def num_tokens(self) -> int:
        """cls, dist and one token a patch."""
        return self.grid[0] * self.grid[1] + 2

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def num_labels(self) -> int:
        return len(self.labels)
