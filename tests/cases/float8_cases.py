"""Cases of quantisation and of the products in float8, as ``gpu_cases`` has them for the other types.

Exact is the product of the operands as quantised, in float64; the peer is torch, in the 16-bit type, on the same
quantised operands. So a case tells a wrong product from a coarse one; how coarse float8 is shows test_float8.py.
"""

import torch
import torch.nn.functional as F

from astfast.backends.cuda import packing as cuda_packing
from astfast.kernels import attention, linear, quantise, statistics
from astfast.kernels.tuning import Tile
from tests.cases import gpu_cases
from tests.cases.gpu_cases import Case, any_order, normal, of_squares, stream, sums_of_squares, unwritten
from tests.cases.plain_torch import PlainTorch

FLOAT8 = torch.float8_e4m3fn
gpu_cases.EPSILON[FLOAT8] = 2.0**-4


class Quantised(Case):
    """Held to the rounding of each element by itself."""

    def check(self) -> None:
        """Raises AssertionError for an element further from the exact one than float8 is coarse."""
        assert_rounded(self.outputs["out"].cpu().double(), self.exact["out"])


def assert_rounded(values: torch.Tensor, exact: torch.Tensor) -> None:
    """Half a unit in the last place of 4 digits, of which float16 on the way takes 2^-8 more, or half the last step of
    the range; and nothing past the largest number."""
    error = (values - exact).abs()
    allowed = exact.abs() * 2.0**-4 + 2.0**-10
    assert (error <= allowed).all(), f"off by {error.max():.2e}, {(error - allowed).max():.2e} more than allowed"
    assert values.abs().max() <= quantise.FLOAT8_MAX


def quantise_rows(
    dtype: torch.dtype,  # of the stream
    shape: tuple[int, int, int],  # clips, tokens, K
    tile: Tile,
    rows: int | None = None,  # only the first rows of each clip, as in the last layer
    device: str = "cpu",
) -> Quantised:
    x = stream(shape, dtype, seed=1)
    x[0, 0] = 0
    x[-1, 0, 1:] = 0  # one channel holds all of a row
    eps, used = 1e-6, x[:, :rows].double()
    exact = quantise.float8_room(shape[-1]) * used / (used.square().mean(-1, keepdim=True) + eps).sqrt()
    sumsq, out = sums_of_squares(x).float(), unwritten(shape, FLOAT8, device)
    launch = quantise.quantise_rows(x.to(device)[:, :rows], sumsq.to(device)[:, :rows], eps, out[:, :rows], tile=tile)
    return Quantised(launch, {"out": out[:, :rows]}, {"out": exact}, {})


def linear_(
    dtype: torch.dtype,  # of the output
    shape: tuple[int, int, int],  # clips, tokens, K
    n: int,
    tile: Tile,
    activation: str | None = None,
    out_type: torch.dtype | None = None,  # FLOAT8 for what only a product reads; None: dtype
    rows: int | None = None,
    device: str = "cpu",
) -> Case:
    normed = F.layer_norm(stream(shape, torch.float64, seed=1), shape[-1:])
    x = (quantise.float8_room(shape[-1]) * normed).half().to(FLOAT8)[:, :rows]
    weight, weight_scale = cuda_packing.float8_weight(normal((n, shape[-1]), torch.float32, 2, shape[-1] ** -0.5))
    weight_scale /= quantise.float8_room(shape[-1])
    bias = normal((n,), torch.float32, 3)
    gain = 4.0 if out_type == FLOAT8 else 1.0

    def product(dtype: torch.dtype) -> torch.Tensor:
        wide = torch.float32 if dtype == torch.float16 else dtype  # 448 squared, summed, is more than float16 holds
        y = F.linear(x.to(wide), weight.to(wide)).to(torch.promote_types(wide, torch.float32))
        y = (y * weight_scale + bias).to(dtype)
        return gain * (F.gelu(y) if activation == "gelu" else y)

    out = unwritten((*x.shape[:2], n), out_type or dtype, device)
    launch = linear.linear(
        x.to(device),
        weight.to(device),
        bias.to(device),
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
