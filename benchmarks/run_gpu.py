"""Everything that waits for a GPU, in one unattended run: are the kernels right, and how fast are they?

python benchmarks/run_gpu.py [--dry-run] [--seconds 420]

First every kernel in every type at real shapes against float64; then each launch of the model against its floor and its
prediction; then models by batch size against transformers (eager, SDPA, torch.compile), and waveform to scores. Nothing
stops the run: what fails is named in its row and in the last lines. ``--dry-run`` goes through the whole script on a
CPU, with a tiny model, in Triton's interpreter: its times mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import models
import numpy as np
import torch
from rows import Rows, slug

from astfast import checkpoint
from astfast.backends.cuda import CudaOps, Target
from astfast.bench import transformers_model
from astfast.engine import Engine
from astfast.front_end import FrontEnd
from astfast.kernels import launch, performance, tuning
from astfast.models import ast

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import gpu_cases

CACHE = Path.home() / ".cache" / "astfast-benchmarks"
PRECISIONS = ("bfloat16", "float16", "float32")
BATCHES = (1, 8, 32, 64)


class Bench:
    """Where things run and how they are timed: a GPU, or the CPU for a dry run."""

    def __init__(self, dry_run: bool, seconds: float, cache: Path) -> None:
        self.cache = cache
        self.dry_run = dry_run
        self.device = "cpu" if dry_run else "cuda"
        self.geometry = "tiny" if dry_run else "ast-base"
        self.launcher = launch.interpret if dry_run else launch.run
        self.target = Target(80, 4, "dry run on a CPU") if dry_run else None
        # Few programs in a dry run: the interpreter spends its time between them.
        self.tiles = replace(tuning.FLOAT32, log_mel=tuning.Tile(64, 256, 128, 4, 2)) if dry_run else None
        self.failures: list[str] = []
        self._deadline = time.monotonic() + seconds

    def ops(self, heads: int, precision: str) -> CudaOps:
        where = {"launcher": self.launcher, "target": self.target, "tiles": self.tiles}
        return CudaOps(heads, precision, self.device, **where)

    def milliseconds(self, work: Callable[[], Any]) -> float:
        """Median time of one call on the device."""
        if self.dry_run:
            start = time.perf_counter()
            work()
            return 1e3 * (time.perf_counter() - start)
        from triton.testing import do_bench

        return float(do_bench(work, warmup=50, rep=200, return_mode="median"))

    def attempt(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``work`` measured; what it raised where it failed; that there was no time left."""
        if time.monotonic() > self._deadline:
            self.failures.append(f"{name}: no time left")
            return {"name": name, "skipped": "no time left"}
        try:
            return {"name": name, **work()}
        except Exception as error:
            message = str(error).strip() or type(error).__name__
            self.failures.append(f"{name}: {message.splitlines()[0]}")
            return {"name": name, "failed": "".join(traceback.format_exception_only(error))[-2000:]}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="the whole script on a CPU, tiny and untimed")
    parser.add_argument("--seconds", type=float, default=420.0, help="what has not begun by then is left out")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the random checkpoint is kept")
    parser.add_argument("--out", type=Path, help="results file (default: benchmarks/results/gpu_<GPU>.jsonl)")
    options = parser.parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        print("run_gpu: PyTorch sees no GPU here; --dry-run goes through the script on the CPU", file=sys.stderr)
        return 1
    bench = Bench(options.dry_run, options.seconds, options.cache)
    gpu = "dry-run" if options.dry_run else torch.cuda.get_device_name()
    out = options.out or Path(__file__).parent / "results" / f"gpu_{slug(gpu)}.jsonl"
    with Rows("gpu", out, gpu=gpu) as rows:
        for section in SECTIONS:
            print(f"\n{section.__doc__.splitlines()[0]}")
            for row in section(bench):
                rows.write(section=section.__name__, **row)
                print("  " + "  ".join(f"{key} {_short(value)}" for key, value in row.items()), flush=True)
    print(f"\n{len(bench.failures)} failures" + "".join(f"\n  {failure}" for failure in bench.failures))
    return 1 if bench.failures else 0


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).splitlines()[-1][:100]


def kernel_checks(bench: Bench) -> Iterator[dict[str, Any]]:
    """Every kernel against float64, its error at most twice that of torch's own op in the same type."""
    for precision in ("float32",) if bench.dry_run else PRECISIONS:
        for name, make in _cases(bench, precision).items():

            def check(make: Callable[[], gpu_cases.Case] = make) -> dict[str, Any]:
                case = make()
                bench.launcher(case.launch)
                case.check()
                return {"ok": True}

            yield bench.attempt(f"{name} {precision}", check)


def _cases(bench: Bench, precision: str) -> dict[str, Callable[[], gpu_cases.Case]]:
    """Cases by name: each kernel at the shapes of AST-base, with every tile that its table has for this GPU."""
    clips, tokens, d, m, heads = (1, 9, 64, 128, 2) if bench.dry_run else (2, 1214, 768, 3072, 12)
    dtype = getattr(torch, precision)
    tiles = bench.tiles or tuning.tiles_for(bench.ops(heads, precision).target.arch, dtype.itemsize)
    where: Any = {"device": bench.device, "precision": "tf32x3" if precision == "float32" else "ieee"}
    front_end = FrontEnd(max_length=8)

    def norm_linear(tile: tuning.Tile) -> gpu_cases.Case:
        return gpu_cases.norm_linear(dtype, (clips, tokens, d), m, tile, "gelu", **where)

    def linear_residual(tile: tuning.Tile) -> gpu_cases.Case:
        return gpu_cases.linear_residual(dtype, (clips, tokens, m), d, tile, **where)

    def attention(queries: int, tile: tuning.Tile) -> gpu_cases.Case:
        return gpu_cases.attention_(dtype, clips, queries, tokens, heads, d // heads, tile, **where)

    return {
        **{f"norm_linear {tile}": partial(norm_linear, tile) for tile in tiles.norm_linear},
        **{f"linear_residual {tile}": partial(linear_residual, tile) for tile in tiles.residual},
        "attention": partial(attention, tokens, tiles.attention),
        "attention of two queries": partial(attention, 2, tiles.few_queries),
        "patch_embed": lambda: gpu_cases.patch_embed_(
            dtype, clips, 96, 64, 16, (10, 10), d, tiles.patch_embed, **where
        ),
        "pool": lambda: gpu_cases.pool(dtype, clips, d, bench.device),
        "head": lambda: gpu_cases.head_(clips, d, 35, tiles.head, bench.device),
        "log_mel": lambda: gpu_cases.log_mel_(front_end, [1500, 399], tiles.log_mel, True, bench.device),
    }


def _forward(bench: Bench, precision: str, batch: int) -> tuple[CudaOps, Callable[[], Any]]:
    """(backend, one batch of int16 waveforms on the device to logits on the device)."""
    loaded = checkpoint.load(models.checkpoint(bench.geometry, bench.cache))
    config = loaded.config
    ops = bench.ops(config.num_attention_heads, precision)
    weights = ast.pack(ops, loaded.weights)
    ws = {name: ops.empty((batch, *shape), kind) for name, (shape, kind) in ast.workspace_spec(config).items()}
    samples = config.front_end.input_samples
    waves = torch.randint(-3000, 3000, (batch, samples), dtype=torch.int16, device=bench.device)
    lengths = torch.full((batch,), samples, dtype=torch.int32, device=bench.device)

    def forward() -> Any:
        spectrogram = ops.log_mel_of_batch(waves, lengths, config.front_end, ws["spectrogram"])
        return ast.forward(ops, weights, spectrogram, ws)

    return ops, forward


def launch_times(bench: Bench) -> Iterator[dict[str, Any]]:
    """Each different launch of a forward pass, bfloat16, batch 32: time, prediction and floor, in microseconds."""
    ops, forward = _forward(bench, "float32" if bench.dry_run else "bfloat16", 1 if bench.dry_run else 32)
    forward()  # for real, so that launches are timed on the values of a model, which power and clocks depend on
    recorder = launch.Recorder()
    ops._launch = recorder
    forward()
    different = {(entry.name, entry.work, entry.grid): entry for entry in recorder.launches}
    name = next((known for known in performance.GPUS if known in ops.hardware), None)
    for entry in different.values():

        def measure(entry: launch.Launch = entry) -> dict[str, Any]:
            seconds = 1e-3 * bench.milliseconds(lambda: bench.launcher(entry))
            row = {"microseconds": 1e6 * seconds, "teraflops": entry.work.flops / seconds / 1e12, "grid": entry.grid}
            if name is not None:
                predicted = performance.predict(entry, performance.GPUS[name])
                row |= {"predicted": 1e6 * predicted.seconds, "share_of_floor": predicted.floor / seconds}
            return row

        yield bench.attempt(entry.name, measure)


def model_times(bench: Bench) -> Iterator[dict[str, Any]]:
    """Clips per second on the device: ours from int16 waveforms, transformers from ready features."""
    precisions = ("float32",) if bench.dry_run else PRECISIONS
    for precision in precisions:
        for batch in (1,) if bench.dry_run else BATCHES:

            def ours(precision: str = precision, batch: int = batch) -> dict[str, Any]:
                _, forward = _forward(bench, precision, batch)
                row = {"clips_per_second": 1e3 * batch / bench.milliseconds(forward)}
                if not bench.dry_run:
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph):
                        forward()
                    row["clips_per_second_in_a_graph"] = 1e3 * batch / bench.milliseconds(graph.replay)
                return row

            yield bench.attempt(f"astfast {precision} batch {batch}", ours)
    for peer in ("eager", "sdpa", "compiled"):
        for batch in (1,) if bench.dry_run else BATCHES[:-1]:

            def theirs(peer: str = peer, batch: int = batch) -> dict[str, Any]:
                return {"clips_per_second": 1e3 * batch / bench.milliseconds(_peer(bench, peer, batch))}

            if not (bench.dry_run and peer == "compiled"):
                yield bench.attempt(f"transformers {peer} {precisions[0]} batch {batch}", theirs)


def _peer(bench: Bench, peer: str, batch: int) -> Callable[[], Any]:
    folder = models.checkpoint(bench.geometry, bench.cache)
    precision = "float32" if bench.dry_run else "bfloat16"
    model = transformers_model(folder, precision).to(bench.device)
    model.set_attn_implementation("eager" if peer == "eager" else "sdpa")
    run = torch.compile(model, mode="max-autotune") if peer == "compiled" else model
    config = models.GEOMETRIES[bench.geometry].model_config()
    features = torch.from_numpy(models.features(batch, config)).to(bench.device, getattr(torch, precision))

    def forward() -> Any:
        with torch.inference_mode():
            return run(features).logits

    return forward


def end_to_end(bench: Bench) -> Iterator[dict[str, Any]]:
    """float32 waveforms in host memory to logits in host memory through the product's engine, clips per second."""
    precision = "float32" if bench.dry_run else "bfloat16"
    loaded = checkpoint.load(models.checkpoint(bench.geometry, bench.cache))
    engine = Engine(bench.ops(loaded.config.num_attention_heads, precision), loaded.config, loaded.weights)
    for batch in (1,) if bench.dry_run else (1, 32, 256):
        rng = np.random.default_rng(0)
        waves = [0.1 * rng.standard_normal(loaded.config.front_end.input_samples, np.float32) for _ in range(batch)]

        def measure(waves: list[Any] = waves) -> dict[str, Any]:
            if not bench.dry_run:
                engine.logits(waves)
            start = time.perf_counter()
            logits = engine.logits(waves)
            assert np.isfinite(logits).all()
            return {"clips_per_second": len(waves) / (time.perf_counter() - start)}

        yield bench.attempt(f"engine {precision} batch {batch}", measure)


SECTIONS = (kernel_checks, launch_times, model_times, end_to_end)

if __name__ == "__main__":
    sys.exit(main())
