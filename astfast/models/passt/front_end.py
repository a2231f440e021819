"""PaSST's front end: 128 Kaldi mel bins up to 15 kHz of a pre-emphasised clip at 32 kHz.

Source: the authors' ``AugmentMelSTFT`` in evaluation (https://github.com/kkoutini/PaSST, models/preprocess.py), with
``fmin=0, fmax=None, fmax_aug_range=2000``, of which all published models are.
"""

from __future__ import annotations

from astfast.centred_log_mel import CentredLogMel

RATE = 32_000  # Hz
MELS = 128


def front_end(max_length: int = 998, hop_length: int = 320) -> CentredLogMel:
    """``ln(energy + 1e-5)``, plus 4.5 and by 5; ``hop_length`` is 320 samples but for two published models."""
    return CentredLogMel(
        sampling_rate=RATE,
        num_mel_bins=MELS,
        max_length=max_length,
        fft_length=1024,
        window_length=800,
        periodic=False,
        hop_length=hop_length,
        edges="reflect",
        mel="kaldi",
        highest_frequency=15_000.0,
        emphasis=0.97,
        log_factor=1.0,
        addend=1e-5,
        scale=(0.2,),
        offset=(0.9,),
    )
