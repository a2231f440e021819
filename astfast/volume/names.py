"""What a file is by its name."""

from __future__ import annotations

import re
from pathlib import Path

MANIFESTS = (".jsonl", ".ndjson", ".csv", ".tsv")
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
TABLES = (".parquet", ".arrow")
# What audio and video files are called; others in a folder are left alone.
AUDIO = re.compile(
    r"\.(wav|wave|flac|ogg|oga|opus|mp[23]|mpga|aif|aiff|aifc|au|snd|caf|w64|rf64|m4[ab]|mp4|aac|web[ma]|mk[av]|mov|wma|amr|"
    r"3gp|e?ac3|wv|ape|tta|avi|ts)",
    re.IGNORECASE,
)


def is_audio(name: str) -> bool:
    """Whether a file is audio by the ending of its name."""
    return AUDIO.fullmatch(Path(name).suffix) is not None


def is_url(text: str) -> bool:
    """Whether a name is an address such as s3://bucket/key, and no path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def is_pattern(name: str) -> bool:
    """Whether a name is a glob, and not that of a file which happens to have its characters."""
    return re.search(r"[*?[]", name) is not None and not Path(name).exists()


def is_folder(name: str) -> bool:
    """Whether a name is that of a folder; an empty one is not the working directory."""
    return name != "" and Path(name).is_dir()


def is_many(name: str) -> bool:
    """Whether a name stands for any number of inputs: a folder, glob, manifest, archive or table, or a URL."""
    is_list = name.lower().endswith((*MANIFESTS, *TARS, *TABLES))
    return is_list or is_url(name) or is_pattern(name) or is_folder(name)
