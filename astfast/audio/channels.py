"""Each channel of an input as an input of its own, and their results together again."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from astfast.audio.descriptors import OpenFile
from astfast.audio.inputs import as_source, only_audio_errors
from astfast.audio.kinds import Source
from astfast.audio.parts import Findings
from astfast.errors import AudioError

T = TypeVar("T")

COUNTED_IN = 0.1  # seconds of a file that are decoded to count its channels


def channels_of(x: Any, sampling_rate: float | None, rate: int) -> list[Source]:
    """One input of any kind -> a source for each of its channels, which share no state with the caller.

    Raises AudioError for what is no audio.
    """
    source = as_source(x, sampling_rate, rate).owned()
    if isinstance(source.data, OpenFile):  # it has one position, and closes when it was read
        source = source._replace(data=os.pread(source.data.fd, source.data.size, 0))
    return [source._replace(channel=channel) for channel in range(count_channels(source))]


def count_channels(source: Source) -> int:
    """Channels of an array, or those that a file begins with. Raises AudioError for a file that can't be decoded."""
    if source.rate is not None:
        return len(source.data) if source.data.ndim == 2 else 1
    with only_audio_errors(source.name):
        block = next(source.open(Findings(source.name, [], strict=False), COUNTED_IN).blocks, None)
    if block is None:
        raise AudioError(f"{source.name}: no samples in it", kind="empty")
    return int(block.shape[1])


class EachChannel:
    """Inputs -> one source a channel; iterating gives them, in order.

    - ``inputs``: of any kind; one that can't be read is one source, whose error it gives.
    - ``sampling_rate``: of bare arrays, Hz; ``rate``: that they are taken as without it.
    """

    def __init__(self, inputs: Iterable[Any], sampling_rate: float | None, rate: int) -> None:
        self._inputs, self._sampling_rate, self._rate = inputs, sampling_rate, rate
        self._counts: deque[int] = deque()  # channels of the inputs whose results are not together yet

    def __iter__(self) -> Iterator[Source | AudioError]:
        for index, x in enumerate(self._inputs):
            try:
                sources: list[Any] = channels_of(x, self._sampling_rate, self._rate)
            except AudioError as error:
                sources = [error]
            self._counts.append(len(sources))
            yield from (_named(source, index) for source in sources)

    def numbered(self, results: Iterable[tuple[T, bool]]) -> Iterator[tuple[int, int, T]]:
        """(result, whether it is its source's last) -> (number of the input, channel, result)."""
        index = channel = 0
        for result, is_last in results:
            yield index, channel, result
            if is_last:
                channel += 1
                if channel == self._counts[0]:
                    self._counts.popleft()
                    index, channel = index + 1, 0

    def together(self, results: Iterator[T]) -> Iterator[list[T]]:
        """A result for each source -> a list for each input, a result a channel."""
        for first in results:
            yield [first, *islice(results, self._counts.popleft() - 1)]


def _named(source: Any, index: int) -> Any:
    """A source or error without a name of its own, which messages call by the number of its input."""
    if isinstance(source, AudioError):
        if str(source).startswith("<"):
            source.args = (f"input {index}, {source}",)
        return source
    return source._replace(name=f"input {index}, {source.name}") if source.name.startswith("<") else source
