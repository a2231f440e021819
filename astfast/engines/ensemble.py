"""Several models as one: the mean of their scores, whatever families, input lengths and sampling rates they are of."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from astfast.engines.base import Batch, DeviceBatch, Engine, FloatArray, Waves
from astfast.errors import AstfastError
from astfast.front_end import FrontEnd
from astfast.models.base import ModelConfig
from astfast.resampling import Rates, at_rate
from astfast.scores import top_k
from astfast.spans import SHORTEST_WINDOW


class Ensemble:
    """An engine over members with the same labels. Only probabilities can be averaged.

    Members of several rates get what each hears alone: ``sampling_rate`` is then ``Rates``, and clips come as its rows.
    """

    def __init__(self, members: Sequence[Engine]) -> None:
        self.members = tuple(members)
        rates = tuple(dict.fromkeys(member.sampling_rate for member in members))
        self.sampling_rate = rates[0] if len(rates) == 1 else Rates(rates)
        if self.sampling_rate * SHORTEST_WINDOW < 1:
            raise AstfastError(
                f"models at {', '.join(map(str, rates))} Hz make no ensemble: these rates have no common divisor of "
                f"{1 / SHORTEST_WINDOW:g} Hz or more. Load its members one by one."
            )

    @property
    def labels(self) -> tuple[str, ...]:
        return self.members[0].labels

    @property
    def config(self) -> ModelConfig:
        self._refuse("config")

    @property
    def input_samples(self) -> int:
        rate = self.sampling_rate
        return max(-(-member.input_samples * rate // member.sampling_rate) for member in self.members)

    @property
    def backend(self) -> str:
        return ", ".join(dict.fromkeys(member.backend for member in self.members))

    @property
    def hardware(self) -> str:
        return self.members[0].hardware

    @property
    def about(self) -> str:
        return " + ".join(dict.fromkeys(member.about for member in self.members))

    @property
    def batch_size(self) -> int:
        return max(member.batch_size for member in self.members)

    @property
    def preferred_batch_size(self) -> int:
        return max(member.preferred_batch_size for member in self.members)

    @property
    def accepts_int16(self) -> bool:
        return all(member.accepts_int16 and member.sampling_rate == self.sampling_rate for member in self.members)

    def accepts_on_device(self, batch: DeviceBatch) -> bool:  # noqa: ARG002
        """Never: members may read different lengths."""
        return False

    def features(self, batch: Batch) -> FloatArray:  # noqa: ARG002
        self._refuse("features")

    def embed(self, batch: Batch) -> FloatArray:  # noqa: ARG002
        self._refuse("embedding")

    def scores_and_embeddings(self, waves: Batch, activation: str = "auto") -> NoReturn:  # noqa: ARG002
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
        at = self._at_each_rate(waves)
        sharing = Counter(member.config.front_end for member in self.members)
        features: dict[FrontEnd, list[tuple[list[int], FloatArray]]] = {}
        total = np.zeros((len(waves), len(self.labels)), np.float64)
        for member in self.members:
            own, front_end = at[member.sampling_rate], member.config.front_end
            if max(map(len, own), default=0) > member.input_samples:
                total += member.window_scores(own, activation, aggregate)
            elif sharing[front_end] == 1:
                total += member.scores(own, activation)
            else:
                if front_end not in features:
                    features[front_end] = _features(member, own)
                for rows, spectrograms in features[front_end]:
                    total[rows] += member.scores(spectrograms, activation)
        return (total / len(self.members)).astype(np.float32)

    def _at_each_rate(self, waves: Waves | FloatArray) -> dict[int, Waves]:
        rates = self.sampling_rate
        if not isinstance(rates, Rates):
            return {rates: list(waves)}
        rows = [wave if wave.ndim == 2 else at_rate(wave, int(rates), rates) for wave in waves]
        apart = zip(*map(rates.apart, rows), strict=True) if rows else itertools.repeat(())
        return dict(zip(rates.each, apart, strict=False))

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


def _features(member: Engine, waves: Waves) -> list[tuple[list[int], FloatArray]]:
    """(Numbers of clips, their spectrograms), for clips of as many frames each."""
    groups: dict[int, list[int]] = {}
    for number, wave in enumerate(waves):
        groups.setdefault(member.config.front_end.frames_read(len(wave)), []).append(number)
    return [(rows, member.features([waves[row] for row in rows])) for rows in groups.values()]
