"""Audio without an end: chunks of any size as they come -> mono blocks at the model's rate, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.audio.arrays import blocks_of, checked_rate, clip_samples, to_numpy
from astfast.audio.mono import to_mono
from astfast.audio.parts import Findings
from astfast.notes import Note
from astfast.pcm import LIVE, RAW
from astfast.resampling import resampled


def live_blocks(
    chunks: Iterable[Any], sampling_rate: float, target_rate: int, notes: list[Note]
) -> Generator[NDArray[np.float32], None, None]:
    """Chunks [samples] or [samples, channels] of floats or integer PCM -> blocks [samples] at ``target_rate``.

    Raises AudioError for an impossible rate, for chunks that are no audio, and for samples that are not finite.
    """
    rate = checked_rate(sampling_rate, LIVE)
    blocks = (
        block
        for chunk in chunks
        if len(chunk)
        for block in blocks_of(clip_samples(to_numpy(chunk, LIVE).T, LIVE), rate)
    )
    mono = to_mono(blocks, rate, "mean", math.inf, Findings(LIVE, notes, strict=False), keep=False)
    return resampled(mono, rate, target_rate, LIVE)


def raw_chunks(file: Any, encoding: str, channels: int) -> Iterator[NDArray[Any]]:
    """PCM from a pipe, each chunk as soon as it is there: [samples, channels]. ``encoding``: a key of RAW."""
    dtype = np.dtype(RAW[encoding])
    size = dtype.itemsize * channels
    rest = b""
    while read := file.read1():
        data = rest + read
        whole = len(data) // size * size
        rest = data[whole:]
        yield np.frombuffer(data[:whole], dtype).reshape(-1, channels)
