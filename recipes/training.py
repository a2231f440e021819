"""What both training scripts share: learning-rate schedule, weight averaging, checkpoints that resume, accuracy."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up to `peak`, then half a cosine down to peak / 100."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def soft_cross_entropy(logits: Tensor, shares: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of (B, classes) logits against label shares that sum to 1."""
    shares = shares * (1 - smoothing) + smoothing / shares.shape[1]
    return -(shares * logits.float().log_softmax(1)).sum(1).mean()


class WeightAverage:
    """Exponential moving average of a module's parameters and buffers, with a shorter memory in the first steps."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.source = module
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, new in zip(self.module.state_dict().values(), self.source.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(new.detach(), 1 - decay)
            else:
                mine.copy_(new)


def optimiser_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW groups: weight decay on matrices and filters only."""
    decayed = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2 and min(p.shape[:2]) > 1]
    chosen = {id(p) for p in decayed}
    rest = [p for p in module.parameters() if p.requires_grad and id(p) not in chosen]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def save_checkpoint(path: Path, **state: Any) -> None:
    """Write `state` so that a crash leaves either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    torch.save(state, temporary)
    temporary.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The newest state written to `path`, or None."""
    return torch.load(path, weights_only=True) if path.exists() else None


def run_epochs(
    module: nn.Module,
    average: WeightAverage,
    optimiser: torch.optim.Optimizer,
    losses: Callable[[int], Iterable[Tensor]],
    *,
    epochs: int,
    steps_per_epoch: int,
    peak: float,
    checkpoint: Path,
) -> None:
    """Train for a fixed number of epochs, resuming from `checkpoint` if it exists; log a line an epoch.

    `losses(epoch)` yields one loss a step, each computed with the weights as they then are. It seeds itself from the
    epoch's number, so that a resumed run sees what an uninterrupted one would have seen.
    """
    state = load_checkpoint(checkpoint)
    first, seconds = 0, 0.0
    if state is not None:
        module.load_state_dict(state["module"])
        average.module.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        first, seconds = int(state["epoch"]), float(state["seconds"])
        print(f"resumed after epoch {first} of {epochs}", flush=True)
    for epoch in range(first, epochs):
        started, total = time.monotonic(), 0.0
        module.train()
        torch.manual_seed(epoch)
        for i, loss in enumerate(losses(epoch)):
            step = epoch * steps_per_epoch + i
            rate = learning_rate(step, epochs * steps_per_epoch, peak, warmup=5 * steps_per_epoch)
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            average.update(step)
            total += float(loss.detach())
        took = time.monotonic() - started
        seconds += took
        print(f"epoch {epoch + 1}/{epochs}  loss {total / steps_per_epoch:.4f}  {took:.1f} s", flush=True)
        save_checkpoint(
            checkpoint, module=module.state_dict(), average=average.module.state_dict(),
            optimiser=optimiser.state_dict(), epoch=epoch + 1, seconds=seconds,
        )  # fmt: skip


@torch.no_grad()
def accuracy(logits_of: Callable[[Tensor], Tensor], batches: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Share of clips whose class is the first, and among the first five, of `logits_of(spectrograms)`."""
    first, five, count = 0, 0, 0
    for spectrograms, targets in batches:
        ranked = logits_of(spectrograms).topk(5, dim=1).indices  # [B, 5]
        hits = ranked == targets[:, None]
        first, five, count = first + int(hits[:, 0].sum()), five + int(hits.sum()), count + len(targets)
    return first / count, five / count
