"""ESC-50 as training material: the log-mel cache, and the augmentation that both networks are trained on.

The cache holds every clip at several playback speeds, so that an epoch costs no audio decoding. Folds 1 to 3 train,
fold 4 is only ever scored: `Split` keeps the two apart.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TRAIN_FOLDS = (1, 2, 3)
TEST_FOLD = 4
SAMPLING_RATE = 16000
MEL_BINS = 128
CLIP_FRAMES = 498  # 5 s: 1 + (80000 - 400) // 160
MAX_FRAMES = 512  # what the model reads; the rest is zeros before normalisation (design page: front_end.md)
LOG_FLOOR = -15.9424  # log(1.1920929e-07), digital silence
SPEEDS = (0.8, 0.87, 0.94, 1.0, 1.07, 1.15, 1.25)  # pitch and tempo together, as a tape does
SILENT_PEAK = 2e-4  # a tail whose samples all stay below it is padding, not sound


@dataclass(frozen=True)
class Clip:
    """One row of clips.csv."""

    filename: str
    fold: int
    target: int
    category: str
    license: str
    author: str
    source: str


def read_clips(data: Path) -> list[Clip]:
    """All clips of `data`/clips.csv, in file order."""
    with (data / "clips.csv").open(newline="", encoding="utf-8") as file:
        return [Clip(**{**row, "fold": int(row["fold"]), "target": int(row["target"])}) for row in csv.DictReader(file)]


def label_names(clips: list[Clip]) -> list[str]:
    """The 50 category names in target order."""
    names = {clip.target: clip.category for clip in clips}
    return [names[target] for target in range(len(names))]


def log_mel(wave: np.ndarray) -> np.ndarray:
    """(samples,) mono at 16 kHz -> (frames, 128) Kaldi log-mel, neither padded nor normalised."""
    import torchaudio

    features = torchaudio.compliance.kaldi.fbank(
        torch.from_numpy(wave)[None], htk_compat=True, sample_frequency=SAMPLING_RATE, use_energy=False,
        window_type="hanning", num_mel_bins=MEL_BINS, dither=0.0, frame_shift=10,
    )  # fmt: skip
    return features.numpy()


def build_cache(data: Path, cache: Path) -> None:
    """Write log-mels (float16, one file a speed), lengths of sound, the test fold (float32), mean and std of folds 1-3.

    Skipped when the cache is complete.
    """
    if (cache / "statistics.json").exists():
        return
    import soundfile
    import soxr

    cache.mkdir(parents=True, exist_ok=True)
    clips = read_clips(data)
    train = [clip for clip in clips if clip.fold in TRAIN_FOLDS]
    test = [clip for clip in clips if clip.fold == TEST_FOLD]

    def read(clip: Clip) -> np.ndarray:
        wave, rate = soundfile.read(data / "audio" / clip.filename, dtype="float32")
        if rate != SAMPLING_RATE or wave.ndim != 1:
            raise ValueError(f"{clip.filename}: expected mono at {SAMPLING_RATE} Hz")
        return wave

    waves = [read(clip) for clip in train]
    total, squares, count = 0.0, 0.0, 0
    for speed in SPEEDS:
        longest = int(CLIP_FRAMES / speed) + 8
        mels = np.full((len(train), longest, MEL_BINS), LOG_FLOOR, np.float16)
        lengths = np.zeros(len(train), np.int32)
        for i, wave in enumerate(waves):
            loud = np.flatnonzero(np.abs(wave) > SILENT_PEAK)
            sound = wave[: max(int(loud[-1]) + 1 if len(loud) else 0, 8000)]  # at least half a second
            if speed == 1.0:
                full = log_mel(wave).astype(np.float64)
                total, squares, count = total + full.sum(), squares + (full**2).sum(), count + full.size
            else:
                sound = soxr.resample(sound, SAMPLING_RATE * speed, SAMPLING_RATE)
            mel = log_mel(sound)[:longest]
            mels[i, : len(mel)] = mel
            lengths[i] = len(mel)
        np.save(cache / f"train_{speed:.2f}.npy", mels)
        np.save(cache / f"train_{speed:.2f}_frames.npy", lengths)
    held_out = np.zeros((len(test), MAX_FRAMES, MEL_BINS), np.float32)  # zero-padded: clips differ by a few samples
    for spectrogram, clip in zip(held_out, test, strict=True):
        mel = log_mel(read(clip))[:MAX_FRAMES]
        spectrogram[: len(mel)] = mel
    np.save(cache / "test.npy", held_out)
    mean = total / count
    (cache / "statistics.json").write_text(json.dumps({"mean": mean, "std": (squares / count - mean**2) ** 0.5}))


class Split:
    """The cached log-mels of the training folds, with augmentation, and of the test fold, without."""

    def __init__(self, data: Path, cache: Path) -> None:
        build_cache(data, cache)
        clips = read_clips(data)
        self.labels = label_names(clips)
        statistics = json.loads((cache / "statistics.json").read_text())
        self.mean, self.std = float(statistics["mean"]), float(statistics["std"])
        self.targets = torch.tensor([clip.target for clip in clips if clip.fold in TRAIN_FOLDS])
        self.test_targets = torch.tensor([clip.target for clip in clips if clip.fold == TEST_FOLD])
        self._test = cache / "test.npy"
        self._mels = [torch.from_numpy(np.load(cache / f"train_{speed:.2f}.npy", mmap_mode="c")) for speed in SPEEDS]
        self._frames = [np.load(cache / f"train_{speed:.2f}_frames.npy") for speed in SPEEDS]

    def __len__(self) -> int:
        return len(self.targets)

    def normalise(self, mels: Tensor) -> Tensor:
        """(B, frames <= 512, 128) log-mel -> (B, 512, 128), zero-padded, then normalised (front_end.md, step 6)."""
        padded = torch.nn.functional.pad(mels, (0, 0, 0, MAX_FRAMES - mels.shape[1]))
        return (padded - self.mean) / (2 * self.std)

    def test_batches(self, size: int = 64) -> list[tuple[Tensor, Tensor]]:
        """Fold 4: [(B, 512, 128), (B,) targets]."""
        spectrograms = self.normalise(torch.from_numpy(np.load(self._test)))
        return list(zip(spectrograms.split(size), self.test_targets.split(size), strict=True))

    def augmented(self, indices: Tensor, rng: torch.Generator, mix: float) -> tuple[Tensor, Tensor]:
        """Training clips -> (B, 512, 128) spectrograms, (B, 50) label shares; `mix` is the share of mixed clips."""
        mels = torch.stack([self._placed(int(i), rng) for i in indices])  # [B, 498, 128]
        mels = random_equaliser(mels, rng)
        shares = torch.nn.functional.one_hot(self.targets[indices], len(self.labels)).float()
        mels, shares = mixed(mels, shares, rng, mix)
        return masked(self.normalise(mels), rng), shares

    def _placed(self, index: int, rng: torch.Generator) -> Tensor:
        """One clip at a random speed, cropped, repeated or set into silence at a random time. (498, 128)"""
        speed = _integer(0, len(SPEEDS), rng)
        frames = int(self._frames[speed][index])
        sound = self._mels[speed][index, :frames].float()
        if frames >= CLIP_FRAMES:
            start = _integer(0, frames - CLIP_FRAMES + 1, rng)
            sound = sound[start : start + CLIP_FRAMES]
            return sound.roll(_integer(0, CLIP_FRAMES, rng), 0)
        out = torch.full((CLIP_FRAMES, MEL_BINS), LOG_FLOOR)
        if _uniform(rng) < 0.5:  # once, somewhere
            start = _integer(0, CLIP_FRAMES - frames + 1, rng)
            out[start : start + frames] = sound
            return out
        gap = _integer(0, 60, rng)  # again and again, from anywhere in the cycle
        period = frames + gap
        cycle = torch.cat([sound, out[:gap]]).repeat(CLIP_FRAMES // period + 2, 1)
        start = _integer(0, period, rng)
        return cycle[start : start + CLIP_FRAMES]


def _uniform(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng))


def _integer(low: int, high: int, rng: torch.Generator) -> int:
    return int(torch.randint(low, high, (), generator=rng))


def random_equaliser(mels: Tensor, rng: torch.Generator) -> Tensor:
    """Random gain (-12 to +6 dB), a smooth random frequency response (+-5 dB), a shift of up to 3 mel bins.

    Digital silence stays what it is. (B, frames, 128) -> same.
    """
    batch = len(mels)
    knots = (torch.rand(batch, 1, 6, generator=rng) * 2 - 1) * 1.15  # nepers of power: 1.15 is 5 dB
    gain = torch.nn.functional.interpolate(knots, MEL_BINS, mode="linear", align_corners=True)  # [B, 1, 128]
    gain = gain + (torch.rand(batch, 1, 1, generator=rng) * 4.1 - 2.75)
    shift = torch.randint(-3, 4, (batch,), generator=rng)
    bins = (torch.arange(MEL_BINS) + shift[:, None]).clamp(0, MEL_BINS - 1)  # [B, 128]
    mels = mels.gather(2, bins[:, None].expand(-1, mels.shape[1], -1))
    return torch.where(mels <= LOG_FLOOR + 0.02, LOG_FLOOR, (mels + gain).clamp_min(LOG_FLOOR))


def mixed(mels: Tensor, shares: Tensor, rng: torch.Generator, chance: float) -> tuple[Tensor, Tensor]:
    """Mix a share of the clips with another of the batch: half of those as powers (as sounds add), half as log-mels."""
    batch = len(mels)
    partner = torch.randperm(batch, generator=rng)
    weight = 0.5 + 0.5 * torch.rand(batch, generator=rng)  # the larger share
    weight = torch.where(torch.rand(batch, generator=rng) < chance, weight, 1.0)[:, None, None]
    other = mels[partner]
    in_log = weight * mels + (1 - weight) * other
    in_power = torch.logaddexp(mels + weight.log(), other + (1 - weight).clamp_min(1e-6).log())
    as_power = (torch.rand(batch, 1, 1, generator=rng) < 0.5) & (weight < 1)
    return torch.where(as_power, in_power, in_log), weight[:, 0] * shares + (1 - weight[:, 0]) * shares[partner]


def masked(spectrograms: Tensor, rng: torch.Generator, frames: int = 64, bins: int = 20) -> Tensor:
    """SpecAugment: two bands of up to `frames` frames and two of up to `bins` mel bins become 0, the mean."""
    batch, length, mels = spectrograms.shape
    keep = torch.ones(batch, length, mels, dtype=torch.bool)
    for size, widest, dim in ((length, frames, 1), (mels, bins, 2)):
        for _ in range(2):
            width = torch.rand(batch, 1, generator=rng) * widest
            start = torch.rand(batch, 1, generator=rng) * (size - width)
            position = torch.arange(size)
            inside = (position >= start) & (position < start + width)  # [B, size]
            keep &= ~inside.unsqueeze(3 - dim)
    return spectrograms * keep


def main() -> None:
    """Build the cache and print its statistics."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with clips.csv and audio/")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the log-mels (about 1 GB)")
    options = parser.parse_args()
    split = Split(options.data, options.cache)
    print(f"{len(split)} training clips, {len(split.test_targets)} test clips, mean {split.mean}, std {split.std}")


if __name__ == "__main__":
    main()
