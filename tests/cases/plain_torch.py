"""Torch's ops with the same roundings on any processor: its own kernels sum in another order on each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

EXACT = {"gelu", "scaled_dot_product_attention", "linear", "layer_norm", "conv2d", "mean"}  # in 16 bits


class PlainTorch(TorchFunctionMode):
    """Within it, torch's ops on 16-bit tensors are computed in float64 and rounded once; those on float32 tensors that
    sum do so one product after the other, and transcendental functions are rounded from float64. Float64 is as it is.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        dtype = args[0].dtype if args and isinstance(args[0], torch.Tensor) else None
        if dtype == torch.float32 and name in IN_TURN:
            return IN_TURN[name](*args, **kwargs)
        if name in EXACT and dtype in (torch.float16, torch.bfloat16):
            wide = [x.double() if isinstance(x, torch.Tensor) else x for x in args]
            named = {key: x.double() if isinstance(x, torch.Tensor) else x for key, x in kwargs.items()}
            return func(*wide, **named).to(dtype)
        return func(*args, **kwargs)


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a [.., M, K] @ b [.., K, N] by K additions, in this order."""
    total = torch.zeros(1)
    for k in range(a.shape[-1]):
        total = total + a[..., k : k + 1] * b[..., k : k + 1, :]
    return total


def total(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """The sum along a dimension, which stays with size 1, in this order."""
    result = torch.zeros(1)
    for part in x.split(1, dim):
        result = result + part
    return result


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    y = product(x, weight.T)
    return y if bias is None else y + bias


def layer_norm(
    x: torch.Tensor,
    shape: Any,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    centred = x - total(x) / x.shape[-1]
    y = centred / (total(centred * centred) / x.shape[-1] + eps).sqrt()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def conv2d(
    image: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int = 0,
    groups: int = 1,
) -> torch.Tensor:
    size, steps = kernel.shape[2:], (stride, stride) if isinstance(stride, int) else stride
    rows, columns = ((image.shape[2 + i] + 2 * padding - size[i]) // steps[i] + 1 for i in range(2))
    patches = F.unfold(image, size, stride=stride, padding=padding).mT  # [B, patches, K]
    parts = zip(patches.chunk(groups, -1), kernel.flatten(1).chunk(groups), strict=True)
    y = torch.cat([linear(of_group, weight) for of_group, weight in parts], -1)
    return (y if bias is None else y + bias).mT.unflatten(2, (rows, columns))


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    scores = product(q, k.mT) / q.shape[-1] ** 0.5 + (0 if bias is None else bias)
    p = (scores - scores.amax(-1, keepdim=True)).double().exp().float()
    return product(p, v) / total(p)


IN_TURN: dict[str, Callable[..., torch.Tensor]] = {
    "linear": linear,
    "matmul": product,
    "layer_norm": layer_norm,
    "conv2d": conv2d,
    "scaled_dot_product_attention": attention,
    "mean": lambda x, dim, keepdim=False: (
        total(x, dim) / x.shape[dim] if keepdim else (total(x, dim) / x.shape[dim]).squeeze(dim)
    ),
    "gelu": lambda x: F.gelu(x.double()).float(),
    "log": lambda x: x.double().log().float(),
}
