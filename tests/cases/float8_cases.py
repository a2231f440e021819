"""Cases of the products in float8, as ``gpu_cases`` has them for the other types.

Exact is the product of the operands as quantised, in float64; the peer is torch, in the 16-bit type, on the same
quantised operands. So a case tells a wrong product from a coarse one; how coarse float8 is shows test_float8.py.
"""

import torch
import torch.nn.functional as F

from astfast.backends.cuda import fallback_ops as cuda_torch_ops
from astfast.backends.cuda import packing as cuda_packing
from astfast.kernels import attention, linear, statistics
from astfast.kernels.tuning import Tile
from tests.cases import gpu_cases
from tests.cases.gpu_cases import Case, any_order, normal, of_squares, stream, sums_of_squares, unwritten
from tests.cases.plain_torch import PlainTorch

FLOAT8 = torch.float8_e4m3fn
gpu_cases.EPSILON[FLOAT8] = 2.0**-4


def norm_linear(
    dtype: torch.dtype,  # of the stream
    shape: tuple[int, int, int],  # clips, tokens, K
    n: int,
    tile: Tile,
    activation: str | None = None,
    out_type: torch.dtype | None = None,  # FLOAT8 for what only a product reads; None: dtype
    rows: int | None = None,
    device: str = "cpu",
) -> Case:
    x = stream(shape, dtype, seed=1)
    weight, weight_scale = cuda_packing.float8_weight(normal((n, shape[-1]), torch.float32, 2, shape[-1] ** -0.5))
    bias = normal((n,), torch.float32, 3)
    eps, gain = 1e-6, 4.0 if out_type == FLOAT8 else 1.0
    sumsq = sums_of_squares(x).float()
    quantised, left = cuda_torch_ops.quantised_rows(x[:, :rows], sumsq[:, :rows], eps)  # of the other part of rstd

    def product(dtype: torch.dtype) -> torch.Tensor:
        wide = torch.float32 if dtype == torch.float16 else dtype  # 448 squared, summed, is more than float16 holds
        y = F.linear(quantised.to(wide), weight.to(wide)).to(torch.promote_types(wide, torch.float32))
        y = (y * left * weight_scale + bias).to(dtype)
        return gain * (F.gelu(y) if activation == "gelu" else y)

    out = unwritten((*quantised.shape[:2], n), out_type or dtype, device)
    launch = linear.norm_linear(
        x.to(device)[:, :rows],
        sumsq.to(device)[:, :rows],
        weight.to(device),
        bias.to(device),
        eps,
        out,
        activation=activation,
        precision="ieee",
        tile=tile,
        weight_scale=weight_scale.to(device),
        gain=gain,
    )
    with PlainTorch():
        peer = product(dtype).to(out.dtype)
    return Case(launch, {"out": out}, {"out": product(torch.float64)}, {"out": peer})


def linear_residual(
    dtype: torch.dtype,  # of the stream
    shape: tuple[int, int, int],  # clips, tokens, K
    n: int,
    tile: Tile,
    rows: int | None = None,
    device: str = "cpu",
) -> Case:
    clips, tokens, k = shape
    residual = stream((clips, tokens, n), dtype, seed=4)
    x = normal((clips, rows or tokens, k), torch.float32, 5).mul(16).half().to(FLOAT8)
    weight, weight_scale = cuda_packing.float8_weight(normal((n, k), torch.float32, 6, k**-0.5 / 16))
    bias = normal((n,), torch.float32, 7)
    scale = 0.5
    product = x.double() @ weight.double().T * weight_scale
    exact = residual[:, :rows].double() + scale * product + bias.double()
    wide = torch.float32 if dtype == torch.float16 else dtype
    with PlainTorch():
        coarse = F.linear(x.to(wide), weight.to(wide)).float() * weight_scale
        peer = residual[:, :rows] + (scale * coarse + bias).to(dtype)
    summation = any_order(x.double(), weight.double() * weight_scale[:, None], scale)
    new = residual.to(device).clone()
    sumsq = unwritten((clips, tokens, statistics.statistics_parts(n)), torch.float32, device)
    launch = linear.linear_residual(
        x.to(device),
        weight.to(device),
        bias.to(device),
        scale,
        new[:, :rows],
        sumsq[:, :rows],
        precision="ieee",
        tile=tile,
        weight_scale=weight_scale.to(device),
    )
    return Case(
        launch,
        {"stream": new[:, :rows], "sumsq": sumsq[:, :rows]},
        {"stream": exact, "sumsq": sums_of_squares(exact)},
        {"stream": peer, "sumsq": sums_of_squares(peer)},
        {"sumsq": of_squares(exact, summation)},
    )


def attention_(
    dtype: torch.dtype, clips: int, queries: int, keys: int, heads: int, head_dim: int, tile: Tile, device: str = "cpu"
) -> Case:
    """In 16 bits but for its output."""
    case = gpu_cases.attention_(dtype, clips, queries, keys, heads, head_dim, tile, device)
    out = unwritten(tuple(case.outputs["out"].shape), FLOAT8, device)
    launch = attention.attention(
        case.launch.args["q_ptr"], case.launch.args["kv_ptr"], out, heads=heads, precision="ieee", tile=tile
    )
    return Case(launch, {"out": out}, case.exact, {"out": case.peer["out"].to(FLOAT8)})
