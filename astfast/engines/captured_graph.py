"""CUDA graph of one forward pass at one batch size, with pinned staging buffers and asynchronous batches.

A graph needs its buffers at fixed addresses. Buffers for SLOTS batches are staged: while the device runs one batch, the
host packs the next and uploads it on a stream of its own. The host waits only when results are collected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from astfast.backends.cuda.runtime import Event, Runtime
from astfast.engines.base import FloatArray, Waves
from astfast.engines.postprocess import Postprocess
from astfast.pcm import INT16_FULL_SCALE

SLOTS = 2  # batches under way at a time
InputKind = Literal["float32", "int16", "spectrogram"]  # waveforms by type of their samples, or log-mel spectrograms
HostClips = Waves | FloatArray  # waveforms, or spectrograms [B, max_length, num_mel_bins]


@dataclass
class StagingBuffers:
    """Copies of a graph's inputs for one batch under way: in pinned host memory and on the device."""

    pinned: tuple[torch.Tensor, ...]
    on_device: tuple[torch.Tensor, ...]
    consumed: Event  # ``on_device`` has been copied to the graph's inputs; at first, its memory is free to be written


@dataclass(frozen=True)
class PendingBatch:
    """Results of a batch that the device may still be working on."""

    results: tuple[torch.Tensor, ...]  # pinned
    done: Event

    def collect(self) -> list[NDArray[Any]]:
        """Waits for the results and returns copies of them."""
        self.done.synchronize()
        return [result.numpy().copy() for result in self.results]


class CapturedGraph:
    """A captured forward pass: ``replay`` computes ``output`` from ``inputs``, tensors at fixed addresses.

    - ``inputs``: waveforms [bucket, samples] and their lengths [bucket] int32, or spectrograms only.
    - ``output``: [bucket, ..] float32.
    """

    def __init__(
        self, runtime: Runtime, inputs: tuple[torch.Tensor, ...], output: torch.Tensor, replay: Callable[[], None]
    ) -> None:
        self.inputs = inputs
        self.output = output
        self.replay = replay
        self._runtime = runtime
        self._staging: list[StagingBuffers | None] = [None] * SLOTS
        self._results: list[dict[int, torch.Tensor]] = [{} for _ in range(SLOTS)]  # pinned, by place in the sequence
        self._next_slot = 0

    def submit(self, clips: HostClips | torch.Tensor, postprocess: Postprocess) -> PendingBatch:
        """Starts one batch, on the current stream; at most SLOTS of them may be pending.

        ``clips``: waveforms or spectrograms in host memory, or a tensor of either on the device, see ``load``.
        """
        slot, self._next_slot = self._next_slot, (self._next_slot + 1) % SLOTS
        if isinstance(clips, torch.Tensor):
            self.load(clips)
        else:
            self._upload(clips, slot)
        self.replay()
        outputs = postprocess(self.output[: len(clips)])
        results = tuple(self._download(self._results[slot], place, x) for place, x in enumerate(outputs))
        return PendingBatch(results, self._runtime.record_event())

    def load(self, clips: torch.Tensor) -> None:
        """Copies clips on the device, waveforms [B, samples] or spectrograms [B, frames, mels], to ``inputs``."""
        if len(self.inputs) == 1:
            self.inputs[0][: len(clips)].copy_(clips)
            return
        waves, lengths = self.inputs
        waves[: len(clips), : clips.shape[1]].copy_(clips)
        lengths[: len(clips)].fill_(clips.shape[1])

    def _upload(self, clips: HostClips, slot: int) -> None:
        """Copies clips in host memory to the graph's inputs, by way of the slot's staging buffers."""
        staging = self._staging[slot] = self._staging[slot] or self._new_staging_buffers()
        fill(staging.pinned, clips)
        with self._runtime.upload_stream():
            self._runtime.wait_event(staging.consumed)
            for on_device, pinned in zip(staging.on_device, staging.pinned, strict=True):
                on_device.copy_(pinned, non_blocking=True)
            uploaded = self._runtime.record_event()
        self._runtime.wait_event(uploaded)
        for mine, on_device in zip(self.inputs, staging.on_device, strict=True):
            mine.copy_(on_device)
        staging.consumed = self._runtime.record_event()

    def _new_staging_buffers(self) -> StagingBuffers:
        pinned = tuple(self._runtime.pinned_zeros(tuple(x.shape), x.dtype) for x in self.inputs)
        return StagingBuffers(pinned, tuple(map(torch.empty_like, self.inputs)), self._runtime.record_event())

    def _download(self, buffers: dict[int, torch.Tensor], place: int, x: torch.Tensor) -> torch.Tensor:
        pinned = buffers.get(place)
        if pinned is None or pinned.shape[1:] != x.shape[1:] or pinned.dtype != x.dtype or len(pinned) < len(x):
            shape = (len(self.output), *x.shape[1:])
            pinned = buffers[place] = self._runtime.pinned_zeros(shape, x.dtype)
        return pinned[: len(x)].copy_(x, non_blocking=True)


def input_kind(clips: HostClips) -> InputKind:
    """Kind of input of clips in host memory: spectrograms if it is one array, int16 if all waveforms are."""
    if isinstance(clips, np.ndarray):
        return "spectrogram"
    return "int16" if all(clip.dtype == np.int16 for clip in clips) else "float32"


def fill(buffers: tuple[torch.Tensor, ...], clips: HostClips) -> None:
    """Copies clips to the first rows of pinned input buffers: spectrograms, or waveforms and lengths (0 without clip).

    Samples after the end of a clip keep old values: they are not read.
    """
    rows = buffers[0].numpy()
    if len(buffers) == 1:
        rows[: len(clips)] = clips
        return
    lengths = buffers[1].numpy()
    lengths[:] = 0
    for i, clip in enumerate(clips):
        lengths[i] = samples = min(len(clip), rows.shape[1])
        rows[i, :samples] = clip[:samples]
        if clip.dtype == np.int16 and rows.dtype == np.float32:
            rows[i, :samples] /= INT16_FULL_SCALE
