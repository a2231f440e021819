"""What a caller names -> the items of a run, listed while the run is on."""

from __future__ import annotations

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from astfast.audio.kinds import is_one
from astfast.errors import AudioError
from astfast.volume import archives, folders, manifests, names
from astfast.volume.items import Item, Roots, of_name, of_row


class Sources:
    """The items of paths, folders, globs, manifests, archives and of inputs themselves, in the order they are given.

    - ``source``: a path (str or PathLike) to a file, folder, glob, manifest (.jsonl, .csv, .tsv), tar, Parquet or
      Arrow file, or a URL; an input such as bytes or an array; a manifest's row (a dict with "path", "audio" or
      "file"); or an iterable of these.
    - ``roots``: how names of files are understood.

    Iterating lists everything anew, but for iterators; ``passed_over`` counts what folders and archives hold beside
    audio.
    """

    def __init__(self, source: Any, roots: Roots | None = None) -> None:
        self._source = source
        self._roots = roots or Roots()
        self.passed_over: Counter[str] = Counter()  # "hidden", "not audio" and "not a file"
        self._walked: set[tuple[int, int]] = set()

    def __iter__(self) -> Iterator[Item]:
        source, self._walked = self._source, set()
        single = is_one(source) or getattr(source, "ndim", None) == 1 or not isinstance(source, Iterable)
        for number, x in enumerate([source] if single else source):
            if isinstance(x, Item):
                yield x
            elif isinstance(x, str | os.PathLike):
                yield from self._named(os.fsdecode(x))
            elif isinstance(x, Mapping) and "array" not in x and "raw" not in x:
                yield of_row(x, f"input {number}", self._roots)
            else:
                yield Item(f"input {number}", f"input {number}", x)

    def _named(self, name: str) -> Iterator[Item]:
        lower = name.lower()
        if names.is_url(name):
            yield of_name(name, self._roots)
        elif names.is_folder(name):
            yield from folders.walk(name, self._walked, self.passed_over)
        elif lower.endswith(names.TARS):
            yield from archives.tar(name, self.passed_over)
        elif lower.endswith(names.TABLES):
            yield from archives.table(name, self._roots)
        elif lower.endswith(names.MANIFESTS):
            yield from manifests.manifest(name, self._roots)
        elif names.is_pattern(name):
            yield from self._matching(name)
        else:
            yield of_name(name, Roots())

    def _matching(self, pattern: str) -> Iterator[Item]:
        """What a glob matches: folders are walked, files that are not audio left out unless it names their ending."""
        paths = glob.iglob(pattern, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
        first = next(paths, None)
        if first is None:
            yield Item(
                pattern, pattern, AudioError(f"{pattern}: no file matches: check the pattern", kind="missing"), stamp=""
            )
            return
        any_ending = pattern.endswith("*")
        for path in itertools.chain([first], paths):
            if Path(path).is_dir():
                if not pattern.endswith("**"):  # which matches what is in the folders itself
                    yield from folders.walk(path, self._walked, self.passed_over)
            elif any_ending and not names.is_audio(path):
                self.passed_over["not audio"] += 1
            elif folders.is_special(path):
                self.passed_over["not a file"] += 1
            else:
                yield from self._named(path)
