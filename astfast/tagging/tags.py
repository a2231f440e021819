"""Scores to tags: options of a call, top-k, threshold, aggregation over windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from astfast.audio.mono import Channels
from astfast.audio.windows import is_number, is_whole
from astfast.errors import AudioError, ErrorKind
from astfast.scores import ACTIVATIONS, AGGREGATES, top_k

Aggregate = Literal["mean", "max"]
OnError = Literal["raise", "return"]
Raise = Literal["raise"]
Return = Literal["return"]


class Tag(TypedDict):
    """One label of a clip and its score, as the audio-classification pipeline of transformers returns them."""

    score: float
    label: str


class _Segment(TypedDict):
    start: float
    end: float
    tags: list[Tag]


class Segment(_Segment, total=False):
    """The tags of one window of a clip: "start", "end" and "tags"; times in seconds from the clip's start.

    "channel" is there where segments of several channels come one by one: ``stream_segments(channel="each")``.
    """

    channel: int


class TagArgs(TypedDict, total=False):
    """Types of the keywords of ``Tagger.classify`` and ``segments`` beside ``on_error``."""

    sampling_rate: float | None
    top_k: int | None
    threshold: float | None
    activation: str
    window: float | None
    hop: float | None
    aggregate: Aggregate
    channel: Channels
    on_damage: str
    max_duration: float


class ErrorRecord(TypedDict):
    """The result for a bad input with ``on_error="return"``: the message of its AudioError, and its ``kind``."""

    error: str
    kind: ErrorKind


def error_record(error: AudioError) -> ErrorRecord:
    """The result for an input with this error."""
    return {"error": str(error), "kind": error.kind}


@dataclass(frozen=True)
class TagOptions:
    """How scores become tags. Raises ValueError, naming the option, for a value that is not possible."""

    top_k: int | None = 5  # None for all labels
    threshold: float | None = None
    activation: str = "auto"
    aggregate: str = "mean"  # or "max", over the windows of a clip
    on_error: str = "raise"

    def __post_init__(self) -> None:
        if self.top_k is not None and not is_whole(self.top_k):
            raise ValueError(
                f"top_k is {self.top_k!r}: it must be a whole number of at least 1, or None for all labels"
            )
        if self.threshold is not None and not is_number(self.threshold):
            raise ValueError(f"threshold is {self.threshold!r}: it must be a finite number, or None for no threshold")
        for name, value, known in (
            ("activation", self.activation, ACTIVATIONS),
            ("aggregate", self.aggregate, AGGREGATES),
            ("on_error", self.on_error, ("raise", "return")),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} is unknown: use one of {', '.join(map(repr, known))}")

    def tags(self, scores: NDArray[np.float32], labels: Sequence[str]) -> list[Tag]:
        """Scores [L] -> the ``top_k`` best labels that reach the threshold, best first, ties by index."""
        best, indices = top_k(scores, self.top_k)
        return self.to_tags(best, indices, labels)

    def to_tags(self, scores: Iterable[np.float32], indices: Iterable[np.int64], labels: Sequence[str]) -> list[Tag]:
        """Scores, best first, and their labels' indices -> the tags that reach the threshold."""
        return [
            {"score": float(score), "label": labels[int(i)]}
            for score, i in zip(scores, indices, strict=True)
            if self.threshold is None or score >= self.threshold
        ]
