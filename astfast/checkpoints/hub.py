"""Models of the Hugging Face hub and of its local cache: no request waits longer than a time limit."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from pathlib import Path

from astfast import notes
from astfast.errors import CheckpointError, brief_name
from astfast.notes import Note

ANSWER_SECONDS = 10.0  # that the hub may take to begin an answer
WEIGHTS = (  # patterns of files, of which one kind is fetched: the first that a model has
    ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"),
)


def folder_of(
    repository: str,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
    json_files: Sequence[str],
) -> Path:
    """The local folder with a model's weights and those of ``json_files`` that it has, downloaded if need be.

    Where the hub can't be asked, a model that is in the cache is used, with a warning unless HF_HUB_OFFLINE or
    ``local_files_only`` wants it so. Raises CheckpointError for a model that can't be had.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import HfHubHTTPError

    try:
        cached = _cached(repository, revision, cache_dir, json_files)
    except ValueError as error:
        raise _unavailable(repository, f"can't be the name of a model ({error})") from error
    absent = "is not in the local cache" + ("" if revision is None else f" at revision {brief_name(revision)}")
    offline = "local_files_only is on" if local_files_only else "HF_HUB_OFFLINE is on"
    if local_files_only or constants.HF_HUB_OFFLINE:
        if cached is None:
            raise _unavailable(repository, f"{absent} and can't be downloaded ({offline})")
        return cached
    if cached is None:
        notes.show(Note(f"{repository} is no local file or folder and not in the cache: asking the model hub for it"))
    try:
        return _downloaded(repository, revision, cache_dir, json_files)
    except CheckpointError:
        raise
    except Exception as error:  # of the hub, of the disk, of HTTP libraries that differ from version to version
        reason = _reason(error)
        if cached is not None:
            notes.show(Note(f"{repository} is taken from the cache, since the model hub can't be asked ({reason})"))
            return cached
        if isinstance(error, HfHubHTTPError | ValueError):  # no such model or revision, gated, no possible name
            raise _unavailable(repository, f"can't be had from the model hub ({reason})") from error
        raise _unavailable(repository, f"{absent} and can't be downloaded ({reason})") from error


def dataset_file(repository: str, name: str) -> Path:
    """A file of a data set, from the cache or downloaded. Raises CheckpointError where it can't be had."""
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, name, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached)
    try:
        HfApi().dataset_info(repository, timeout=ANSWER_SECONDS)  # fails at once, where a download tries again for 25 s
        return Path(hf_hub_download(repository, name, repo_type="dataset", etag_timeout=ANSWER_SECONDS))
    except Exception as error:  # of the hub, of the disk, of HTTP libraries that differ from version to version
        raise CheckpointError(
            f"{name} of the data set {repository} can't be had from the model hub ({_reason(error)})"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(f"{error or type(error).__name__}".split())[:400]


def _unavailable(repository: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{repository} {why}. Download it once while online, or pass a local folder. There is no local file or folder "
        f"{repository!r} either (looked from {Path.cwd()})."
    )


def _cached(
    repository: str, revision: str | None, cache_dir: str | os.PathLike[str] | None, json_files: Sequence[str]
) -> Path | None:
    """The folder of the cache with files of the model, as the hub was seen last."""
    from huggingface_hub import try_to_load_from_cache

    for name in (*json_files, *(name for kind in WEIGHTS for name in kind[:2])):
        path = try_to_load_from_cache(repository, name, cache_dir=cache_dir, revision=revision)
        if isinstance(path, str):
            return Path(path).parent
    return None


def _downloaded(
    repository: str, revision: str | None, cache_dir: str | os.PathLike[str] | None, json_files: Sequence[str]
) -> Path:
    """The folder with the newest files of the model; those that the cache has are not sent again."""
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(repository, revision=revision, timeout=ANSWER_SECONDS)
    present = [file.rfilename for file in info.siblings or ()]
    kinds = ([name for pattern in kind for name in fnmatch.filter(present, pattern)] for kind in WEIGHTS)
    names = [name for name in json_files if name in present] + next(filter(None, kinds), [])
    if not names:
        raise CheckpointError(f"{repository} on the model hub has no weights: its files are {', '.join(present[:8])}.")
    paths = [
        hf_hub_download(repository, name, revision=revision, cache_dir=cache_dir, etag_timeout=ANSWER_SECONDS)
        for name in names
    ]
    return Path(paths[0]).parent
