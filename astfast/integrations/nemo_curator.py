"""Sound-event adapter for NeMo Curator: ``adapter_target: astfast.integrations.nemo_curator.Adapter`` of its stage.

It has the methods of Curator's ``SEDAdapter`` protocol and needs none of its code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astfast.engines.base import Engine
from astfast.engines.load import LoadArguments, load_engine
from astfast.models import recognise


class SEDResult(NamedTuple):
    """What the stage reads of a waveform's result."""

    framewise_output: NDArray[np.float32]  # [frames, labels] scores
    fps: float
    valid_frames: int
    original_num_samples: int


class Adapter:
    """Scores of a window around each frame.

    - ``checkpoint_path``: as ``model`` of ``astfast.load``; None is the built-in model.
    - ``sample_rate``: Hz, of the stage; it must be the model's: 16,000 for AST.
    - ``precision``: as in ``astfast.load``.
    - ``hop``: seconds from a frame to the next; ``window``: seconds that are heard around it, None for as much as the
      model reads at a time.
    """

    def __init__(
        self,
        checkpoint_path: str | None = None,
        sample_rate: int = 16_000,
        precision: str = "auto",
        hop: float = 0.5,
        window: float | None = None,
    ) -> None:
        for name, value in (("hop", hop), ("window", window)):
            if value is not None and not 0.025 <= value < float("inf"):
                raise ValueError(f"{name} is {value!r}: it must be seconds, at least 0.025")
        self.checkpoint_path, self.sample_rate = checkpoint_path, sample_rate
        self._precision, self._hop, self._window = precision, hop, window
        self._engine: Engine | None = None

    def download_weights_on_node(self) -> None:
        """Brings the model into the cache of this node. Raises CheckpointError."""
        recognise.load(self.checkpoint_path)

    def load_model(self, *, num_gpus: int) -> None:
        """Loads the model, on the GPU of this worker if it has one.

        Raises CheckpointError, BackendError, ValueError for another sampling rate than the model's.
        """
        arguments = LoadArguments(
            (self.checkpoint_path,), device="cuda" if num_gpus else "cpu", precision=self._precision
        )
        engine = load_engine(arguments)
        if engine.sampling_rate != self.sample_rate:
            raise ValueError(f"sample_rate is {self.sample_rate}: set it to the model's, {engine.sampling_rate}")
        self._engine = engine

    def unload_model(self) -> None:
        """Lets go of the model."""
        self._engine = None

    def infer_batch(self, items: list[dict[str, Any]]) -> list[SEDResult]:
        """One result for each item, whose "waveform" is mono float32 at ``sample_rate``."""
        assert self._engine is not None
        waves = [np.asarray(item["waveform"], np.float32) for item in items]
        parts = [self._windows(wave) for wave in waves]
        windows = [window for found, _ in parts for window in found]
        size = self._engine.preferred_batch_size
        batches = [self._engine.window_scores(windows[i : i + size]) for i in range(0, len(windows), size)]
        scores = np.concatenate([np.empty((0, len(self._engine.labels)), np.float32), *batches])
        results, at = [], 0
        for wave, (found, of_frame) in zip(waves, parts, strict=True):
            framewise = scores[at : at + len(found)][of_frame]
            results.append(SEDResult(framewise, 1.0 / self._hop, len(framewise), len(wave)))
            at += len(found)
        return results

    def _windows(self, wave: NDArray[np.float32]) -> tuple[list[NDArray[np.float32]], NDArray[np.intp]]:
        """The windows around the frames of a waveform, and the number of the window of each frame."""
        assert self._engine is not None
        size = self._engine.input_samples if self._window is None else round(self._window * self.sample_rate)
        frames = max(1, int(np.ceil(len(wave) / (self._hop * self.sample_rate))))
        middles = (np.arange(frames) + 0.5) * self._hop * self.sample_rate
        starts = np.clip(np.round(middles - size / 2), 0, max(0, len(wave) - size)).astype(np.intp)
        starts, of_frame = np.unique(starts, return_inverse=True)
        padded = wave if len(wave) else np.zeros(1, np.float32)
        return [padded[start : start + size] for start in starts], of_frame
