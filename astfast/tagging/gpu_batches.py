"""Batches of clips that a GPU engine takes whole: a tensor on the device, or an array that is resampled there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from astfast.audio.arrays import MAX_CHANNELS, is_array, rate_of_array
from astfast.audio.kinds import check_two_rows, samples_read
from astfast.audio.mono import SUSPICIOUS_PEAK, not_finite
from astfast.audio.prefetch import ReadOptions, truncated
from astfast.audio.windows import Window
from astfast.engines.base import DeviceBatch, Engine
from astfast.errors import AudioError
from astfast.notes import Note
from astfast.spans import ignored_tail


@dataclass(frozen=True)
class DeviceClips:
    """A 2-D batch on its way to the device, one window a clip."""

    waves: Any  # tensor on the engine's device, or array: [B, samples], float32 or int16
    rate: int  # Hz
    window: Window  # the same for all clips, without samples
    notes: tuple[Note, ...]
    name: str  # what messages call a clip

    def batches(self, size: int) -> Iterator[DeviceBatch]:
        """A tensor as a whole, for it is on the device already; an array in parts of ``size`` clips."""
        size = size if isinstance(self.waves, np.ndarray) else len(self.waves)
        for start in range(0, len(self.waves), size):
            yield DeviceBatch(self.waves[start : start + size], self.rate)

    def finite(self, batch: DeviceBatch) -> Any:
        """Whether each clip of a batch is finite, [B] bool; on the device, without waiting for it. An array was checked
        before, and integers are finite: None."""
        if isinstance(batch.waves, np.ndarray) or not batch.waves.is_floating_point():
            return None
        return batch.waves.isfinite().all(1)

    def error(self, index: int) -> AudioError:
        """The error for a clip with samples that are not finite."""
        return not_finite(f"input {index}, {self.name}", "somewhere in it")


def device_clips(engine: Engine, batch: Any, options: ReadOptions) -> DeviceClips | None:
    """The batch for the engine's device, or None for one that is better read clip by clip on the CPU.

    That is an array at the model's own rate (uploads of waveforms overlap with computing), one that may be (samples,
    channels), and one that may have to be refused or warned of.
    """
    if options.window is not None or options.channel not in ("mean", "max", 0) or not is_array(batch):
        return None
    on_host = isinstance(batch, np.ndarray)
    name = "<array>" if on_host else "<tensor>"
    try:
        rate, notes = rate_of_array(options.sampling_rate, options.rate, name)
    except AudioError:  # raised again for each clip
        return None
    if not engine.accepts_on_device(DeviceBatch(batch, rate)):
        return None
    if on_host and (rate == options.rate or batch.shape[1] <= MAX_CHANNELS or _suspicious(batch, rate, options)):
        return None
    check_two_rows(batch)
    seconds = options.samples / options.rate
    duration = batch.shape[1] / rate
    if batch.shape[1] * options.rate > (options.samples + ignored_tail(options.rate)) * rate:
        notes = (*notes, truncated(name, duration, seconds))
    return DeviceClips(batch, rate, Window.of_times(0.0, min(seconds, duration)), notes, name)


def _suspicious(clips: Any, rate: int, options: ReadOptions) -> bool:
    """Whether the part of float clips that the CPU would read has samples that it would refuse or warn of."""
    if clips.dtype != np.float32:
        return False
    read = clips[:, : samples_read(options.samples, options.rate, rate)]
    return not (read.min() >= -SUSPICIOUS_PEAK and read.max() <= SUSPICIOUS_PEAK)  # NaN is neither
