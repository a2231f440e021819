"""What people have in the place of weights: pointers of Git LFS, saved web pages, adapters, folders of a training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from astfast import small_files
from astfast.errors import CheckpointError, brief

LFS_POINTER = b"version https://git-lfs.github.com/"
WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")


def refuse_placeholder(path: Path) -> None:
    """Raises CheckpointError for a file that stands for another. A file that can't be read is left to its reader."""
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except OSError:
        return
    if head.startswith(LFS_POINTER):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file that it stands for: run git lfs pull in its repository, or "
            "download the file from the model's page."
        )
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(WEB_PAGE):
        raise CheckpointError(f"{path} is a web page, not the file that it links to: download the file itself.")


def refuse_adapter(path: Path, source: str) -> None:
    """Raises CheckpointError if this config of an adapter exists; transformers applies it to weights beside it."""
    if not path.is_file():
        return
    try:
        base = json.loads(small_files.read(path)).get("base_model_name_or_path")
    except (OSError, ValueError, RecursionError, AttributeError):
        base = None
    of = f" of {brief(base)}" if base else ""
    raise CheckpointError(
        f"{source} has an adapter{of} ({path.name}): merge it into the model with peft, "
        "model.merge_and_unload().save_pretrained(folder), and pass that folder."
    )


def missing_weights(folder: Path, source: str, looked_for: Iterable[str]) -> CheckpointError:
    """The error for a folder without weights, which names the checkpoints of a training that are in it."""
    steps = [int(match[1]) for path in folder.iterdir() if (match := re.fullmatch(r"checkpoint-(\d{1,15})", path.name))]
    if steps:
        return CheckpointError(
            f"{source} is the folder of a training, with {len(steps)} checkpoints and no model of its own: pass one of "
            f"them, such as {folder / f'checkpoint-{max(steps)}'}, the last."
        )
    return CheckpointError(
        f"{source} has no weights: looked for {', '.join(looked_for)}. Pass the weights' file itself if it has another "
        "name."
    )
