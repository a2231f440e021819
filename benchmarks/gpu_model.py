"""Analytical performance model of GPU kernels (a roofline with waves of tiles): predictions, none of them measured.

A launch takes the larger of its arithmetic and memory times, plus its launch overhead. Arithmetic runs at the published
efficiency of its kind on the GPU, further reduced by the last, incomplete wave of tiles; passes over memory run at 85%
of the bandwidth. The efficiencies are no better than what others have measured (sources in docs/gpu.md); ours are not
measured at all yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from astfast.backends.cuda.target import Target
from astfast.kernels.launch import Launch
from astfast.models.ast.config import AstConfig
from tests.cases.recorded_launches import record

WAYS = ("waveforms there, to logits there", "waveforms to top-k, in a stream of batches", "waveforms to top-k, alone")

BANDWIDTH_SHARE = 0.85
LAUNCH_SECONDS = 2e-6
GRAPH_LAUNCH_SECONDS = 0.5e-6
SORT_PASSES = 8  # of torch's radix sort over 32-bit scores; each is taken to last as long as a launch
FLOAT32_SHARE = 0.5  # of the peak of float32 multiply-adds, for the front end and the head


@dataclass(frozen=True)
class Gpu:
    """Published peaks of a GPU, dense, and what share of them others reach. Rates are per second."""

    multiprocessors: int
    matrix_flops: float  # bf16 or fp16 with float32 accumulation
    float32_flops: float
    bandwidth: float  # bytes
    exponentials: float  # ex2 of all multiprocessors
    gemm_share: float
    attention_flops: float  # FlashAttention at head size 64 and about 1,000 tokens
    host_bandwidth: float = 32e9  # bytes from the host, PCI Express 4.0 x16


GPUS = {
    "H100": Gpu(132, 989e12, 67e12, 3.35e12, 132 * 16 * 1.75e9, 0.70, 382e12, 64e9),
    "H200": Gpu(132, 989e12, 67e12, 4.8e12, 132 * 16 * 1.75e9, 0.70, 382e12, 64e9),
    "A100": Gpu(108, 312e12, 19.5e12, 2.04e12, 108 * 16 * 1.41e9, 0.72, 175e12),
    "RTX 4090": Gpu(128, 165e12, 82e12, 1.0e12, 128 * 16 * 2.5e9, 0.80, 150e12),
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
    matrix = launch.name in ("norm_linear_kernel", "linear_residual_kernel", "patch_embed_kernel", "attention_kernel")
    peak = gpu.matrix_flops if matrix else gpu.float32_flops
    weight = launch.args.get("w_ptr")
    speed = 2.0 if matrix and not attention and weight.element_size() == 1 else 1.0  # of float8 products
    peak *= speed
    if attention:
        rate = gpu.attention_flops
    else:
        rate = gpu.gemm_share * speed * gpu.matrix_flops if matrix else FLOAT32_SHARE * gpu.float32_flops
    arithmetic = work.flops / rate / occupancy_of_waves(launch.programs, gpu.multiprocessors)
    memory = work.bytes / (BANDWIDTH_SHARE * gpu.bandwidth)
    special = work.exponentials / gpu.exponentials
    overhead = GRAPH_LAUNCH_SECONDS if in_graph else LAUNCH_SECONDS
    floor = max(work.flops / peak, work.bytes / gpu.bandwidth, special)
    return Prediction(launch.name, max(arithmetic, memory, special) + overhead, floor)


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


def batch_seconds(config: AstConfig, clips: int, precision: str, target: Target, gpu: Gpu) -> dict[str, float]:
    """Predicted seconds of a batch of int16 waveforms, by each of the WAYS that it can go."""
    waves_bytes = 2 * clips * config.front_end.input_samples
    forward = total(record(config, clips, precision, target), gpu)
    to_top_k = forward + sum(around_the_graph(waves_bytes, clips, config.num_labels, gpu).values())
    return dict(zip(WAYS, (forward, to_top_k, to_top_k + upload(waves_bytes, gpu)), strict=True))
