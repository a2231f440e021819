"""Several models as one: the mean of their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from astfast.engines.base import Batch, DeviceBatch, Engine, FloatArray
from astfast.errors import AstfastError
from astfast.front_end import FrontEnd
from astfast.models.base import ModelConfig
from astfast.scores import top_k


class Ensemble:
    """An engine over members with the same labels and sampling rate. Only probabilities can be averaged."""

    def __init__(self, members: Sequence[Engine]) -> None:
        self.members = tuple(members)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.members[0].labels

    @property
    def config(self) -> ModelConfig:
        self._refuse("config")

    @property
    def sampling_rate(self) -> int:
        return self.members[0].sampling_rate

    @property
    def input_samples(self) -> int:
        return max(member.input_samples for member in self.members)

    @property
    def backend(self) -> str:
        return ", ".join(dict.fromkeys(member.backend for member in self.members))

    @property
    def hardware(self) -> str:
        return self.members[0].hardware

    @property
    def batch_size(self) -> int:
        return max(member.batch_size for member in self.members)

    @property
    def preferred_batch_size(self) -> int:
        return max(member.preferred_batch_size for member in self.members)

    @property
    def accepts_int16(self) -> bool:
        return all(member.accepts_int16 for member in self.members)

    def accepts_on_device(self, batch: DeviceBatch) -> bool:  # noqa: ARG002
        """Never: members may read different lengths."""
        return False

    def features(self, batch: Batch) -> FloatArray:  # noqa: ARG002
        self._refuse("features")

    def embed(self, batch: Batch) -> FloatArray:  # noqa: ARG002
        self._refuse("embedding")

    def logits(self, batch: Batch) -> FloatArray:  # noqa: ARG002
        self._refuse("logits")

    def forward(self, spectrograms: Any) -> Any:  # noqa: ARG002
        self._refuse("forward pass")

    def scores(self, batch: Batch, activation: str = "auto") -> FloatArray:
        """Each member hears all that the longest one does."""
        assert not isinstance(batch, DeviceBatch)  # see ``accepts_on_device``
        return self.window_scores([wave[: self.input_samples] for wave in batch], activation)

    def window_scores(self, waves: Batch, activation: str = "auto", aggregate: str = "mean") -> FloatArray:
        """Features are computed once for members with the same front end that need no parts."""
        assert not isinstance(waves, DeviceBatch)
        features: dict[FrontEnd, FloatArray] = {}
        longest = max(map(len, waves), default=0)
        total = np.zeros((len(waves), len(self.labels)), np.float64)
        for member in self.members:
            front_end = member.config.front_end
            if longest > member.input_samples:
                total += member.window_scores(waves, activation, aggregate)
                continue
            if len({front_end.frames_read(len(wave)) for wave in waves}) > 1:  # no array of them
                total += member.scores(waves, activation)
                continue
            if front_end not in features:
                features[front_end] = member.features(waves)
            total += member.scores(features[front_end], activation)
        return (total / len(self.members)).astype(np.float32)

    def top_k(self, batch: Batch, k: int, activation: str = "auto") -> tuple[FloatArray, NDArray[np.int64]]:
        return top_k(self.scores(batch, activation), k)

    def warmup(self) -> None:
        for member in self.members:
            member.warmup()

    def _refuse(self, what: str) -> NoReturn:
        raise AstfastError(
            f"an ensemble of {len(self.members)} models has no {what} of its own: only probabilities can be averaged. "
            "Use scores(), classify() or segments(), or load its members one by one."
        )
