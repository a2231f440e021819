"""Token merging on a GPU: the calls of ``CudaOps.merge_tokens``, and the same in PyTorch's ops."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from astfast.backends.cuda.fallback_ops import sums_of_squares
from astfast.backends.cuda.op_call import OpCall
from astfast.backends.cuda.packing import Stream
from astfast.kernels import merging


def calls(
    x: Stream,
    keys: torch.Tensor,
    sizes: Mapping[str, torch.Tensor],  # none for one each
    heads: int,
    prefix: int,
    merged: Stream,
    new_sizes: torch.Tensor,
) -> tuple[OpCall, ...]:
    """The calls that merge tokens [B, T, D] into ``merged`` [B, R, D] and their sizes into ``new_sizes`` [B, R]."""
    clips, tokens, hidden = keys.shape
    patches = keys[:, prefix:]
    sources = (tokens - prefix + 1) // 2

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty((clips, *shape), dtype=dtype, device=keys.device)

    compared, cosine = empty(tokens - prefix, hidden // heads), empty(sources)
    partner, into = empty(sources, dtype=torch.int32), empty(sources, dtype=torch.int32)
    origin = empty(new_sizes.shape[1], dtype=torch.int32)
    return (
        OpCall(
            "directions of keys",
            merging.directions,
            directions,
            clips={"keys": patches, "out": compared},
            weights={},
            settings={"heads": heads},
            result="out",
            written=("out",),
        ),
        OpCall(
            "match of tokens",
            merging.match,
            match,
            clips={"directions": compared, "cosine": cosine, "partner": partner},
            weights={},
            settings={},
            result="cosine",
            written=("cosine",),  # of cosines that differ by a rounding, a kernel may take either
        ),
        OpCall(
            "plan of merging",
            merging.plan,
            plan,
            clips={"cosine": cosine, "partner": partner, "into": into, "origin": origin},
            weights={},
            settings={"tokens": tokens, "prefix": prefix},
            result="origin",
            written=("into", "origin"),
        ),
        OpCall(
            f"merge of tokens{' with sizes' * bool(sizes)}",
            merging.merge,
            merge,
            clips={
                "stream": x.x,
                "into": into,
                "origin": origin,
                "out": merged.x,
                "sumsq": merged.sumsq,
                "new_sizes": new_sizes,
                **sizes,
            },
            weights={},
            settings={"prefix": prefix},
            result="out",
            written=("out", "sumsq", "new_sizes"),
        ),
    )


def directions(keys: torch.Tensor, out: torch.Tensor, heads: int) -> torch.Tensor:
    """The keys' sums over heads, of length 1: [B, R, D] -> [B, R, D / heads]."""
    summed = keys.view(*keys.shape[:2], heads, -1).sum(2, dtype=out.dtype)
    return out.copy_(F.normalize(summed, dim=-1, eps=merging.SMALLEST_LENGTH))


def match(directions: torch.Tensor, cosine: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    """The largest cosine of each source with a target [B, S], and the first target that has it."""
    cosines = directions[:, ::2] @ directions[:, 1::2].mT
    cosine.copy_(cosines.amax(-1))
    places = torch.arange(cosines.shape[-1], device=cosines.device)
    first = torch.where(cosines == cosine[..., None], places, len(places) - 1).amin(-1)  # argmax: any of them
    partner.copy_(first)
    return cosine


def plan(
    cosine: torch.Tensor, partner: torch.Tensor, into: torch.Tensor, origin: torch.Tensor, tokens: int, prefix: int
) -> torch.Tensor:
    """into [B, S]: the target of a source that is merged, else -1; origin [B, R]: the token that is kept in a row."""
    order = cosine.argsort(dim=-1, descending=True, stable=True)[:, : tokens - origin.shape[1]]
    into.copy_(torch.full_like(partner, -1).scatter(1, order, partner.gather(1, order)))
    merged = torch.zeros((len(cosine), tokens), dtype=torch.int32, device=cosine.device)
    merged.scatter_(1, prefix + 2 * order, 1)
    return origin.copy_(merged.argsort(dim=-1, stable=True)[:, : origin.shape[1]])


def merge(
    stream: torch.Tensor,  # [B, T, D]
    into: torch.Tensor,  # [B, S] int32
    origin: torch.Tensor,  # [B, R] int32
    out: torch.Tensor,  # [B, R, D]
    sumsq: torch.Tensor,  # [B, R, ceil(D / 64)]
    new_sizes: torch.Tensor,  # [B, R]
    prefix: int,
    sizes: torch.Tensor | None = None,  # [B, T]
) -> torch.Tensor:
    """out: the tokens that are kept, as means by sizes of what merges into them; its sums of squares and sizes."""
    dtype, (clips, tokens, d) = new_sizes.dtype, stream.shape
    old = torch.ones((clips, tokens), dtype=dtype, device=stream.device) if sizes is None else sizes
    merges = into >= 0
    source = prefix + 2 * torch.arange(into.shape[1], device=stream.device)
    target = torch.where(merges, prefix + 1 + 2 * into, source)  # a token that stays adds nothing to itself
    added = torch.where(merges, old[:, source], 0)
    total = old.scatter_add(1, target.long(), added)
    x = stream.to(dtype)
    weighted = x * old[..., None]
    columns = target.long()[..., None].expand(-1, -1, d)
    weighted = weighted.scatter_add(1, columns, x[:, source] * added[..., None])
    means = torch.where((total == old)[..., None], x, weighted / total[..., None])
    kept = origin.long()
    torch.gather(total, 1, kept, out=new_sizes)
    out.copy_(means.gather(1, kept[..., None].expand(-1, -1, d)))
    sums_of_squares(out, sumsq)
    return out
