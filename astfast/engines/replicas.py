"""The same model on several GPUs: a batch is split over them, each part on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.engines.base import Batch, DeviceBatch, Engine, FloatArray
from astfast.models.base import ModelConfig


class Replicas:
    """An engine over several that hold the same model. Results come in the order of the batch."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = tuple(engines)
        self._threads = ThreadPoolExecutor(len(self.engines), thread_name_prefix="astfast-gpu")

    @property
    def labels(self) -> tuple[str, ...]:
        return self.engines[0].labels

    @property
    def config(self) -> ModelConfig:
        return self.engines[0].config

    @property
    def sampling_rate(self) -> int:
        return self.engines[0].sampling_rate

    @property
    def input_samples(self) -> int:
        return self.engines[0].input_samples

    @property
    def backend(self) -> str:
        return self.engines[0].backend

    @property
    def hardware(self) -> str:
        return " + ".join(engine.hardware for engine in self.engines)

    @property
    def about(self) -> str:
        return f"{self.engines[0].about}, on {len(self.engines)} devices"

    @property
    def batch_size(self) -> int:
        return sum(engine.batch_size for engine in self.engines)

    @property
    def preferred_batch_size(self) -> int:
        return sum(engine.preferred_batch_size for engine in self.engines)

    @property
    def accepts_int16(self) -> bool:
        return self.engines[0].accepts_int16

    def accepts_on_device(self, batch: DeviceBatch) -> bool:  # noqa: ARG002
        """Never: no tensor lies on several devices, and arrays are split as waveforms."""
        return False

    def features(self, batch: Batch) -> FloatArray:
        return self._split(batch, lambda engine, part: (engine.features(part),))[0]

    def embed(self, batch: Batch) -> FloatArray:
        return self._split(batch, lambda engine, part: (engine.embed(part),))[0]

    def logits(self, batch: Batch) -> FloatArray:
        return self._split(batch, lambda engine, part: (engine.logits(part),))[0]

    def scores(self, batch: Batch, activation: str = "auto") -> FloatArray:
        return self._split(batch, lambda engine, part: (engine.scores(part, activation),))[0]

    def window_scores(self, waves: Batch, activation: str = "auto", aggregate: str = "mean") -> FloatArray:
        return self._split(waves, lambda engine, part: (engine.window_scores(part, activation, aggregate),))[0]

    def scores_and_embeddings(self, waves: Batch, activation: str = "auto") -> tuple[FloatArray, FloatArray]:
        scores, embeddings = self._split(waves, lambda engine, part: engine.scores_and_embeddings(part, activation))
        return scores, embeddings

    def top_k(self, batch: Batch, k: int, activation: str = "auto") -> tuple[FloatArray, NDArray[np.int64]]:
        scores, labels = self._split(batch, lambda engine, part: engine.top_k(part, k, activation))
        return scores, labels

    def forward(self, spectrograms: Any) -> Any:
        """On the first of them: a tensor lies on one device."""
        return self.engines[0].forward(spectrograms)

    def warmup(self) -> None:
        for warmed in [self._threads.submit(engine.warmup) for engine in self.engines]:
            warmed.result()

    def _split(self, batch: Any, run: Callable[[Engine, Any], tuple[NDArray[Any], ...]]) -> list[NDArray[Any]]:
        """Parts that differ by one clip at most; no thread for an engine without clips."""
        ends = [len(batch) * (i + 1) // len(self.engines) for i in range(len(self.engines))]
        parts = [(engine, a, b) for engine, a, b in zip(self.engines, [0, *ends], ends, strict=False) if a < b]
        parts = parts or [(self.engines[0], 0, 0)]  # of an empty batch
        futures = [self._threads.submit(run, engine, batch[a:b]) for engine, a, b in parts]
        return [np.concatenate(arrays) for arrays in zip(*(future.result() for future in futures), strict=True)]
