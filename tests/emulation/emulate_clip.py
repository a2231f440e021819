"""One clip through AST-base, waveform to logits, on compiled PTX: ``python -m tests.emulation.emulate_clip --arch 90``.

The product's own engine runs a random checkpoint with every launch executed by the PTX emulator; the logits are held
against transformers in float32, and their error against that of transformers in the same 16-bit type.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from astfast.backends.cuda.ops import DTYPES, CudaOps, Target
from astfast.backends.reference import ReferenceOps
from astfast.engines.cuda_graphs import CudaGraphEngine
from astfast.models import recognise as checkpoint
from benchmarks.pages import markdown, write_section
from tests.cases import checkpoints
from tests.cases.persistent_ops import PersistentOps
from tests.emulation import gpu_docs
from tests.emulation.emulator import Counts, Emulator, ptxemu

BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "frequency_stride": 10,
    "time_stride": 10,
    "max_length": 1024,
    "num_mel_bins": 128,
    "num_labels": 527,
}
MULTIPROCESSORS = {80: 108, 86: 84, 89: 128, 90: 132, 120: 170}


@dataclass
class Outcome:
    """Errors are maxima over the logits, against transformers in float32."""

    error: float
    peer_error: float  # of transformers in the same type, on the CPU
    largest: float  # logit
    counts: list[Counts]  # of every launch


def run(arch: int, precision: str, layers: int = 12, races: bool = True, persistent: bool = False) -> Outcome:
    """int16 waveform to logits of one 10.24 s clip, noise and a tone, on the PTX of compute capability ``arch``."""
    model = checkpoints.random_model(seed=5, **{**BASE, "num_hidden_layers": layers})
    emulator = Emulator(arch, races)
    target = Target(arch, MULTIPROCESSORS[arch], f"emulated sm_{arch}")
    backend = PersistentOps if persistent else CudaOps
    ops = backend(BASE["num_attention_heads"], precision, "cpu", launcher=emulator, target=target)
    with tempfile.TemporaryDirectory() as folder:
        loaded = checkpoint.load(checkpoints.write_v4(model, Path(folder)))
        engine = CudaGraphEngine(ops, loaded, batch_size=1)
    front_end = loaded.config.front_end
    samples = np.arange(front_end.input_samples)
    noise = np.random.default_rng(0).standard_normal(len(samples))
    wave = (32768 * (0.05 * noise + 0.1 * np.sin(samples * 0.2))).astype(np.int16)

    features = ReferenceOps(BASE["num_attention_heads"]).log_mel([wave.astype(np.float32) / 32768], front_end)
    with torch.inference_mode():
        exact = model(features).logits
        peer = model.to(DTYPES[precision])(features.to(DTYPES[precision])).logits.float()
    logits = torch.from_numpy(engine.logits([wave]))
    return Outcome(
        (logits - exact).abs().max().item(),
        (peer - exact).abs().max().item(),
        exact.abs().max().item(),
        emulator.counts,
    )


def table(outcome: Outcome) -> str:
    """Statistics by kernel as Markdown: launches, instructions of all warps, bytes that threads asked of global memory,
    the same over the bytes of the sectors moved, and cycles of shared memory over those without bank conflicts."""
    rows: list[tuple[object, ...]] = [
        ("kernel", "launches", "warp instructions", "global MB", "bytes asked over moved", "bank cycles over ideal")
    ]
    for kernel in dict.fromkeys(counts.kernel for counts in outcome.counts):
        launches = [counts for counts in outcome.counts if counts.kernel == kernel]
        instructions, asked, moved, cycles, ideal = (sum(column) for column in list(zip(*launches, strict=True))[1:])
        conflicts = f"{cycles / ideal:.2f}" if ideal else "-"
        rows.append(
            (kernel, len(launches), f"{instructions:,}", f"{asked / 1e6:,.1f}", f"{asked / moved:.2f}", conflicts)
        )
    return markdown(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", type=int, default=80, choices=MULTIPROCESSORS)
    parser.add_argument("--precision", default="bfloat16", choices=DTYPES)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--no-races", action="store_true", help="without the race detectors")
    parser.add_argument("--persistent", action="store_true", help="Hopper's persistent kernels where there are any")
    parser.add_argument("--docs", action="store_true", help="write it into docs/gpu_kernels.md as well")
    options = parser.parse_args()
    ptxemu()
    start = time.process_time()
    outcome = run(options.arch, options.precision, options.layers, not options.no_races, options.persistent)
    name = f"sm_{options.arch} {options.precision}{' persistent' * options.persistent}"
    races = "off" if options.no_races else "on"
    summary = (
        f"**{name}, {options.layers} layers**: largest error of a logit {outcome.error:.2e}, transformers' own in "
        f"{options.precision} {outcome.peer_error:.2e}, largest logit {outcome.largest:.2f}; race detectors {races}, "
        f"{time.process_time() - start:.0f} s of one core."
    )
    report = f"{summary}\n\n{table(outcome)}"
    print(report)
    if options.docs:
        write_section(gpu_docs.KERNELS, f"clip {name}", report)
