"""Train the built-in model on folds 1 to 3: a small Audio Spectrogram Transformer that imitates convolutional teachers.

The network is astfast's own: parameters are handed to `astfast.models.vit.forward` on the reference backend. In
training a random part of the patch tokens is left out (PaSST, Koutini et al. 2022), the teachers see the very same
augmented and mixed input (Beyer et al. 2022), and every token that is left must also foretell what the teachers'
feature maps hold at its place; the linear layers that read those hints are dropped with the rest of the scaffolding.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from esc50_data import MAX_FRAMES, MEL_BINS, Split
from teacher import Teacher, load_teachers
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from training import WeightAverage, accuracy, optimiser_groups, run_epochs, soft_cross_entropy

from astfast.backends.reference import ReferenceOps
from astfast.front_end import KaldiFbank
from astfast.models import vit
from astfast.models.ast.config import PREFIX, AstConfig
from astfast.ops import Embed, Head, LayerNorm, Linear, NormLinear

BATCH = 32
EPS = 1e-12  # what Hugging Face's AST uses everywhere
HINTED = (6, 11)  # the residual stream after these layers foretells the teachers' stages 2 and 3
LAST_OF_STAGE_2 = 7  # in the teacher's trunk
KEPT = 0.4  # share of the patches that the student sees in training ...
LATE = 0.94  # ... until this share of the epochs is over


def student_config(labels: list[str], mean: float, std: float) -> AstConfig:
    """DeiT-tiny's dimensions on 8 x 32 patches: 258 tokens, 5.4 M parameters."""
    return AstConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, patch_size=16,
        frequency_stride=16, time_stride=16, layer_norm_eps=EPS, head_layer_norm_eps=EPS, labels=tuple(labels),
        problem_type="single_label_classification",
        front_end=KaldiFbank(mean=mean, std=std, max_length=MAX_FRAMES, num_mel_bins=MEL_BINS),
    )  # fmt: skip


class LayerParameters(nn.Module):
    """The parameters of one transformer layer; `proj` and `fc2` start small, as they add into the residual stream."""

    def __init__(self, config: AstConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        self.norm1, self.qkv = nn.LayerNorm(width, EPS), nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(width, EPS), nn.Linear(width, hidden), nn.Linear(hidden, width)
        for linear in (self.fc1, self.fc2):
            nn.init.trunc_normal_(linear.weight, std=0.03)
        for linear in (self.qkv, self.proj, self.fc1, self.fc2):
            nn.init.zeros_(linear.bias)
        self.start_attention_mimetic(config.num_attention_heads)

    @torch.no_grad()
    def start_attention_mimetic(self, heads: int) -> None:
        """Start with q k^T near the identity and proj v near its negative, as trained transformers have them.

        Trockman and Kolter 2023, Mimetic Initialization of Self-Attention Layers, who report several points where
        data are few: tokens attend to their like, and to their neighbours, from the first step.
        """
        width = self.proj.in_features
        size = width // heads
        for head in range(heads):
            target = 0.7 * torch.randn(width, width) / math.sqrt(width) + 0.7 * torch.eye(width)
            left, values, right = torch.linalg.svd(target)
            root = values[:size].sqrt()[:, None] * 1.2
            rows = slice(head * size, (head + 1) * size)
            self.qkv.weight[rows] = left[:, :size].T * root
            self.qkv.weight[width + head * size : width + (head + 1) * size] = right[:size] * root
        target = 0.4 * torch.randn(width, width) / math.sqrt(width) - 0.4 * torch.eye(width)
        left, values, right = torch.linalg.svd(target)
        self.qkv.weight[2 * width :] = values.sqrt()[:, None] * right
        self.proj.weight.copy_(left * values.sqrt())

    def weights(self) -> vit.Layer:
        return vit.Layer(
            qkv=NormLinear(_norm(self.norm1), _linear(self.qkv)), proj=_linear(self.proj),
            fc1=NormLinear(_norm(self.norm2), _linear(self.fc1)), fc2=_linear(self.fc2),
        )  # fmt: skip

    def weights_as_last(self) -> vit.LastLayer:
        width = self.proj.in_features
        norm, weight, bias = _norm(self.norm1), self.qkv.weight, self.qkv.bias
        return vit.LastLayer(
            rows=len(PREFIX),
            q=NormLinear(norm, Linear(weight[:width], bias[:width])),
            kv=NormLinear(norm, Linear(weight[width:], bias[width:])),
            proj=_linear(self.proj), fc1=NormLinear(_norm(self.norm2), _linear(self.fc1)), fc2=_linear(self.fc2),
        )  # fmt: skip


class Student(nn.Module):
    """(B, 512 frames, 128 mels) normalised log-mels -> (B, 50) logits."""

    def __init__(self, config: AstConfig) -> None:
        super().__init__()
        self.config = config
        self.ops = ReferenceOps(config.num_attention_heads)
        self.workspace = dict.fromkeys(vit.workspace(config))  # the reference allocates for itself
        width = config.hidden_size
        self.projection = nn.Linear(config.patch_size**2, width)
        nn.init.trunc_normal_(self.projection.weight, std=0.03)
        self.cls, self.dist = (nn.Parameter(torch.randn(1, width) * 0.02) for _ in range(2))
        self.position = nn.Parameter(starting_positions(config))
        self.layers = nn.ModuleList(LayerParameters(config) for _ in range(config.num_hidden_layers))
        self.norm, self.head_norm = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.head = nn.Linear(width, config.num_labels)
        nn.init.trunc_normal_(self.head.weight, std=0.02)

    def weights(self) -> vit.Weights:
        config = self.config
        layers = [layer for layer in self.layers if isinstance(layer, LayerParameters)]
        return vit.Weights(
            embed=Embed(
                _linear(self.projection), torch.cat([self.cls, self.dist]), self.position,
                config.patch_size, config.frequency_stride, config.time_stride,
            ),
            layers=tuple(layer.weights() for layer in layers[:-1]),
            last=layers[-1].weights_as_last(),
            norm=_norm(self.norm),
            head=Head(_norm(self.head_norm), _linear(self.head)),
        )  # fmt: skip

    def forward(self, spectrograms: Tensor) -> Tensor:
        return vit.forward(self.ops, self.weights(), spectrograms, self.workspace)

    def forward_in_part(self, spectrograms: Tensor, kept: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits from the patches `kept` (B, K) alone, and their residual stream after each of the HINTED layers."""
        w, ws = self.weights(), self.workspace
        # ops.patch_embed of the patches that stay: they don't overlap, so picking them first is the same and cheaper
        size, batch = self.config.patch_size, len(spectrograms)
        patches = spectrograms.transpose(1, 2).unflatten(2, (-1, size)).unflatten(1, (-1, size))  # [B, 8, 16, 32, 16]
        patches = patches.transpose(2, 3).reshape(batch, -1, size * size)  # [B, 256, 256]
        patches = patches.gather(1, kept.unsqueeze(-1).expand(-1, -1, size * size))  # [B, K, 256]
        positions = self.position[kept + len(PREFIX)]  # [B, K, D]
        x = F.linear(patches, w.embed.projection.weight, w.embed.projection.bias).float() + positions
        start = torch.cat([self.cls, self.dist]) + self.position[: len(PREFIX)]  # [2, D]
        x = torch.cat([start.expand(batch, -1, -1), x], dim=1)  # [B, 2 + K, D]
        streams = []
        for number, layer in enumerate(w.layers, start=1):
            x = vit.transformer_layer(self.ops, layer, x, ws)
            if number in HINTED:
                streams.append(x[:, len(PREFIX) :])
        embedding = self.ops.pool(vit.last_layer(self.ops, w.last, x, ws), w.norm)
        return self.ops.head(embedding, w.head), streams


def _linear(module: nn.Linear) -> Linear:
    return Linear(module.weight, module.bias)


def _norm(module: nn.LayerNorm) -> LayerNorm:
    return LayerNorm(module.weight, module.bias, EPS)


def starting_positions(config: AstConfig) -> Tensor:
    """Sines and cosines of (mel, time) on the patch grid, zero for cls and dist: near patches start alike. (T, D)"""
    rows, columns = config.grid
    quarter = config.hidden_size // 4
    rate = 100.0 ** -(torch.arange(quarter) / quarter)
    f, t = torch.meshgrid(torch.arange(rows).float(), torch.arange(columns).float(), indexing="ij")
    angles = [f.reshape(-1, 1) * rate, t.reshape(-1, 1) * rate]  # [256, 48] each
    waves = torch.cat([g(a) for a in angles for g in (torch.sin, torch.cos)], dim=1)  # [256, 192]
    return torch.cat([torch.zeros(len(PREFIX), config.hidden_size), 0.5 * waves])


class TrainingOps(ReferenceOps):
    """The reference backend with attention written out.

    The backward pass of torch's fused attention on the CPU takes longer than all the rest of a training step.
    """

    def attention(self, q: Tensor, kv: Tensor, out: None = None) -> Tensor:  # noqa: ARG002
        k, v = kv.chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))  # [B, H, T, head_dim]
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # [B, H, T, T]
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Lessons(Dataset[tuple[Tensor, ...]]):
    """One epoch's batches and what the teachers say of them, made in DataLoader workers beside the student's step.

    Batch `i` depends on the seed, the epoch and `i` alone, so the number of workers changes nothing.
    """

    def __init__(self, split: Split, teachers: list[Teacher], epoch: int) -> None:
        self.split, self.teachers, self.epoch = split, teachers, epoch
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(epoch))
        self.batches = order[: len(order) // BATCH * BATCH].split(BATCH)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        """Spectrograms, label shares, the teachers' probabilities, their features of stages 2 and 3 [B, 256, C]."""
        rng = torch.Generator().manual_seed(1_000_003 * (self.epoch + 1) + i)
        spectrograms, shares = self.split.augmented(self.batches[i], rng, mix=0.7)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            probabilities, features = self.lesson(spectrograms)
        return spectrograms, shares, probabilities, *features

    def lesson(self, spectrograms: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The teachers' mean probabilities, and their standardised features on the student's grid."""
        probabilities: list[Tensor] = []
        stages: tuple[list[Tensor], list[Tensor]] = ([], [])
        for teacher in self.teachers:
            x = spectrograms.unsqueeze(1).contiguous(memory_format=torch.channels_last)
            for i, module in enumerate(teacher.trunk):
                x = module(x)
                if i == LAST_OF_STAGE_2:
                    stages[0].append(F.avg_pool2d(x, (1, 2)).float())  # [B, 128, 32 frames, 8 mels]
            stages[1].append(F.interpolate(x.float(), scale_factor=(2.0, 1.0)))  # [B, 256, 32, 8]
            probabilities.append(teacher.classify(x).softmax(1))
        maps = [F.batch_norm(torch.cat(stage, 1), None, None, training=True) for stage in stages]
        return torch.stack(probabilities).mean(0), [m.transpose(2, 3).flatten(2).mT.bfloat16() for m in maps]


class Distillation(nn.Module):
    """The student, and the linear layers that foretell the teachers' features: only in training."""

    def __init__(self, student: Student, teachers: int) -> None:
        super().__init__()
        self.student = student
        width = student.config.hidden_size
        self.hints = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels * teachers)) for channels in (128, 256)
        )

    def loss(self, lesson: tuple[Tensor, ...], kept: Tensor) -> Tensor:
        """Divergence from the teachers, cross-entropy with the labels (a quarter), and the squared error of hints."""
        spectrograms, shares, wanted, *features = lesson
        with torch.autocast("cpu", torch.bfloat16):
            logits, streams = self.student.forward_in_part(spectrograms, kept)
            foretold = [hint(stream) for hint, stream in zip(self.hints, streams, strict=True)]
        loss = soft_cross_entropy(logits, wanted) + 0.25 * soft_cross_entropy(logits, shares)
        for guess, truth in zip(foretold, features, strict=True):
            seen = truth.gather(1, kept.unsqueeze(-1).expand(-1, -1, truth.shape[-1]))
            loss = loss + 0.5 * F.mse_loss(guess.float(), seen.float())
        return loss


def single_thread(_: int) -> None:
    """What a DataLoader worker does first: leave the other cores to the student."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def kept_patches(batch: int, patches: int, share: float, rng: torch.Generator) -> Tensor:
    """For each clip, `share` of the patch indices at random, in order. (B, K)"""
    scores = torch.rand(batch, patches, generator=rng)
    return scores.topk(round(patches * share), dim=1).indices.sort(dim=1).values


def main() -> None:
    """Train the student (a fixed number of epochs) and score its averaged weights on the unseen fold, once."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with clips.csv and audio/")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the log-mels (about 1 GB)")
    parser.add_argument("--out", type=Path, required=True, help="folder with teacher<seed>.pt, for student.pt")
    parser.add_argument("--teachers", type=int, nargs="+", default=[1], help="seeds of the trained teachers")
    parser.add_argument("--epochs", type=int, default=84)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    split = Split(options.data, options.cache)
    student = Student(student_config(split.labels, split.mean, split.std))
    paths = [options.out / f"teacher{seed}.pt" for seed in options.teachers]
    student.ops = TrainingOps(student.config.num_attention_heads)
    training = Distillation(student, len(paths))
    average = WeightAverage(student, 0.998)
    optimiser = torch.optim.AdamW(optimiser_groups(training, 0.05), lr=1e-3, betas=(0.9, 0.98), fused=True)
    patches = student.config.num_tokens - len(PREFIX)

    def losses(epoch: int) -> Iterator[Tensor]:
        rng = torch.Generator().manual_seed(epoch)
        late = epoch >= LATE * options.epochs  # at last the student sees whole clips, as it will in use
        share = 1.0 if late else KEPT
        teachers = load_teachers(paths)  # anew each epoch: a teacher may still be in training beside its student
        lessons = Lessons(split, teachers, epoch)
        loader = DataLoader(lessons, batch_size=None, num_workers=1, prefetch_factor=4, worker_init_fn=single_thread)
        for lesson in loader:
            yield training.loss(lesson, kept_patches(BATCH, patches, share, rng))

    run_epochs(
        training,
        average,
        optimiser,
        losses,
        epochs=options.epochs,
        steps_per_epoch=len(split) // BATCH,
        peak=1e-3,
        checkpoint=options.out / "student.pt",
    )
    first, five = accuracy(average.module, split.test_batches())
    print(f"student: {first:.1%} top-1, {five:.1%} top-5 on fold 4 ({len(split.test_targets)} clips)")


if __name__ == "__main__":
    main()
