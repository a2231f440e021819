"""Scores of waveforms that are longer than a model's input: it hears them in parts, all of which count.

A waveform is cut into parts that are full (``scores_in_parts``). Where the config has ``cuts_spectrogram``, its
spectrogram is, as CED's authors do (``scores_in_pieces``): frames at a cut are those of the whole waveform.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astfast.scores import aggregated
from astfast.spans import ignored_tail, starts_of_parts

if TYPE_CHECKING:
    from astfast.centred_log_mel import CentredLogMel

FloatArray = NDArray[np.float32]


def scores_in_parts(
    score: Callable[[Any], FloatArray], waves: Any, input_samples: int, rate: int, aggregate: str
) -> FloatArray:
    """``score`` of waveforms of any length -> [B, L]: the ``aggregate`` over the parts of each.

    ``score`` gets a list of waveforms, each at most ``input_samples`` long (or longer by less than a frame), and gives
    their scores.
    """
    starts = [starts_of_parts(len(wave), input_samples, rate) for wave in waves]
    parts = [
        wave[start : start + input_samples] if len(of_wave) > 1 else wave
        for wave, of_wave in zip(waves, starts, strict=True)
        for start in of_wave
    ]
    scores = score(parts)
    if len(parts) == len(waves):
        return scores
    ends = np.cumsum([len(of_wave) for of_wave in starts])
    return np.stack([aggregated(part, aggregate) for part in np.split(scores, ends[:-1])])


def scores_in_pieces(
    score: Callable[[Any], FloatArray],
    features: Callable[[Any], FloatArray],
    waves: Any,
    front_end: CentredLogMel,
    aggregate: str,
) -> FloatArray:
    """As ``scores_in_parts``, where ``score`` takes spectrograms too: of a long waveform, ``max_length`` frames each,
    side by side, the last of them continued with zeros.

    ``features``: spectrograms of waveforms that are each as long as the model's input.
    """
    longest = front_end.input_samples + ignored_tail(front_end.sampling_rate)
    long = [row for row, wave in enumerate(waves) if len(wave) > longest]
    if not long:
        return score(waves)
    rows: list[FloatArray] = [np.empty(0, np.float32)] * len(waves)
    if short := [row for row, wave in enumerate(waves) if len(wave) <= longest]:
        for row, scores in zip(short, score([waves[row] for row in short]), strict=True):
            rows[row] = scores
    for row in long:
        spectrogram = whole_spectrogram(features, waves[row], front_end)
        missing = -len(spectrogram) % front_end.max_length
        pieces = np.pad(spectrogram, ((0, missing), (0, 0))).reshape(-1, front_end.max_length, spectrogram.shape[1])
        rows[row] = aggregated(score(pieces), aggregate)
    return np.stack(rows)


def whole_spectrogram(features: Callable[[Any], FloatArray], wave: Any, front_end: CentredLogMel) -> FloatArray:
    """[all frames, mel bins] of a waveform that is longer than the model's input and isn't pre-emphasised.

    Stitched from overlapping spectrograms of ``max_length`` frames: one frame near a cut reads beyond it, and is taken
    from the neighbour. The floor below the maximum is that of the whole waveform.
    """
    hop, length, total = front_end.hop_length, front_end.max_length, front_end.num_frames(len(wave))
    margin = -(-(front_end.fft_length // 2) // hop)  # frames that read beyond a cut
    starts = [*range(0, total - length, length - 2 * margin), total - length]
    cuts = [wave[start * hop : (start + length) * hop - 1] for start in starts[:-1]]
    spectrograms = features([*cuts, wave[starts[-1] * hop :]])
    whole = np.empty((total, spectrograms.shape[2]), np.float32)
    for start, spectrogram in zip(starts, spectrograms, strict=True):
        first = margin if start else 0
        whole[start + first : start + length] = spectrogram[first:]
    if front_end.top_db is not None:
        scale, offset = (np.array(x, np.float32) for x in (front_end.scale, front_end.offset))
        logarithm = np.divide(whole - offset, scale, out=np.zeros_like(whole), where=scale != 0)
        whole = np.maximum(logarithm, logarithm.max() - np.float32(front_end.top_db)) * scale + offset
    return whole
