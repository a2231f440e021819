"""Analytical performance model of GPU kernels (a roofline with waves of tiles): predictions, none of them measured.

A launch takes the largest of its arithmetic, memory and L2 times, what no other tile hides, and its launch overhead.
Arithmetic runs at the published efficiency of its kind on the GPU, further reduced by the last, incomplete wave of
tiles; passes over memory run at 85% of the bandwidth. A product reads its operands from L2 once for each tile. Where
one program fills a multiprocessor, nothing runs under its prologue (the first tiles come) and epilogue (the result is
finished and stored), which two programs hide from each other and a persistent one from itself.

What others have measured is a range: each GPU is given at worst and at best, and so is a prediction (sources in
docs/gpu.md). Our kernels are not measured at all yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from astfast.backends.cuda.ops import CudaOps, Target
from astfast.kernels.launch import Launch
from astfast.models.ast.config import AstConfig
from tests.cases.recorded_launches import record

WAYS = ("waveforms there, to logits there", "waveforms to top-k, in a stream of batches", "waveforms to top-k, alone")

BANDWIDTH_SHARE = 0.85
LAUNCH_SECONDS = 2e-6
SORT_PASSES = 8  # of torch's radix sort over 32-bit scores; each is taken to last as long as a launch
FLOAT32_SHARE = 0.5  # of the peak of float32 multiply-adds, for the front end and the head


PRODUCTS = ("norm_linear_kernel", "linear_residual_kernel", "patch_embed_kernel", "persistent_linear_kernel")
PROLOGUE_SECONDS = 0.9e-6  # until a program's first tiles have come from memory
EPILOGUE = 7  # instructions for each element of a result: scale, bias, conversion, store by way of shared memory
GELU, RESIDUAL = 10, 5  # and for what some do besides


@dataclass(frozen=True)
class Gpu:
    """Published peaks of a GPU, dense, and what share of them others reach. Rates are per second."""

    multiprocessors: int
    shared_memory: int  # bytes of a multiprocessor that programs can have
    clock: float
    matrix_flops: float  # bf16 or fp16 with float32 accumulation
    float32_flops: float
    bandwidth: float  # bytes
    gemm_share: float  # of matrix_flops, in the main loop of a product
    attention_flops: float  # FlashAttention at head size 64 and about 1,000 tokens
    l2_bandwidth: float  # bytes from L2 to all multiprocessors
    host_bandwidth: float = 32e9  # bytes from the host, PCI Express 4.0 x16
    graph_launch: float = 1.5e-6  # seconds between the kernels of a graph

    @property
    def exponentials(self) -> float:
        """ex2 of all multiprocessors."""
        return self.multiprocessors * 16 * self.clock


def between(worst: Gpu, **best: float) -> tuple[Gpu, Gpu]:
    """A GPU at worst and at best, which differ in the fields ``best`` and in launches."""
    return worst, replace(worst, graph_launch=1e-6, **best)


# An A100's L2 gives 5,120 bytes a clock at best, of which an H100 reaches 61% at worst; it limits no product of ours
# there, nor on an RTX 4090, of which 156 TFLOP/s are reported (pytorch #181718).
H100 = Gpu(132, 227 << 10, 1.75e9, 989e12, 67e12, 3.35e12, 0.70, 304e12, 5.5e12, 64e9)
HOPPER_AT_BEST = {"gemm_share": 0.81, "attention_flops": 382e12, "l2_bandwidth": 10e12}
A100 = Gpu(108, 163 << 10, 1.41e9, 312e12, 19.5e12, 2.04e12, 0.72, 175e12, 4.4e12)
RTX_4090 = Gpu(128, 99 << 10, 2.5e9, 165e12, 82e12, 1.0e12, 0.80, 150e12, 4.4e12)
GPUS = {
    "H100": between(H100, **HOPPER_AT_BEST),
    "H200": between(replace(H100, bandwidth=4.8e12), **HOPPER_AT_BEST),
    "A100": between(A100, gemm_share=0.80, l2_bandwidth=7.2e12),
    "RTX 4090": between(RTX_4090, gemm_share=0.94, l2_bandwidth=7.2e12),
}


@dataclass(frozen=True)
class Prediction:
    """Seconds of one launch: predicted, and the floor of the hardware's peaks."""

    name: str
    seconds: float
    floor: float


def predict(launch: Launch, gpu: Gpu, in_graph: bool = True) -> Prediction:
    """Predicted time of one launch on a GPU."""
    work = launch.work
    attention = launch.name == "attention_kernel"
    product = launch.name in PRODUCTS
    peak = gpu.matrix_flops if product or attention else gpu.float32_flops
    memory = work.bytes / (BANDWIDTH_SHARE * gpu.bandwidth)
    special = work.exponentials / gpu.exponentials
    exposed = 0.0
    if product:
        speed = 2.0 if operand_bytes(launch) == 1 else 1.0  # of float8 products
        peak *= speed
        arithmetic, exposed = product_seconds(launch, speed, gpu)
    else:
        rate = gpu.attention_flops if attention else FLOAT32_SHARE * gpu.float32_flops
        arithmetic = work.flops / rate / occupancy_of_waves(launch.programs, gpu.multiprocessors)
    overhead = gpu.graph_launch if in_graph else LAUNCH_SECONDS
    floor = max(work.flops / peak, work.bytes / gpu.bandwidth, special)
    return Prediction(launch.name, max(arithmetic, memory, special) + exposed + overhead, floor)


def operand_bytes(launch: Launch) -> int:
    """Bytes of an element of a product's weight."""
    weight = launch.args["w_ptr"] if "w_ptr" in launch.args else launch.args["w_desc"].base
    return int(weight.element_size())


def product_seconds(launch: Launch, speed: float, gpu: Gpu) -> tuple[float, float]:
    """Of a product's main loops, and of what is exposed before and after them."""
    args = launch.args
    m, n, k = args["BLOCK_M"], args["BLOCK_N"], args["BLOCK_K"]
    tiles = math.ceil(args["rows"] / m) * math.ceil(args["N"] / n)
    size = operand_bytes(launch)
    sums = launch.work.flops // (2 * args["rows"] * args["N"])  # K
    multiply = launch.work.flops / (gpu.gemm_share * speed * gpu.matrix_flops)
    l2 = tiles * (m + n) * sums * size / gpu.l2_bandwidth
    loops = max(multiply / occupancy_of_waves(tiles, gpu.multiprocessors), l2)

    threads = 32 * launch.num_warps
    registers = threads * (m * n // threads + 64)  # the sums, and what else a thread needs
    shared = launch.num_stages * (m + n) * k * size
    alone = launch.name != "persistent_linear_kernel" and min(65536 // registers, gpu.shared_memory // shared) < 2
    instructions = EPILOGUE + GELU * args.get("GELU", False) + RESIDUAL * ("stream_ptr" in args)
    epilogue = m * n * instructions / (128 * gpu.clock)
    waves = math.ceil(tiles / gpu.multiprocessors) if alone else 1
    return loops, waves * (PROLOGUE_SECONDS + epilogue)


def occupancy_of_waves(programs: int, multiprocessors: int) -> float:
    """Share of the multiprocessors' time in which they have a tile, if all tiles take equally long."""
    return programs / (math.ceil(programs / multiprocessors) * multiprocessors)


def upload(waves_bytes: int, gpu: Gpu) -> float:
    """Seconds of a copy from pinned memory to the GPU on a stream of its own, which the batch before hides, if any."""
    return waves_bytes / (BANDWIDTH_SHARE * gpu.host_bandwidth) + 2 * LAUNCH_SECONDS


def around_the_graph(waves_bytes: int, clips: int, labels: int, gpu: Gpu) -> dict[str, float]:
    """Seconds, by name, of what torch's own ops do before and after a graph, on the stream that it runs on: waveforms
    and lengths into its inputs, scores in float64 (to it, activation, from it), the sort of them (a copy, the labels'
    numbers, the sort itself), and the best scores and labels (made dense, copied to the host)."""
    memory = BANDWIDTH_SHARE * gpu.bandwidth
    scores = clips * labels
    return {
        "inputs": 2 * waves_bytes / memory + 2 * LAUNCH_SECONDS,
        "activation": scores * (4 + 8 + 8 + 8 + 8 + 4) / memory + 3 * LAUNCH_SECONDS,
        "sort": scores * (4 + 4 + 8 + 2 * 12) / memory + (3 + SORT_PASSES) * LAUNCH_SECONDS,
        "best": 4 * LAUNCH_SECONDS,
    }


def total(launches: Iterable[Launch], gpu: Gpu, in_graph: bool = True) -> float:
    """Predicted seconds of launches that run one after another."""
    return sum(predict(launch, gpu, in_graph).seconds for launch in launches)


def batch_seconds(
    config: AstConfig, clips: int, precision: str, target: Target, gpu: Gpu, backend: type[CudaOps] = CudaOps
) -> dict[str, float]:
    """Predicted seconds of a batch of int16 waveforms, by each of the WAYS that it can go."""
    waves_bytes = 2 * clips * config.front_end.input_samples
    forward = total(record(config, clips, precision, target, backend), gpu)
    to_top_k = forward + sum(around_the_graph(waves_bytes, clips, config.num_labels, gpu).values())
    return dict(zip(WAYS, (forward, to_top_k, to_top_k + upload(waves_bytes, gpu)), strict=True))
