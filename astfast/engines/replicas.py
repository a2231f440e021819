"""The same model on several GPUs: a batch is split over them, each part on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.engines.eager import Batch, Engine, Waves
from astfast.models.base import ModelConfig
from astfast.ops import Ops


class Replicas:
    """What an engine is, over several of them that hold the same model. Results come in the order of the batch."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = tuple(engines)
        self._threads = ThreadPoolExecutor(len(self.engines), thread_name_prefix="astfast-gpu")

    @property
    def ops(self) -> Ops:
        """The first one's: what they have in common."""
        return self.engines[0].ops

    @property
    def config(self) -> ModelConfig:
        return self.engines[0].config

    @property
    def batch_size(self) -> int:
        return sum(engine.batch_size for engine in self.engines)

    @property
    def preferred_batch_size(self) -> int:
        return sum(engine.preferred_batch_size for engine in self.engines)

    @property
    def accepts_int16(self) -> bool:
        return self.engines[0].accepts_int16

    @property
    def hardware(self) -> str:
        return " + ".join(engine.hardware for engine in self.engines)

    def accepts_on_device(self, batch: Any) -> bool:  # noqa: ARG002
        """Never: no tensor lies on several devices, and arrays are split as waveforms."""
        return False

    def features(self, waves: Waves) -> NDArray[np.float32]:
        return self._split(waves, lambda engine, part: (engine.features(list(part)),))[0]

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        return self._split(batch, lambda engine, part: (engine.logits(part),))[0]

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        return self._split(batch, lambda engine, part: (engine.embed(part),))[0]

    def top_k(self, batch: Batch, k: int, activation: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scores, labels = self._split(batch, lambda engine, part: engine.top_k(part, k, activation))
        return scores, labels

    def warmup(self) -> None:
        for warmed in [self._threads.submit(engine.warmup) for engine in self.engines]:
            warmed.result()

    def _split(self, batch: Batch, run: Callable[[Engine, Batch], tuple[NDArray[Any], ...]]) -> list[NDArray[Any]]:
        """Parts that differ by one clip at most; no thread for an engine without clips."""
        ends = [len(batch) * (i + 1) // len(self.engines) for i in range(len(self.engines))]
        parts = zip(self.engines, [0, *ends], ends, strict=False)
        futures = [self._threads.submit(run, engine, batch[a:b]) for engine, a, b in parts if a < b]
        return [np.concatenate(arrays) for arrays in zip(*(future.result() for future in futures), strict=True)]
