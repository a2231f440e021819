"""The same model on several GPUs or groups of cores: a batch is split over them, each part on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.engines import locks
from astfast.engines.base import Batch, DeviceBatch, Engine, FloatArray
from astfast.models.base import ModelConfig


class Replicas:
    """An engine over several that hold the same model. Results come in the order of the batch.

    ``starts``: what the thread of each engine calls first; None: nothing. ``places``: what each has of its own.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        starts: Sequence[Callable[[], None]] | None = None,
        places: str = "devices",
    ) -> None:
        self.engines = tuple(engines)
        self._places = places
        self._starts = [None] * len(self.engines) if starts is None else list(starts)
        self._next = 0  # engine that gets the first part of the next batch
        self.unlock()
        locks.watch(self)

    def unlock(self) -> None:
        self.lock = threading.Lock()
        self._threads = [
            ThreadPoolExecutor(1, thread_name_prefix="astfast-replica", initializer=start) for start in self._starts
        ]

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
        return f"{self.engines[0].about}, on {len(self.engines)} {self._places}"

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
        for warmed in [self._submit(index, engine.warmup) for index, engine in enumerate(self.engines)]:
            warmed.result()

    def _split(self, batch: Any, run: Callable[[Engine, Any], tuple[NDArray[Any], ...]]) -> list[NDArray[Any]]:
        """Parts that differ by one clip at most, on engines in turn; no thread for an engine without clips."""
        count = max(1, min(len(self.engines), len(batch)))
        ends = [len(batch) * part // count for part in range(count + 1)]
        with locks.turn(self):
            first, self._next = self._next, (self._next + count) % len(self.engines)
        futures = []
        for part in range(count):
            index = (first + part) % len(self.engines)
            futures.append(self._submit(index, run, self.engines[index], batch[ends[part] : ends[part + 1]]))
        return [np.concatenate(arrays) for arrays in zip(*(future.result() for future in futures), strict=True)]

    def _submit(self, index: int, run: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """A call on the thread of an engine; at once on this one where the interpreter exits and starts none."""
        try:
            return self._threads[index].submit(run, *arguments)
        except RuntimeError:
            done: Future[Any] = Future()
            done.set_result(run(*arguments))
            return done
