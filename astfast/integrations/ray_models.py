"""A model that workers on other machines load: its files travel through Ray's object store, once to a node.

A worker that finds the files where the driver has them (the same machine, a shared file system) loads them there.
Otherwise the first worker of its node writes them into the cache folder, under the digest of their content.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astfast import labels
from astfast.checkpoints.sources import json_files
from astfast.engines.load import LoadArguments
from astfast.environment import cache_folder
from astfast.errors import BackendError
from astfast.models import recognise
from astfast.version import __version__

FOLDER = "ray"  # in the cache
ONLY_WHERE_FOUND = {"revision", "cache_dir", "local_files_only"}  # options that say where a model is found


class SentFile(NamedTuple):
    """A file of a model."""

    name: str
    size: int
    time: int  # of its last change, ns
    content: Any  # ray.ObjectRef of its bytes, [size] uint8


class SentModel(NamedTuple):
    """The files of a model, all of one folder."""

    folder: str  # on the driver's machine
    source: str  # what is loaded: "" for the folder, or a file in it
    files: tuple[SentFile, ...]
    digest: str  # of names and contents

    def path(self) -> tuple[str, bool]:
        """Where this machine has the model, and whether it had to be fetched. Raises BackendError for no room."""
        if all(map(self._is_at_home, self.files)):
            return str(Path(self.folder, self.source)), False
        folder = cache_folder() / FOLDER / self.digest
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with folder.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed: one worker of a node fetches
                fetched = not folder.is_dir()
                if fetched:
                    self._fetch(folder)
        except OSError as error:
            raise BackendError(
                f"{folder}: the model can't be written there ({error.strerror or error}): set ASTFAST_CACHE on the "
                "nodes to a folder with room"
            ) from error
        return str(folder / self.source), fetched

    def _is_at_home(self, file: SentFile) -> bool:
        try:
            status = Path(self.folder, file.name).stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (file.size, file.time)

    def _fetch(self, folder: Path) -> None:
        import ray

        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for file in self.files:
            with (unfinished / file.name).open("wb") as written:
                written.write(ray.get(file.content).data)
                written.flush()
                os.fsync(written.fileno())
        unfinished.rename(folder)


class Sent(NamedTuple):
    """The arguments of ``astfast.load`` with the files that they name."""

    version: str  # of astfast
    arguments: LoadArguments
    models: tuple[SentModel | None, ...]  # None: the built-in model, which every machine has

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.size for model in self.models if model is not None for file in model.files)

    def received(self) -> tuple[LoadArguments, bool]:
        """The arguments on this machine, and whether files had to be fetched for them.

        Raises BackendError for another version of astfast, and for no room.
        """
        if self.version != __version__:
            raise BackendError(
                f"this node has astfast {__version__}, and the driver {self.version}: install the same on all nodes"
            )
        found = [(None, False) if model is None else model.path() for model in self.models]
        return replace(self.arguments, sources=tuple(path for path, _ in found)), any(fetched for _, fetched in found)


def send(arguments: LoadArguments) -> Sent:
    """Puts the files of a model into Ray's object store. Raises CheckpointError for one that can't be loaded."""
    options = {name: value for name, value in arguments.checkpoint_options.items() if name not in ONLY_WHERE_FOUND}
    if options.get("labels") is not None:
        options["labels"] = labels.read(options["labels"])
    models = tuple(
        None if source is None else _sent(source, arguments.checkpoint_options) for source in arguments.sources
    )
    return Sent(__version__, replace(arguments, checkpoint_options=options), models)


def _sent(source: str | Path, options: Any) -> SentModel:
    import ray

    paths = recognise.load(source, **options).paths
    folder = paths[0].parent
    digest = hashlib.sha256()
    files = []
    for path in sorted({*paths, *json_files(folder)}):
        content, status = np.fromfile(path, np.uint8), path.stat()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content.data)
        files.append(SentFile(path.name, len(content), status.st_mtime_ns, ray.put(content)))
    is_file = Path(source).expanduser().is_file()
    return SentModel(str(folder.absolute()), paths[0].name if is_file else "", tuple(files), digest.hexdigest())
