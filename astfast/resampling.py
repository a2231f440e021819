"""Waveforms to another sampling rate, by soxr (HQ), block by block."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.errors import AudioError

FloatArray = NDArray[np.float32]


def resampled(
    blocks: Generator[FloatArray, None, None], rate: int, target_rate: int, name: str
) -> Generator[FloatArray, None, None]:
    """Blocks at ``rate`` -> the same audio at ``target_rate``, at least one sample of it.

    soxr's streaming gives the very samples that resampling the whole clip would, whatever the sizes of the blocks.
    """
    with contextlib.closing(blocks):
        if rate == target_rate:
            yield from blocks
            return
        resampler = _resampler(rate, target_rate, name)
        last = np.zeros(1, np.float32)
        made = 0
        for block in blocks:
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
    return np.concatenate([*resampled((wave for wave in [wave]), rate, target_rate, "<waveform>")])


def _resampler(rate: int, target_rate: int, name: str) -> Any:
    try:
        import soxr
    except ImportError as error:
        raise AudioError(
            f"{name}: {rate} Hz must be resampled to {target_rate} Hz, which needs the package soxr ({error}): "
            "pip install soxr",
            kind="unsupported",
        ) from error
    return soxr.ResampleStream(rate, target_rate, 1, dtype="float32", quality="HQ")
