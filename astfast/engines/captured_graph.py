"""One forward pass at one batch size, captured once, and a batch's way through it: pinned, uploaded, run, returned.

Buffers stay where they are, as a graph wants it. Two slots hold what is under way: while the device runs one batch, the
next is packed on the host and uploaded on a stream of its own. Between upload and download nothing waits on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from astfast.backends.cuda.runtime import Event, Runtime
from astfast.engines.eager import Batch

Kind = Literal["float32", "int16", "spectrogram"]  # of the input: waveforms by type of their samples, or log-mel
SLOTS = 2
FULL_SCALE = 32768.0  # of int16

Finish = Callable[[torch.Tensor], Sequence[torch.Tensor]]  # what of a program's output [B, ..] comes back


@dataclass
class Slot:
    """Buffers of one batch under way, like the program's inputs: pinned on the host, and on the device."""

    pinned: tuple[torch.Tensor, ...]
    staged: tuple[torch.Tensor, ...]
    consumed: Event  # the program has taken over what was staged; at first, the memory's last owner is done with it
    results: dict[int, torch.Tensor] = field(default_factory=dict)  # pinned, by place in the sequence


@dataclass(frozen=True)
class Running:
    """A batch that the device may still be working on."""

    results: tuple[torch.Tensor, ...]  # pinned
    done: Event

    def collect(self) -> list[NDArray[Any]]:
        """Waits for the results and returns them in memory of their own."""
        self.done.synchronize()
        return [result.numpy().copy() for result in self.results]


class Program:
    """``replay`` computes ``output`` from ``inputs``, all of them tensors that stay where they are."""

    def __init__(
        self, runtime: Runtime, inputs: tuple[torch.Tensor, ...], output: torch.Tensor, replay: Callable[[], None]
    ) -> None:
        self.inputs = inputs
        self.output = output
        self.replay = replay
        self._runtime = runtime
        self._slots: list[Slot] = []
        self._turn = 0

    def submit(self, clips: Batch, finish: Finish) -> Running:
        """Sends one batch on its way; at most SLOTS of them may be under way at a time."""
        slot = self._next_slot()
        fill(slot.pinned, clips)
        with self._runtime.upload_stream():
            self._runtime.wait_event(slot.consumed)
            for staged, pinned in zip(slot.staged, slot.pinned, strict=True):
                staged.copy_(pinned, non_blocking=True)
            uploaded = self._runtime.record_event()
        self._runtime.wait_event(uploaded)
        for mine, staged in zip(self.inputs, slot.staged, strict=True):
            mine.copy_(staged)
        slot.consumed = self._runtime.record_event()
        self.replay()
        results = tuple(self._download(slot, i, x) for i, x in enumerate(finish(self.output[: len(clips)])))
        return Running(results, self._runtime.record_event())

    def _next_slot(self) -> Slot:
        turn, self._turn = self._turn, (self._turn + 1) % SLOTS
        if turn == len(self._slots):
            pinned = tuple(self._runtime.pinned_zeros(tuple(x.shape), x.dtype) for x in self.inputs)
            staged = tuple(torch.empty_like(x) for x in self.inputs)
            self._slots.append(Slot(pinned, staged, self._runtime.record_event()))
        return self._slots[turn]

    def _download(self, slot: Slot, place: int, x: torch.Tensor) -> torch.Tensor:
        pinned = slot.results.get(place)
        if pinned is None or pinned.shape[1:] != x.shape[1:] or pinned.dtype != x.dtype or len(pinned) < len(x):
            shape = (len(self.output), *x.shape[1:])
            pinned = slot.results[place] = self._runtime.pinned_zeros(shape, x.dtype)
        return pinned[: len(x)].copy_(x, non_blocking=True)


def kind_of(clips: Batch) -> Kind:
    """How a batch is uploaded: an array of spectrograms, waveforms that are all int16, or float32 waveforms."""
    if isinstance(clips, np.ndarray):
        return "spectrogram"
    return "int16" if all(clip.dtype == np.int16 for clip in clips) else "float32"


def fill(buffers: tuple[torch.Tensor, ...], clips: Batch) -> None:
    """Clips into the first rows of the inputs of a program; waveforms have a second one, the lengths (0 where no clip
    is). What lies behind a clip's end stays what it was: it is not read."""
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
            rows[i, :samples] /= FULL_SCALE
