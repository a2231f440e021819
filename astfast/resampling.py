"""Waveforms to another sampling rate, by soxr (HQ), block by block."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.errors import AudioError

FloatArray = NDArray[np.float32]

QUALITY = "HQ"


def resampled(
    blocks: Generator[FloatArray, None, None], rate: int, target_rate: int, name: str, may_be_one: bool = False
) -> Generator[FloatArray, None, None]:
    """Blocks at ``rate`` -> the same audio at ``target_rate``, at least one sample of it.

    soxr's streaming gives the very samples that resampling the whole clip would, whatever the sizes of the blocks.
    ``may_be_one``: look for a second block first; a single one takes one call, which doesn't hold the interpreter's
    lock while filters are made and freed.
    """
    with contextlib.closing(blocks):
        if rate == target_rate:
            yield from blocks
            return
        soxr = _soxr(rate, target_rate, name)
        ahead = list(itertools.islice(blocks, 2)) if may_be_one else []
        if len(ahead) == 1:
            resampled = soxr.resample(np.ascontiguousarray(ahead[0]), rate, target_rate, quality=QUALITY)
            yield resampled if len(resampled) else ahead[0].mean(keepdims=True)
            return
        resampler = soxr.ResampleStream(rate, target_rate, 1, dtype="float32", quality=QUALITY)
        last = np.zeros(1, np.float32)
        made = 0
        for block in itertools.chain(ahead, blocks):
            last = block
            resampled = resampler.resample_chunk(np.ascontiguousarray(block))
            made += len(resampled)
            if len(resampled):
                yield resampled
        resampled = resampler.resample_chunk(last[:0], last=True)
        if len(resampled):
            yield resampled
        elif not made:  # a few samples at a high rate
            yield last.mean(keepdims=True)


def at_rate(wave: FloatArray, rate: int, target_rate: int) -> FloatArray:
    """A whole waveform at ``rate`` -> at ``target_rate``, as ``resampled``."""
    (whole,) = resampled((wave for wave in [wave]), rate, target_rate, "<waveform>", may_be_one=True)
    return whole


def _soxr(rate: int, target_rate: int, name: str) -> Any:
    try:
        import soxr
    except ImportError as error:
        raise AudioError(
            f"{name}: {rate} Hz must be resampled to {target_rate} Hz, which needs the package soxr ({error}): "
            "pip install soxr",
            kind="unsupported",
        ) from error
    return soxr
