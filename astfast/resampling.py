"""Waveforms to another sampling rate, by soxr (HQ), block by block."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.errors import AudioError

FloatArray = NDArray[np.float32]

QUALITY = "HQ"


class Rates(int):
    """Several sampling rates as one number, their greatest common divisor: audio at them is cut and counted at it.

    A sample at it is a row [columns]: the samples of the same moment at ``each`` rate, NaN beyond a waveform's end.
    """

    def __new__(cls, each: tuple[int, ...]) -> Rates:
        return super().__new__(cls, math.gcd(*each))

    def __init__(self, each: tuple[int, ...]) -> None:
        self.each = each
        self.widths = tuple(rate // self for rate in each)  # columns

    def __getnewargs__(self) -> tuple[Any]:
        return (self.each,)

    def joined(self, waves: Sequence[FloatArray], rows: int) -> FloatArray:
        """Waveforms at each rate -> so many rows."""
        joined = np.full((rows, sum(self.widths)), np.nan, np.float32)
        for wave, columns in zip(waves, self._columns, strict=True):
            width = columns.stop - columns.start
            whole = len(wave) // width
            joined[:whole, columns] = wave[: whole * width].reshape(whole, width)
            joined[whole : whole + 1, columns.start : columns.start + len(wave) % width] = wave[whole * width :]
        return joined

    def apart(self, rows: FloatArray) -> list[FloatArray]:
        """Rows -> the waveform at each rate."""
        waves = [rows[:, columns].ravel() for columns in self._columns]
        return [wave[: len(wave) - int(np.isnan(wave[::-1]).argmin())] for wave in waves]

    def last(self, rows: FloatArray, count: int) -> FloatArray:
        """The last rows of a clip, of which each rate has all its samples, though the clip ends within a row."""
        count = min(count, len(rows))
        waves = zip(self.apart(rows), self.widths, strict=True)
        return self.joined([wave[-count * width :] for wave, width in waves], count)

    @property
    def _columns(self) -> list[slice]:
        ends = [*itertools.accumulate(self.widths)]
        return [slice(end - width, end) for end, width in zip(ends, self.widths, strict=True)]


def resampled(
    blocks: Generator[FloatArray, None, None], rate: int, target_rate: int, name: str, may_be_one: bool = False
) -> Generator[FloatArray, None, None]:
    """Blocks at ``rate`` -> the same audio at ``target_rate``, at least one sample of it; of Rates, rows.

    soxr's streaming gives the very samples that resampling the whole clip would, whatever the sizes of the blocks.
    ``may_be_one``: look for a second block first; a single one takes one call, which doesn't hold the interpreter's
    lock while filters are made and freed.
    """
    with contextlib.closing(blocks):
        if isinstance(target_rate, Rates):
            yield from _at_each(blocks, rate, target_rate, name, may_be_one)
            return
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
    return np.concatenate([*resampled((wave for wave in [wave]), rate, target_rate, "<waveform>", may_be_one=True)])


def _at_each(
    blocks: Generator[FloatArray, None, None], rate: int, rates: Rates, name: str, may_be_one: bool
) -> Generator[FloatArray, None, None]:
    """Rows of ``rates``, each rate resampled from the blocks themselves."""
    copies = itertools.tee(blocks, len(rates.each))
    streams = [
        resampled((block for block in copy), rate, one, name, may_be_one)
        for copy, one in zip(copies, rates.each, strict=True)
    ]
    nothing = np.empty(0, np.float32)
    held = [nothing] * len(streams)
    for found in itertools.zip_longest(*streams, fillvalue=nothing):
        held = [np.concatenate(parts) for parts in zip(held, found, strict=True)]
        rows = min(len(wave) // width for wave, width in zip(held, rates.widths, strict=True))
        if rows:
            yield rates.joined([wave[: rows * width] for wave, width in zip(held, rates.widths, strict=True)], rows)
        held = [wave[rows * width :] for wave, width in zip(held, rates.widths, strict=True)]
    rows = max(-(-len(wave) // width) for wave, width in zip(held, rates.widths, strict=True))
    if rows:
        yield rates.joined(held, rows)


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
