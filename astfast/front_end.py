"""Log-mel front ends as numbers: from a waveform to the normalised spectrogram that a model reads.

A ``FrontEnd`` is a value whose type says which formula it is: ``KaldiFbank`` is that of every AST checkpoint,
``CentredLogMel`` (in a module of its own, which few processes need) that of CED, PaSST and MAEST. Every
backend builds its tables from here, in float64, so that they can differ only in how they round.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astfast.errors import UnsupportedModel

PRE_EMPHASIS = 0.97
LOG_FLOOR = 1.1920928955078125e-07  # float32 epsilon: log(max(energy, LOG_FLOOR))
LOWEST_FREQUENCY = 20.0  # Hz, the lower edge of the first mel filter; the last one ends at the Nyquist frequency


@dataclass(frozen=True)
class FrontEnd(ABC):
    """Sizes of a front end, whatever its formula: all that a caller of a backend needs to know.

    ``max_length`` is the number of frames that the model reads at most: longer spectrograms are truncated.
    """

    sampling_rate: int  # Hz
    num_mel_bins: int
    max_length: int  # frames

    @property
    @abstractmethod
    def input_samples(self) -> int:
        """The fewest samples that fill ``max_length`` frames."""

    @abstractmethod
    def num_frames(self, samples: int) -> int:
        """Frames that ``samples`` samples make, at least 1."""

    def frames_read(self, samples: int) -> int:  # noqa: ARG002
        """Frames of the spectrogram that the model gets of a clip: ``max_length``, to which a shorter one is padded,
        unless the formula says otherwise."""
        return self.max_length


@dataclass(frozen=True)
class KaldiFbank(FrontEnd):
    """Kaldi filter banks, with the constants that every AST checkpoint was trained on.

    Spectrograms are padded with zeros or truncated *before* ``(x - mean) / (2 * std)``, so a padded frame is
    ``-mean / (2 * std)``, not silence. Source: ``torchaudio.compliance.kaldi.fbank(htk_compat=True, use_energy=False,
    window_type="hanning", dither=0)``, as called by the AST authors' dataloader and by transformers'
    ``ASTFeatureExtractor``.
    """

    sampling_rate: int = 16_000
    num_mel_bins: int = 128
    max_length: int = 1024
    mean: float = -4.2677393  # of log-mel energies over the training set (AudioSet by default)
    std: float = 4.5689974
    do_normalize: bool = True

    @property
    def frame_length(self) -> int:
        """Samples in a frame: 25 ms."""
        return int(self.sampling_rate * 0.025)

    @property
    def frame_shift(self) -> int:
        """Samples between the starts of two frames: 10 ms."""
        return int(self.sampling_rate * 0.010)

    @property
    def fft_length(self) -> int:
        """The frame length rounded up to a power of two."""
        return 1 << (self.frame_length - 1).bit_length()

    @property
    def input_samples(self) -> int:
        return (self.max_length - 1) * self.frame_shift + self.frame_length

    @property
    def scale(self) -> float:
        """Multiplier of the normalisation ``(x - shift) * scale``."""
        return 1.0 / (2.0 * self.std) if self.do_normalize else 1.0

    @property
    def shift(self) -> float:
        """Subtrahend of the normalisation ``(x - shift) * scale``."""
        return self.mean if self.do_normalize else 0.0

    def num_frames(self, samples: int) -> int:
        """Frames that ``samples`` samples make; a clip shorter than one frame is padded to one with zeros."""
        return 1 + max(0, samples - self.frame_length) // self.frame_shift


def unknown(front_end: FrontEnd, backend: str) -> UnsupportedModel:
    """The error of a backend for a front end whose formula it has not."""
    return UnsupportedModel(
        f"the {backend} backend doesn't compute the model's front end, {type(front_end).__name__}: pass another "
        "backend= or device="
    )


def analysis_window(frame_length: int) -> NDArray[np.float64]:
    """Symmetric Hann window (``torch.hann_window(n, periodic=False)``), [frame_length]."""
    n = np.arange(frame_length, dtype=np.float64)
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * n / (frame_length - 1))


def mel_scale(frequency: ArrayLike) -> NDArray[np.float64]:
    """Kaldi's mel scale, ``1127 ln(1 + f / 700)``, f in Hz."""
    return 1127.0 * np.log1p(np.asarray(frequency, dtype=np.float64) / 700.0)


def mel_filters(front_end: KaldiFbank) -> NDArray[np.float64]:
    """Triangular mel filters over the power spectrum, [num_mel_bins, fft_length // 2 + 1].

    Equally spaced on the mel scale from 20 Hz to the Nyquist frequency, triangles taken in mel space, no area
    normalisation; the Nyquist bin is unused (Kaldi's ``get_mel_banks``).
    """
    bins = front_end.fft_length // 2
    edges = np.linspace(
        mel_scale(LOWEST_FREQUENCY), mel_scale(front_end.sampling_rate / 2), front_end.num_mel_bins + 2
    )  # [num_mel_bins + 2]
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    mel = mel_scale(np.arange(bins) * (front_end.sampling_rate / front_end.fft_length))[None]  # [1, bins]
    triangles = np.maximum(0.0, np.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)))
    return np.pad(triangles, ((0, 0), (0, 1)))
