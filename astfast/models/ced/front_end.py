"""CED's front end: 64 HTK mel bins in decibels, at most 120 below the clip's loudest, and a BatchNorm over mel bins.

Source: torchaudio's ``MelSpectrogram(n_fft=512, win_length=512, hop_length=160, n_mels=64)`` and
``AmplitudeToDB(top_db=120)``, as the authors use them (https://github.com/RicherMans/CED, models/audiotransformer.py).
They take the maximum over a batch; here it is each clip's own, so that no clip's tags depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from astfast.centred_log_mel import CentredLogMel

RATE = 16_000  # Hz
MELS = 64
FRAMES = 1012  # 10.1 s, that the models were trained on


def front_end(
    scale: Sequence[float] = (1.0,), offset: Sequence[float] = (0.0,), max_length: int = FRAMES
) -> CentredLogMel:
    """Decibels times ``scale`` plus ``offset``, of each mel bin: the BatchNorm; left out, decibels as they are."""
    return CentredLogMel(
        sampling_rate=RATE,
        num_mel_bins=MELS,
        max_length=max_length,
        fft_length=512,
        window_length=512,
        periodic=True,
        hop_length=160,
        edges="reflect",
        mel="htk",
        highest_frequency=8000.0,
        log_factor=10.0 / math.log(10.0),
        floor=1e-10,
        top_db=120.0,
        scale=tuple(scale),
        offset=tuple(offset),
    )
