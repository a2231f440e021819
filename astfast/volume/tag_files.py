"""``astfast.tag_files``: any number of inputs, to an iterator of rows or into an output folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from astfast.engines.load import LoadArguments
from astfast.version import __version__
from astfast.volume import run
from astfast.volume.formats import json_lines
from astfast.volume.inputs import Input
from astfast.volume.items import Shard
from astfast.volume.journal import Journal
from astfast.volume.options import EMBEDDINGS, Options
from astfast.volume.progress import Progress
from astfast.volume.records import About, Record
from astfast.volume.settings import RESULTS_VERSION, model_hash
from astfast.volume.sources import Sources
from astfast.volume.workers import Workers


class Run:
    """A run that is planned: which inputs, what of them, and what tags them.

    ``arguments``: those that the model was loaded with, by which an output folder tells another one.
    """

    def __init__(self, source: Any, workers: Workers, arguments: LoadArguments, options: Options) -> None:
        shard = None if options.shard is None else Shard.parse(options.shard)
        self.sources = Sources(source, options.roots)
        self.progress = Progress()
        self.progress.passed_over = self.sources.passed_over
        self._items = self.sources if shard is None else shard.of(self.sources)
        self._workers, self._arguments, self._shard = workers, arguments, shard
        self._array_formats = (*(("scores",) if options.scores else ()), *EMBEDDINGS.get(options.embeddings or "", ()))
        self._settings = {
            "results": RESULTS_VERSION,
            "precision": workers.backend.split()[-1],
            "top_k": options.top_k,
            "threshold": options.threshold,
            "thresholds": None if options.thresholds is None else dict(options.thresholds),
            "labels": None if options.labels is None else sorted(set(options.labels)),
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

    def rows(self, on_file: Callable[[Input], Any]) -> Iterator[dict[str, Any]]:
        """The rows of all inputs as they come, and an object with ``error`` and ``kind`` for each that fails."""
        for input_, row in self._workers.events(self._items, self.progress):
            if row is not None:
                record = Record(input_.item.id, input_.item.file, "", input_.item.columns, [row])
                yield from json_lines.objects(record, self._workers.labels)
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
        settings = {**self._settings, "model": model}
        if self._arguments.token_merging:
            settings["token_merging"] = self._arguments.token_merging
        about = About(self._workers.labels, self._workers.sampling_rate, settings)
        journal = Journal(folder, about, [*formats, *self._array_formats], overwrite, retry)
        self.progress.failed_before = len(journal.failed_before)
        described = {
            "astfast": __version__,
            "backend": self._workers.backend,
            "hardware": self._workers.hardware,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "labels": list(self._workers.labels),
        }
        run.into(journal, self._workers.events(self._items, self.progress, journal), self.progress, on_file, described)
        return self.progress.report()
