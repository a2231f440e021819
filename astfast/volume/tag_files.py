"""``astfast.tag_files``: any number of inputs, to an iterator of rows or into an output folder."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from astfast.audio.inputs import MAX_DURATION
from astfast.audio.mono import Channel, checked_channel
from astfast.audio.prefetch import DECODE_THREADS
from astfast.audio.windows import is_number
from astfast.engines.base import Engine
from astfast.engines.load import LoadArguments
from astfast.tagging.pipeline import read_options
from astfast.tagging.tags import TagOptions
from astfast.version import __version__
from astfast.volume import run
from astfast.volume.detections import Merge, Selection
from astfast.volume.formats import json_lines
from astfast.volume.items import Roots, Shard
from astfast.volume.journal import Journal
from astfast.volume.progress import Progress
from astfast.volume.reading import Input
from astfast.volume.records import About, Record
from astfast.volume.run import Plan
from astfast.volume.scoring import Scoring
from astfast.volume.settings import RESULTS_VERSION, model_hash
from astfast.volume.sources import Sources

EMBEDDINGS = {"parquet": ("embeddings",), "npy": ("embeddings-npy", "embeddings-places")}


class Options(NamedTuple):
    """The arguments of ``astfast.tag_files`` that say what of each input is tagged, and how."""

    top_k: int | None = 5
    threshold: float | None = None
    thresholds: Mapping[str, float] | None = None
    labels: Iterable[str] | None = None
    activation: str = "auto"
    window: float | None = None
    hop: float | None = None
    channel: Channel = "mean"
    on_damage: str = "warn"
    max_duration: float = MAX_DURATION
    merge: Merge | None = None
    scores: bool = False
    embeddings: str | None = None
    order: bool = False
    shard: str | None = None
    root: str | os.PathLike[str] = ""
    urls: float | None = None
    max_failures: int | None = None
    decoders: int | None = None

    @property
    def roots(self) -> Roots:
        """How names of files in lists are understood."""
        return Roots(os.fspath(self.root), None if self.urls is None else int(self.urls * 1e6))

    def check(self) -> None:
        """Raises ValueError for an impossible value."""
        checked_channel(self.channel)
        if self.embeddings not in (None, *EMBEDDINGS):
            raise ValueError(f"embeddings is {self.embeddings!r}: it must be 'parquet', 'npy' or None")
        if self.merge is not None and self.window is None:
            raise ValueError("merge joins windows: pass window= too, in seconds")
        for name, value, least in (("max_failures", self.max_failures, 0), ("decoders", self.decoders, 1)):
            if value is not None and (type(value) is not int or value < least):
                raise ValueError(f"{name} is {value!r}: it must be a whole number of at least {least}, or None")
        if self.urls is not None and not (is_number(self.urls) and self.urls > 0):
            raise ValueError(f"urls is {self.urls!r}: it must be the largest size of a file in MB, or None for no URLs")


class Run:
    """A run that is planned: which inputs, what of them, and the model.

    ``arguments``: those that the engine was loaded with, by which an output folder tells another model.
    """

    def __init__(self, source: Any, engine: Engine, arguments: LoadArguments, options: Options) -> None:
        options.check()
        tag_options = TagOptions(options.top_k, options.threshold, options.activation)
        allowed = None if options.labels is None else sorted(set(options.labels))
        selection = Selection(engine.labels, options.top_k, options.threshold, options.thresholds, allowed)
        shard = None if options.shard is None else Shard.parse(options.shard)
        self.sources = Sources(source, options.roots)
        self.progress = Progress()
        self._engine, self._arguments, self._shard = engine, arguments, shard
        self._array_formats = (*(("scores",) if options.scores else ()), *EMBEDDINGS.get(options.embeddings or "", ()))
        self._settings = {
            "results": RESULTS_VERSION,
            "precision": engine.backend.split()[-1],
            "top_k": options.top_k,
            "threshold": options.threshold,
            "thresholds": None if options.thresholds is None else dict(options.thresholds),
            "labels": allowed,
            "activation": options.activation,
            "window": options.window,
            "hop": options.hop,
            "channel": options.channel,
            "on_damage": options.on_damage,
            "max_duration": options.max_duration,
            "merge": None if options.merge is None else list(options.merge),
            "scores": options.scores,
            "embeddings": options.embeddings is not None,
            "shard": options.shard,
        }
        self._plan = Plan(
            items=self.sources if shard is None else shard.of(self.sources),
            read=read_options(
                engine,
                None,
                options.window,
                options.hop,
                None,
                options.channel,
                options.on_damage,
                options.max_duration,
            ),
            scoring=Scoring(
                engine,
                selection,
                tag_options.top_k,
                tag_options.activation,
                whole=options.window is not None,
                scores=options.scores,
                embeddings=options.embeddings is not None,
            ),
            batch_size=windows_in_a_batch(engine, options.window),
            decoders=options.decoders or default_decoders(engine),
            merge=options.merge,
            in_order=options.order,
            max_failures=options.max_failures,
        )

    def rows(self, on_file: Callable[[Input], Any]) -> Iterator[dict[str, Any]]:
        """The rows of all inputs as they come, and an object with ``error`` and ``kind`` for each that fails."""
        for input_, row in run.events(self._plan._replace(keep_rows=False), self.progress):
            if row is not None:
                record = Record(input_.item.id, input_.item.file, "", input_.item.columns, [row])
                yield from json_lines.objects(record, self._engine.labels)
                continue
            if input_.error is not None:
                yield json_lines.failure(run.record_of(input_))
            on_file(input_)

    def into(
        self,
        out: str | os.PathLike[str],
        formats: Sequence[str],
        overwrite: bool,
        retry: bool,
        on_file: Callable[[Input], Any],
    ) -> dict[str, Any]:
        """Runs into an output folder and returns the counts of run.json."""
        folder = Path(out) if self._shard is None else Path(out, self._shard.folder)
        model = model_hash(self._arguments.sources, self._arguments.checkpoint_options)
        about = About(self._engine.labels, self._engine.sampling_rate, {**self._settings, "model": model})
        journal = Journal(folder, about, [*formats, *self._array_formats], overwrite, retry)
        self.progress.failed_before = journal.failed_before
        described = {
            "astfast": __version__,
            "backend": self._engine.backend,
            "hardware": self._engine.hardware,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "labels": list(self._engine.labels),
        }
        run.into(journal, self._plan, self.progress, on_file, described)
        return self.progress.report()


def windows_in_a_batch(engine: Engine, window: float | None) -> int:
    """Windows that fill a call of the engine; one that is longer than the model's input is scored in parts."""
    parts = 1 if window is None else math.ceil(window * engine.sampling_rate / engine.input_samples)
    return max(1, engine.preferred_batch_size // parts)


def default_decoders(engine: Engine) -> int:
    """Threads that decode: two beside a CPU engine, which has all cores, and a core each beside a GPU."""
    return DECODE_THREADS if engine.backend.startswith("cpu") else max(DECODE_THREADS, min(32, os.cpu_count() or 1))
