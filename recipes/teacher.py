"""Train the convolutional teacher on folds 1 to 3: a small residual network on log-mels, of use only while training.

Convolutions know that neighbouring bins belong together, which a transformer must learn: they reach 75% on the unseen
fold, a plainly trained transformer reached 47% (README.md). The student (student.py) learns from this network's scores.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from esc50_data import Split
from torch import Tensor, nn
from training import WeightAverage, accuracy, load_checkpoint, optimiser_groups, run_epochs, soft_cross_entropy

BATCH = 32


class Block(nn.Module):
    """Two 3x3 convolutions with a skip connection (He et al. 2016, with the average-pooled skip of ResNet-D)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.norm2.weight)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            self.skip = nn.Sequential(pool, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.norm1(self.conv1(x)))
        return torch.relu_(self.norm2(self.conv2(y)) + self.skip(x))


class Teacher(nn.Module):
    """(B, 512 frames, 128 mels) normalised log-mels -> (B, 50) logits."""

    def __init__(self, width: int = 64, classes: int = 50) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.BatchNorm2d(1),
            nn.Conv2d(1, width // 2, 5, (4, 2), 2, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),  # [B, 32, 64 frames, 32 mels]
            Block(width // 2, width, 1),
            Block(width, 2 * width, 2),
            Block(2 * width, 2 * width, 1),
            Block(2 * width, 4 * width, 2),
            Block(4 * width, 4 * width, 1),  # [B, 256, 16, 8]
        )
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(4 * width, classes))

    def forward(self, spectrograms: Tensor) -> Tensor:
        x = self.trunk(spectrograms.unsqueeze(1).contiguous(memory_format=torch.channels_last))
        return self.classify(x)

    def classify(self, features: Tensor) -> Tensor:
        """The trunk's output (B, 256, 16 frames, 8 mels) -> (B, 50) logits."""
        x = features.float().mean(3)  # [B, C, frames]: sounds sit at a pitch, so the mean over mels ...
        return self.head(x.mean(2) + x.amax(2)).float()  # ... and both the lasting and the sudden over time


def load_teachers(paths: list[Path]) -> list[Teacher]:
    """The averaged weights of finished (or running) teacher trainings, in evaluation mode."""
    teachers = []
    for path in paths:
        state = load_checkpoint(path)
        if state is None:
            raise FileNotFoundError(f"{path}: run teacher.py first")
        teacher = Teacher()
        teacher.load_state_dict(state["average"])
        teachers.append(teacher.to(memory_format=torch.channels_last).eval().requires_grad_(False))
    return teachers


def main() -> None:
    """Train one teacher (a fixed number of epochs) and score its averaged weights on the unseen fold, once."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with clips.csv and audio/")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the log-mels (about 1 GB)")
    parser.add_argument("--out", type=Path, required=True, help="folder for teacher<seed>.pt")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=48)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # vanishing gradients otherwise make single convolutions ten times slower
    torch.manual_seed(options.seed)
    split = Split(options.data, options.cache)
    teacher = Teacher().to(memory_format=torch.channels_last)
    average = WeightAverage(teacher, 0.995)
    optimiser = torch.optim.AdamW(optimiser_groups(teacher, 0.05), lr=1e-3)

    def losses(epoch: int) -> Iterator[Tensor]:
        rng = torch.Generator().manual_seed(options.seed * 1_000_003 + epoch)
        order = torch.randperm(len(split), generator=rng)
        for indices in order[: len(order) // BATCH * BATCH].split(BATCH):
            spectrograms, shares = split.augmented(indices, rng, mix=0.7)
            with torch.autocast("cpu", torch.bfloat16):
                logits = teacher(spectrograms)
            yield soft_cross_entropy(logits, shares, smoothing=0.1)

    run_epochs(
        teacher,
        average,
        optimiser,
        losses,
        epochs=options.epochs,
        steps_per_epoch=len(split) // BATCH,
        peak=2e-3,
        checkpoint=options.out / f"teacher{options.seed}.pt",
    )
    first, five = accuracy(average.module, split.test_batches())
    print(f"teacher {options.seed}: {first:.1%} top-1, {five:.1%} top-5 on fold 4 ({len(split.test_targets)} clips)")


if __name__ == "__main__":
    main()
