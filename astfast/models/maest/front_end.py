"""MAEST's front ends: 96 Slaney mel bins, ``log10(1 + 10000 energy)``, mean and deviation of the training set.

The authors' code mirrors a clip at its ends and takes it as long as it is; the extractor of the hub's folders
(``MAESTFeatureExtractor``) continues it with zeros, to the length that the model was trained on. Sources:
https://github.com/palonso/MAEST (models/maest.py, models/helpers) and
https://huggingface.co/mtg-upf/discogs-maest-30s-pw-129e.
"""

from __future__ import annotations

import math

from astfast.centred_log_mel import CentredLogMel

RATE = 16_000  # Hz
MELS = 96
MEAN, STD = 2.06755686098554, 1.268292820667291


def front_end(max_length: int, hub: bool, mean: float = MEAN, std: float = STD) -> CentredLogMel:
    """That of the authors' code or, with ``hub``, of the hub's extractor."""
    return CentredLogMel(
        sampling_rate=RATE,
        num_mel_bins=MELS,
        max_length=max_length,
        fft_length=512,
        window_length=512,
        periodic=True,
        hop_length=256,
        edges="constant" if hub else "reflect",
        mel="slaney",
        highest_frequency=8000.0,
        log_factor=1.0 / math.log(10.0),
        gain=10_000.0,
        addend=1.0,
        scale=(1.0 / (2.0 * std),),
        offset=(-mean / (2.0 * std),),
        fixed_length=hub,
        shortest=1 if hub else 16,
    )
