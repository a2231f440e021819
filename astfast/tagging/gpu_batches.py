"""A batch of clips that a GPU hears as a whole: a tensor that is there, or an array that is resampled there."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from astfast.audio.inputs import MAX_CHANNELS, rate_of_array
from astfast.audio.prefetch import warn_of_rest
from astfast.engines.cuda_graphs import DeviceEngine, best, whole
from astfast.errors import AudioError


def heard(
    engine: Any, batch: Any, sampling_rate: float | None, most: tuple[int, str] | None = None
) -> list[NDArray[Any]] | None:
    """``DeviceEngine.hear`` for a caller on the host: the logits, or for ``most`` = (k, activation) the k best scores
    and their labels. None for a batch that is better read on the CPU.

    ``batch`` [B, samples], one that the engine ``hears``, comes at ``sampling_rate`` Hz. Raises AudioError for a bad
    tensor.
    """
    if isinstance(batch, torch.Tensor):
        return _tensor(engine, batch, rate_of_array(sampling_rate, "<tensor>"), most)
    try:
        return _array(engine, batch, rate_of_array(sampling_rate, "<array>"), most)
    except AudioError:
        return None  # reading it clip by clip finds out which is bad, or says that it can be heard after all


def _tensor(engine: DeviceEngine, waves: torch.Tensor, rate: int, most: tuple[int, str] | None) -> list[NDArray[Any]]:
    seconds = engine.config.front_end.input_samples / engine.config.front_end.sampling_rate
    if waves.shape[1] / rate > seconds + 1 / rate:
        warnings.warn(
            f"the clips are {waves.shape[1] / rate:.1f} s long and only their first {seconds:.2f} s are heard: to tag "
            "all of it, pass window= (in seconds) and the clips in host memory",
            stacklevel=5,
        )
    results = _on_host(engine, waves, rate, most)
    if waves.is_floating_point():
        finite = waves.isfinite().all(1).cpu()
        if not finite.all():
            raise AudioError(
                f"input {int(finite.int().argmin())}, <tensor>: not finite: find out where NaN or infinity come from"
            )
    return results


def _array(
    engine: DeviceEngine, clips: NDArray[Any], rate: int, most: tuple[int, str] | None
) -> list[NDArray[Any]] | None:
    """In parts, so that no more than the clips of a call are on their way; None at the model's own rate (the engine's
    uploads of waveforms overlap with computing) and for what may be (samples, channels)."""
    front_end = engine.config.front_end
    if rate == front_end.sampling_rate or clips.shape[1] <= MAX_CHANNELS:
        return None
    starts = range(0, len(clips), engine.clips_a_call)
    parts = [_on_host(engine, clips[start : start + engine.clips_a_call], rate, most) for start in starts]
    seconds = front_end.input_samples / front_end.sampling_rate
    if clips.shape[1] / rate >= seconds + 0.5 / front_end.sampling_rate:  # it ends after what is heard, resampled
        warn_of_rest("<array>", clips.shape[1] / rate, seconds)
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _on_host(
    engine: DeviceEngine, waves: torch.Tensor | NDArray[Any], rate: int, most: tuple[int, str] | None
) -> list[NDArray[Any]]:
    finish = best(*most) if most else whole
    return [part.cpu().numpy() for part in finish(engine.hear(waves, rate))]
