"""How many tokens each layer merges (``Ops.merge_tokens``): numbers that depend on the length of a clip alone."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from numbers import Real

from astfast.errors import brief

MOST = 0.75  # share of the patches that layers may be spared
MLP_SHARE = 8 / 12  # of the multiply-adds of a layer's products, which follow the merging; the others come before it


def checked(fraction: object) -> float:
    """The fraction; ValueError for one that ``counts`` doesn't take."""
    fits = isinstance(fraction, Real) and not isinstance(fraction, bool)
    if not (fits and 0.0 <= fraction <= MOST):  # type: ignore[operator]
        raise ValueError(f"token_merging is {brief(fraction)}: it must be a number from 0 to {MOST}")
    return float(fraction)  # type: ignore[arg-type]


@cache
def counts(fraction: float, patches: int, layers: int) -> tuple[int, ...]:
    """How many patches each of so many layers merges into others, at most half of those it has.

    ``fraction``: the share of the patches that the layers' products are spared, on average over the layers. Each layer
    keeps the same share of its patches, to whole patches: the smallest one that saves no more than asked for.
    """
    low, high = 0.5, 1.0
    for _ in range(30):
        share = (low + high) / 2
        kept = _kept(share, patches, layers)
        work = sum((1 - MLP_SHARE) * before + MLP_SHARE * after for before, after in pairwise(kept))
        low, high = (share, high) if work < (1 - fraction) * patches * layers else (low, share)
    kept = _kept(high, patches, layers)
    return tuple(before - after for before, after in pairwise(kept))


def _kept(share: float, patches: int, layers: int) -> list[int]:
    """Patches before the first layer and after each."""
    kept = [patches]
    for _ in range(layers):
        kept.append(max(round(kept[-1] * share), (kept[-1] + 1) // 2))
    return kept
