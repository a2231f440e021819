"""What tags the inputs of a run: an engine of this process, or processes elsewhere."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Protocol

from astfast.audio.prefetch import DECODE_THREADS
from astfast.engines.base import Engine
from astfast.tagging.pipeline import read_options
from astfast.tagging.tags import TagOptions
from astfast.volume import run
from astfast.volume.detections import Selection
from astfast.volume.items import Item
from astfast.volume.journal import Journal
from astfast.volume.options import Options
from astfast.volume.progress import Progress
from astfast.volume.run import Events, Plan
from astfast.volume.scoring import Scoring


class Workers(Protocol):
    """Tags inputs with one model."""

    labels: tuple[str, ...]
    sampling_rate: int  # Hz
    backend: str  # as in Engine
    hardware: str

    def events(self, items: Iterable[Item], progress: Progress, journal: Journal | None = None) -> Events:
        """As ``run.events``."""
        ...


class ThisProcess:
    """Tags inputs with an engine of this process. Raises ValueError for options that are impossible with it."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self.labels, self.sampling_rate = engine.labels, engine.sampling_rate
        self.backend, self.hardware = engine.backend, engine.hardware
        tags = TagOptions(options.top_k, options.threshold, options.activation)
        self.plan = Plan(
            read_options(
                engine,
                None,
                options.window,
                options.hop,
                None,
                options.channel,
                options.on_damage,
                options.max_duration,
            ),
            Scoring(
                engine,
                Selection(engine.labels, options.top_k, options.threshold, options.thresholds, options.labels),
                tags.top_k,
                tags.activation,
                whole=options.window is not None,
                scores=options.scores,
                embeddings=options.embeddings is not None,
            ),
            batch_size=windows_in_a_batch(engine, options.window),
            decoders=options.decoders or default_decoders(engine),
            processes=options.decoding == "processes" or (options.decoding == "auto" and not is_on_cpu(engine)),
            merge=options.merge,
            in_order=options.order,
            max_failures=options.max_failures,
        )

    def events(self, items: Iterable[Item], progress: Progress, journal: Journal | None = None) -> Events:
        return run.events(items, self.plan._replace(keep_rows=journal is not None), progress, journal)


def windows_in_a_batch(engine: Engine, window: float | None) -> int:
    """Windows that fill a call of the engine; one that is longer than the model's input is scored in parts."""
    parts = 1 if window is None else math.ceil(window * engine.sampling_rate / engine.input_samples)
    return max(1, engine.preferred_batch_size // parts)


def default_decoders(engine: Engine) -> int:
    """Threads or processes that decode: two beside a CPU engine, which has all cores, and a core each beside a GPU."""
    return DECODE_THREADS if is_on_cpu(engine) else max(DECODE_THREADS, min(32, os.cpu_count() or 1))


def is_on_cpu(engine: Engine) -> bool:
    """Whether the model runs on processors, at a rate for which Python on threads is fast enough."""
    return engine.backend.startswith("cpu")
