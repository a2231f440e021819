"""2-D batches of clips that go to the GPU as they are: tensors on it, and arrays that are resampled there."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from astfast.audio.files import VALUES_PER_BLOCK
from astfast.audio.inputs import LOUD, MAX_CHANNELS, rate_of_array
from astfast.audio.prefetch import warn_of_rest
from astfast.engines.base import DeviceBatch
from astfast.errors import AudioError


def run_on_device(
    engine: Any, batch: Any, sampling_rate: float | None, top_k: tuple[int, str] | None = None
) -> list[NDArray[Any]] | None:
    """The logits, or for ``top_k`` = (k, activation) the k best scores and their labels, in host memory.

    ``batch`` [B, samples], one that the engine accepts on its device, comes at ``sampling_rate`` Hz. None for a batch
    that is better read on the CPU. Raises AudioError for a bad tensor.
    """
    if isinstance(batch, torch.Tensor):
        return _tensor(engine, batch, rate_of_array(sampling_rate, "<tensor>"), top_k)
    try:
        return _array(engine, batch, rate_of_array(sampling_rate, "<array>"), top_k)
    except AudioError:
        return None  # reading it clip by clip finds out which is bad, or that the CPU can resample it


def _tensor(engine: Any, waves: torch.Tensor, rate: int, top_k: tuple[int, str] | None) -> list[NDArray[Any]]:
    seconds = engine.input_samples / engine.sampling_rate
    if waves.shape[1] / rate > seconds + 1 / rate:
        warnings.warn(
            f"the clips are {waves.shape[1] / rate:.1f} s long and only their first {seconds:.2f} s are heard: to tag "
            "all of it, pass window= (in seconds) and the clips in host memory",
            stacklevel=5,
        )
    results = _results(engine, DeviceBatch(waves, rate), top_k)
    if waves.is_floating_point():
        finite = waves.isfinite().all(1).cpu()
        if not finite.all():
            raise AudioError(
                f"input {int(finite.int().argmin())}, <tensor>: not finite: find out where NaN or infinity come from"
            )
    return results


def _array(engine: Any, clips: NDArray[Any], rate: int, top_k: tuple[int, str] | None) -> list[NDArray[Any]] | None:
    """None at the model's own rate, where uploads of waveforms overlap with computing, and for what may be (samples,
    channels). Raises AudioError for samples that the CPU path would refuse or warn of."""
    if rate == engine.sampling_rate or clips.shape[1] <= MAX_CHANNELS:
        return None
    seconds = engine.input_samples / engine.sampling_rate
    read = clips[:, : int(seconds * rate) + 1 + 2 * VALUES_PER_BLOCK]  # as far as the CPU path reads, or farther
    if read.dtype == np.float32 and not (read.min() >= -LOUD and read.max() <= LOUD):  # NaN is neither
        raise AudioError(f"an array of clips holds samples that are not finite, or far from [-1, 1] (+-{LOUD:g})")
    results = _results(engine, DeviceBatch(clips, rate), top_k)
    if clips.shape[1] / rate >= seconds + 0.5 / engine.sampling_rate:  # it ends after the model's input, resampled
        warn_of_rest("<array>", clips.shape[1] / rate, seconds)
    return results


def _results(engine: Any, batch: DeviceBatch, top_k: tuple[int, str] | None) -> list[NDArray[Any]]:
    return [engine.logits(batch)] if top_k is None else list(engine.top_k(batch, *top_k))
