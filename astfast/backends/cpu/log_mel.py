"""Front ends on the native kernels: what each formula is for them, and what NumPy does before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astfast import front_end as kaldi
from astfast.backends.cpu.tiers import native
from astfast.front_end import FrontEnd, KaldiFbank

if TYPE_CHECKING:
    from astfast.centred_log_mel import CentredLogMel

FloatArray = NDArray[np.float32]
LogMel = Callable[[Sequence[FloatArray], NDArray[Any], int], None]  # (waves, out, threads), see Ops.log_mel


def log_mel_of(front_end: FrontEnd, tier: str) -> LogMel:
    """The front end's kernel on one tier. Raises BackendError for a formula that this backend has not."""
    if isinstance(front_end, KaldiFbank):
        kernel: LogMel = (
            native()
            .LogMel(
                tier,
                front_end.frame_length,
                front_end.frame_shift,
                front_end.fft_length,
                front_end.num_mel_bins,
                kaldi.PRE_EMPHASIS,
                kaldi.LOG_FLOOR,
                front_end.shift,
                front_end.scale,
                kaldi.analysis_window(front_end.frame_length),
                kaldi.mel_filters(front_end),
            )
            .run
        )
        return kernel
    from astfast.centred_log_mel import CentredLogMel  # of few models

    if not isinstance(front_end, CentredLogMel):
        raise kaldi.unknown(front_end, "cpu")
    return _centred(front_end, tier)


def _centred(front_end: CentredLogMel, tier: str) -> LogMel:
    """A normalisation that is the same for all bins is the kernel's; else it follows, as does ``top_db``."""
    from astfast.centred_log_mel import analysis_window, mel_filters

    scale, offset = (np.array(x, np.float32) for x in (front_end.scale, front_end.offset))
    alike = scale.size == offset.size == 1 and front_end.top_db is None and front_end.scale[0] != 0.0
    kernel = native().LogMel(
        tier,
        front_end.window_length,
        front_end.hop_length,
        front_end.fft_length,
        front_end.num_mel_bins,
        0.0,
        front_end.floor,
        -front_end.offset[0] / (front_end.scale[0] * front_end.log_factor) if alike else 0.0,
        front_end.log_factor * (front_end.scale[0] if alike else 1.0),
        analysis_window(front_end),
        mel_filters(front_end),
        front_end.edges,
        front_end.emphasis,
        front_end.addend,
    )

    def run(waves: Sequence[FloatArray], out: NDArray[Any], threads: int) -> None:
        kernel.run([_padded(wave, front_end.fewest_samples) for wave in waves], out, threads)
        if alike:
            return
        if front_end.top_db is not None:
            for spectrogram, wave in zip(out, waves, strict=True):
                filled = spectrogram[: front_end.num_frames(len(wave))]
                np.maximum(filled, filled.max() - np.float32(front_end.top_db), out=filled)
        np.multiply(out, scale, out=out)
        np.add(out, offset, out=out)

    return run


def _padded(wave: FloatArray, samples: int) -> FloatArray:
    """The clip, continued with zeros to as many samples."""
    return wave if len(wave) >= samples else np.pad(wave, (0, samples - len(wave)))
