"""Kaldi's filter banks in float64: the oracle of every front end, torchaudio's float32 one included."""

import numpy as np
from numpy.typing import NDArray

from astfast.front_end import LOG_FLOOR, PRE_EMPHASIS, FrontEnd, analysis_window, mel_filters


def filter_bank(wave: NDArray[np.float32], front_end: FrontEnd) -> NDArray[np.float64]:
    """[samples] -> log-mel energies [frames, mels], neither padded nor normalised."""
    samples = np.pad(np.asarray(wave, np.float64), (0, max(0, front_end.frame_length - len(wave))))
    starts = np.arange(front_end.num_frames(len(samples))) * front_end.frame_shift
    frames = samples[starts[:, None] + np.arange(front_end.frame_length)]  # [frames, frame_length]
    frames -= frames.mean(axis=1, keepdims=True)
    previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    windowed = (frames - PRE_EMPHASIS * previous) * analysis_window(front_end.frame_length)
    power = np.abs(np.fft.rfft(windowed, front_end.fft_length)) ** 2  # [frames, fft_length // 2 + 1]
    return np.log(np.maximum(power @ mel_filters(front_end).T, LOG_FLOOR))


def log_mel(wave: NDArray[np.float32], front_end: FrontEnd) -> NDArray[np.float64]:
    """[samples] -> padded or truncated and normalised [max_length, mels]."""
    spectrogram = np.zeros((front_end.max_length, front_end.num_mel_bins))
    energies = filter_bank(wave, front_end)[: front_end.max_length]
    spectrogram[: len(energies)] = energies
    return (spectrogram - front_end.shift) * front_end.scale
