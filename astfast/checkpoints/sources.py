"""Finding a checkpoint (hub id, folder, file, the built-in model): its files are opened, tensors not yet read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from astfast import small_files
from astfast.checkpoints.lazy_tensor import LazyTensor
from astfast.checkpoints.safetensors import read_safetensors
from astfast.checkpoints.wrappers import unwrapped
from astfast.errors import CheckpointError, brief

BUILTIN = Path(__file__).parent.parent / "data" / "builtin"
CONFIG, PREPROCESSOR, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
ADAPTER = "adapter_config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def _read_torch(path: Path) -> dict[str, LazyTensor]:
    from astfast.checkpoints.torch_file import read_torch_file  # most processes read safetensors

    return read_torch_file(path)


READERS: dict[str, Callable[[Path], dict[str, LazyTensor]]] = {
    ".safetensors": read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".bin": _read_torch,
    ".ckpt": _read_torch,
}
HUGGING_FACE_SUFFIXES = (".safetensors", ".bin")
HUGGING_FACE_NAME = "embeddings."  # is in names of tensors by transformers, and in no author's
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class CheckpointFiles(NamedTuple):
    """A checkpoint as found: its tensors by name, without the prefixes of what trained it, and its JSON files."""

    source: str  # for messages: a path, or a hub id
    paths: tuple[Path, ...]  # of the files that hold the weights
    tensors: Mapping[str, LazyTensor]
    config: Mapping[str, Any] | None  # config.json
    preprocessor: Mapping[str, Any] | None  # preprocessor_config.json, or that part of processor_config.json
    notes: tuple[str, ...] = ()  # what a user should be warned of


def find(
    source: str | os.PathLike[str] | None,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
) -> CheckpointFiles:
    """The files behind ``source``: None is the built-in model, an existing path comes before a hub id or the name of a
    published model.

    A file in a Hugging Face format (.safetensors, .bin), or with tensors of transformers' names, is read with the
    config.json and preprocessor_config.json beside it, if there are any. Raises CheckpointError for what isn't there,
    can't be read, or only stands for a checkpoint.
    """
    if source is None:
        return _folder(BUILTIN, "the built-in model")
    if not isinstance(source, str | os.PathLike) or not isinstance(os.fspath(source), str):
        raise TypeError(
            f"model is {brief(source)}: it must be None (the built-in model), a name, a hub id, a path, or "
            "a list of these; accelerate takes a model of transformers"
        )
    text = os.fspath(source)
    if re.match(r"\w+://", text):
        raise CheckpointError(f"{text} is a URL, which astfast doesn't fetch: download it and pass the file.")
    try:
        path = Path(text).expanduser()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, the home of an unknown user, a null character
        raise CheckpointError(f"{text!r} can't be a file or folder ({error}). Check the path.") from error
    if text and is_folder:
        return _folder(path, text)
    if text and exists:
        return _file(path, text)
    from astfast.catalogue import published, similar  # most sources are paths

    known = published(text)
    if known is not None and known.hub_id is None:
        raise CheckpointError(f"{text} is not on the model hub: download {known.url} and pass the file.")
    if known is not None and known.hub_id is not None and text == known.name:
        text, revision = known.hub_id, revision or known.revision
    is_hub_id = isinstance(source, str) and HUB_ID.fullmatch(text) and path.suffix.lower() not in READERS
    if not is_hub_id:
        meant = f" ({' or '.join(names)}?)" if (names := similar(text)) else ""
        raise CheckpointError(
            f"{text!r} is no file or folder here and can't be a hub id (owner/name). Check the path, from "
            f"{Path.cwd()}, or take a name that `astfast models` lists{meant}."
        )
    return _hub(text, revision, cache_dir, local_files_only)


def json_files(folder: Path) -> list[Path]:
    """What is read of a folder beside weights."""
    names = (CONFIG, PREPROCESSOR, PROCESSOR, *(name for name in WEIGHTS if name.endswith(".json")))
    return [folder / name for name in names if (folder / name).is_file()]


def _folder(folder: Path, source: str) -> CheckpointFiles:
    """A folder in Hugging Face layout."""
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if (folder / ADAPTER).is_file() or weights is None:
        from astfast.checkpoints.placeholders import missing_weights, refuse_adapter

        refuse_adapter(folder / ADAPTER, source)
        raise missing_weights(folder, source, WEIGHTS)
    paths = _shards(weights) if weights.name.endswith(".index.json") else (weights,)
    return _opened(source, paths, _merged(paths), folder)


def _file(path: Path, source: str) -> CheckpointFiles:
    if path.suffix.lower() not in READERS:
        raise CheckpointError(
            f"{source}: astfast reads {', '.join(READERS)} and folders in Hugging Face layout, not {path.name}."
        )
    if not path.is_file():
        raise CheckpointError(f"{source} is a pipe or a device: pass a file.")
    tensors = _read(path)
    hugging_face = path.suffix.lower() in HUGGING_FACE_SUFFIXES or any(HUGGING_FACE_NAME in name for name in tensors)
    return _opened(source, (path,), tensors, path.parent if hugging_face else None)


def _opened(
    source: str, paths: tuple[Path, ...], tensors: Mapping[str, LazyTensor], folder: Path | None
) -> CheckpointFiles:
    """Tensors without wrappers, with the JSON files of ``folder``."""
    model = unwrapped(source, tensors)
    config = preprocessor = None
    if folder is not None:
        processor = _json(folder / PROCESSOR) or {}  # as transformers 5 writes it, and prefers, under either name
        nested = processor.get("feature_extractor", processor.get("audio_processor"))
        config = _json(folder / CONFIG)
        preprocessor = nested if isinstance(nested, dict) else _json(folder / PREPROCESSOR)
    return CheckpointFiles(source, paths, model.tensors, config, preprocessor, model.notes)


def _read(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a file of weights."""
    try:
        return READERS[path.suffix.lower()](path)
    except CheckpointError:
        from astfast.checkpoints.placeholders import refuse_placeholder

        refuse_placeholder(path)  # which says more
        raise


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that an index.json's weight_map names, each beside it."""
    weight_map = (_json(index) or {}).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map. Download it again.")
    paths = []
    for name in sorted({str(name) for name in weight_map.values()}):
        path = index.parent / name
        if Path(name).name != name or path.suffix not in READERS:
            raise CheckpointError(f"{index} names the shard {brief(name)}: a shard must be a weights' file beside it.")
        if not path.is_file():
            raise CheckpointError(f"{index} names the shard {name}, which isn't there. Download it.")
        paths.append(path)
    return tuple(paths)


def _merged(paths: tuple[Path, ...]) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    for path in paths:
        shard = _read(path)
        for name in shard:
            if name in tensors:
                raise CheckpointError(f"{path}: tensor {name} is in another shard too. Download the checkpoint again.")
        tensors |= shard
    return tensors


def _json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None if the file doesn't exist."""
    if not path.is_file():
        return None
    try:
        content = json.loads(small_files.read(path))
    except (OSError, ValueError, RecursionError) as error:
        from astfast.checkpoints.placeholders import refuse_placeholder

        refuse_placeholder(path)  # which says more
        raise CheckpointError(f"{path} can't be read as JSON: {error}. Download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object. Download it again.")
    return content


def _hub(
    repository: str, revision: str | None, cache_dir: str | os.PathLike[str] | None, local_files_only: bool
) -> CheckpointFiles:
    """A model of the Hugging Face hub, or of its local cache; only the files that are needed are fetched."""
    from astfast.checkpoints import hub  # which other sources have no use for

    folder = hub.folder_of(
        repository, revision, cache_dir, local_files_only, (CONFIG, PREPROCESSOR, PROCESSOR, ADAPTER)
    )
    if not (folder / ADAPTER).is_file() and not (
        (folder / CONFIG).is_file() and any((folder / name).is_file() for name in WEIGHTS)
    ):
        looked_for = f"looked for {', '.join(WEIGHTS)}"
        where = "the local cache" if local_files_only else "the model hub, or what of it is cached,"
        raise CheckpointError(f"{repository} in {where} lacks {CONFIG} or weights ({folder}): {looked_for}.")
    return _folder(folder, repository)
