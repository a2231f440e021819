"""Log-mel front ends of centred frames, those of CED, PaSST and MAEST, as numbers; see ``front_end.py`` for Kaldi's.

The signal, mirrored or continued with zeros at its ends, is cut into windows centred at 0, ``hop_length``, 2
``hop_length``, ... (as ``torch.stft(center=True)`` does); of each, the power spectrum |X|^2 goes through mel filters:

    energy = filters . |FFT(window * frame)|^2
    log    = log_factor * ln(max(gain * energy, floor) + addend), at least the clip's maximum - top_db if there is one
    out    = log * scale + offset, a factor and an offset for each mel bin or one for all
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from astfast.front_end import FrontEnd, mel_scale

Matrix = NDArray[np.float64]
Hertz = NDArray[np.float64]
MelScale = Literal["htk", "slaney", "kaldi"]
LOG_STEP = math.log(6.4) / 27.0  # of Slaney's mel scale above 1 kHz


@dataclass(frozen=True, kw_only=True)
class CentredLogMel(FrontEnd):
    """Parameters of a front end of centred frames.

    ``max_length`` is the longest spectrogram that the model reads. A shorter clip has as many frames as it is long,
    unless ``fixed_length`` asks for ``max_length`` frames, of which those after the clip have a logarithm of 0.
    """

    fft_length: int  # samples
    window_length: int  # samples, centred in the transform
    periodic: bool  # Hann window: periodic or symmetric
    hop_length: int  # samples between the centres of two frames
    edges: Literal["reflect", "constant"]
    mel: MelScale
    highest_frequency: float  # Hz, where the last filter ends; the first begins at 0
    log_factor: float
    scale: tuple[float, ...]  # one for each mel bin, or one for all
    offset: tuple[float, ...]
    emphasis: float = 0.0  # e of the signal x[i + 1] - e x[i]; 0 for the waveform as it is
    gain: float = 1.0
    floor: float = 0.0
    addend: float = 0.0
    top_db: float | None = None  # in units of ``log``
    fixed_length: bool = False
    shortest: int = 16  # frames: shorter clips are continued with zeros

    @property
    def input_samples(self) -> int:
        """The samples that frames up to ``max_length`` read: what follows them changes none."""
        return self._samples(self.max_length - 1) + self.window_length // 2

    @property
    def fewest_samples(self) -> int:
        """Samples of ``shortest`` frames, to which a shorter clip is continued."""
        return self._samples(self.shortest - 1)

    def _samples(self, hops: int) -> int:
        return hops * self.hop_length + (self.emphasis != 0)

    def num_frames(self, samples: int) -> int:
        return 1 + (max(samples, self.fewest_samples) - (self.emphasis != 0)) // self.hop_length

    def frames_read(self, samples: int) -> int:
        return self.max_length if self.fixed_length else min(self.num_frames(samples), self.max_length)


def analysis_window(front_end: CentredLogMel) -> Matrix:
    """Hann window, [window_length]: ``torch.hann_window(n, periodic)``."""
    n = front_end.window_length
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n) / (n if front_end.periodic else n - 1))


def mel_filters(front_end: CentredLogMel) -> Matrix:
    """Triangular mel filters over the power spectrum, times ``gain``, [num_mel_bins, fft_length // 2 + 1].

    "htk" and "slaney" are ``torchaudio.functional.melscale_fbanks`` with ``norm=None`` and ``norm="slaney"`` (each
    triangle over its area): equally spaced on their mel scale, straight in Hz. "kaldi" is ``get_mel_banks`` of
    ``torchaudio.compliance.kaldi``: straight in mel. No filter reads the Nyquist bin.
    """
    bins = front_end.fft_length // 2
    frequency = np.arange(bins, dtype=np.float64) * (front_end.sampling_rate / front_end.fft_length)
    to_mel, to_hertz = _SCALES[front_end.mel]
    low, high = to_mel(np.array([0.0, front_end.highest_frequency]))
    edges: Matrix = np.linspace(low, high, front_end.num_mel_bins + 2).astype(np.float64)
    points = to_mel(frequency)
    if front_end.mel != "kaldi":
        edges, points = to_hertz(edges), frequency
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.maximum(0.0, np.minimum((points - left) / (centre - left), (right - points) / (right - centre)))
    if front_end.mel == "slaney":
        triangles *= 2.0 / (right - left)
    return np.pad(front_end.gain * triangles, ((0, 0), (0, 1)))


def htk_mel(frequency: Hertz) -> Matrix:
    """HTK's mel scale, ``2595 log10(1 + f / 700)``, f in Hz."""
    return 2595.0 * np.log10(1.0 + frequency / 700.0)


def htk_hertz(mel: Matrix) -> Hertz:
    """Inverse of ``htk_mel``."""
    return 700.0 * np.expm1(mel * (math.log(10.0) / 2595.0))


def slaney_mel(frequency: Hertz) -> Matrix:
    """Slaney's mel scale: linear to 1 kHz, which is 15, logarithmic above."""
    return np.where(
        frequency < 1000.0, frequency * 0.015, 15.0 + np.log(np.maximum(frequency, 1000.0) / 1000.0) / LOG_STEP
    )


def slaney_hertz(mel: Matrix) -> Hertz:
    """Inverse of ``slaney_mel``."""
    return np.where(mel < 15.0, mel / 0.015, 1000.0 * np.exp(LOG_STEP * (mel - 15.0)))


_SCALES: dict[MelScale, tuple[Callable[[Hertz], Matrix], Callable[[Matrix], Hertz]]] = {
    "htk": (htk_mel, htk_hertz),
    "slaney": (slaney_mel, slaney_hertz),
    "kaldi": (mel_scale, lambda mel: 700.0 * np.expm1(mel / 1127.0)),
}
