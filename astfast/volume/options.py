"""The arguments of a run that say what of each input is tagged, and how."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from astfast.audio.inputs import MAX_DURATION
from astfast.audio.mono import Channels, checked_channel
from astfast.audio.windows import is_number
from astfast.volume.detections import Merge
from astfast.volume.items import Roots

EMBEDDINGS = {"parquet": ("embeddings",), "npy": ("embeddings-npy", "embeddings-places")}
DECODING = ("auto", "threads", "processes")


class Options(NamedTuple):
    """Those of ``astfast.tag_files``; whatever tags its inputs gets them."""

    top_k: int | None = 5
    threshold: float | None = None
    thresholds: Mapping[str, float] | None = None
    labels: Sequence[str] | None = None
    activation: str = "auto"
    window: float | None = None
    hop: float | None = None
    channel: Channels = "mean"
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
    decoding: str = "auto"

    @property
    def roots(self) -> Roots:
        """How names of files in lists are understood."""
        return Roots(os.fspath(self.root), None if self.urls is None else int(self.urls * 1e6))

    def checked(self) -> Options:
        """These options; raises ValueError for an impossible value."""
        if self.channel != "each":
            checked_channel(self.channel, each=True)
        if self.embeddings not in (None, *EMBEDDINGS):
            raise ValueError(f"embeddings is {self.embeddings!r}: it must be 'parquet', 'npy' or None")
        if self.decoding not in DECODING:
            raise ValueError(f"decoding is {self.decoding!r}: it must be 'auto', 'threads' or 'processes'")
        if self.thresholds is not None and not isinstance(self.thresholds, Mapping):
            raise ValueError(f"thresholds is {self.thresholds!r}: it must be a mapping from labels to numbers, or None")
        for label, limit in (self.thresholds or {}).items():
            if not is_number(limit):
                raise ValueError(f"thresholds[{label!r}] is {limit!r}: it must be a finite number")
        if self.labels is not None and (isinstance(self.labels, str) or not self.labels):
            raise ValueError(f"labels is {self.labels!r}: it must be a list of the labels that may be tags, or None")
        if self.merge is not None and self.window is None:
            raise ValueError("merge joins windows: pass window= too, in seconds")
        for name, value, least in (("max_failures", self.max_failures, 0), ("decoders", self.decoders, 1)):
            if value is not None and (type(value) is not int or value < least):
                raise ValueError(f"{name} is {value!r}: it must be a whole number of at least {least}, or None")
        if self.urls is not None and not (is_number(self.urls) and self.urls > 0):
            raise ValueError(f"urls is {self.urls!r}: it must be the largest size of a file in MB, or None for no URLs")
        return self
