"""Sections of benchmarks/run_gpu.py, accuracy and speed of kernels and models on a GPU. Each yields its rows."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import astfast
from astfast.backends.cuda import backend
from astfast.backends.cuda.ops import CudaOps, Target
from astfast.backends.cuda.target import has_float8
from astfast.benchmarking.peers import transformers_model
from astfast.engines.base import Engine
from astfast.engines.load import engine_for
from astfast.front_end import KaldiFbank
from astfast.kernels import launch, tuning
from astfast.models import recognise
from astfast.models.base import Checkpoint
from benchmarks import gpu_model, models
from benchmarks.rows import ROOT
from tests import launchers
from tests.cases import float8_cases, gpu_cases

TESTS = ROOT / "tests"
BATCHES = (1, 8, 32, 64)
TOP_K = 5


class Bench:
    """Device and clock of a run: a GPU, or the CPU for a dry run."""

    def __init__(self, dry_run: bool, seconds: float, cache: Path) -> None:
        self.cache = cache
        self.dry_run = dry_run
        self.device = "cpu" if dry_run else "cuda"
        self.geometry = "tiny" if dry_run else "ast-base"
        self.launcher = launchers.interpret if dry_run else launch.run
        self.target = Target(80, 4, "dry run on a CPU") if dry_run else None
        # Few programs in a dry run: the interpreter spends its time between them.
        self.tiles = replace(tuning.FLOAT32, log_mel=tuning.Tile(64, 256, 128, 4, 2)) if dry_run else None
        self._deadline = time.monotonic() + seconds

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the backend computes in on this GPU, the fastest 16-bit one first, while there is time."""
        if self.dry_run:
            return ("float32",)
        float8 = has_float8(self.ops(1, self.fastest).target.arch)
        found = [name for name in backend.precisions() if name != "float8" or float8]
        return tuple(sorted(found, key=lambda name: name != self.fastest))

    @property
    def fastest(self) -> str:
        """The precision that engines are compared in; in a dry run, the one that the interpreter computes."""
        return "float32" if self.dry_run else backend.fastest_precision()

    def ops(self, heads: int, precision: str) -> CudaOps:
        """The backend with its own kernels only, unchecked."""
        where = {"launcher": self.launcher, "target": self.target, "tiles": self.tiles}
        return CudaOps(heads, precision, self.device, **where)

    def engine(self, precision: str) -> Engine:
        """The engine that users get: CUDA graphs, and PyTorch's own op for a kernel that is wrong or slower."""
        loaded = self.loaded()
        heads = loaded.config.num_attention_heads
        ops = self.ops(heads, precision) if self.dry_run else backend.open(heads, precision, self.device)
        return engine_for(ops, loaded)

    def folder(self) -> Path:
        return models.checkpoint(self.geometry, self.cache, outliers=True)

    def loaded(self) -> Checkpoint:
        return recognise.load(self.folder())

    def features(self, batch: int) -> torch.Tensor:
        """Noise, as loud as normalised spectrograms are, [batch, frames, mels] float32."""
        config = self.loaded().config
        noise = torch.randn((batch, config.max_length, config.num_mel_bins), generator=torch.Generator().manual_seed(0))
        return (0.5 * noise).to(self.device)

    def milliseconds(self, work: Callable[[], Any]) -> float:
        """Median time of one call on the device."""
        if self.dry_run:
            start = time.perf_counter()
            work()
            return 1e3 * (time.perf_counter() - start)
        from triton.testing import do_bench

        return float(do_bench(work, warmup=50, rep=200, return_mode="median"))

    @staticmethod
    def seconds_on_the_host(work: Callable[[], Any]) -> float:
        """Of a call that waits for its result; the second of two, which compiles and captures nothing."""
        work()
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def attempt(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A row with what ``work`` returns, or with the exception that it raised, or skipped for lack of time."""
        if time.monotonic() > self._deadline:
            return {"name": name, "skipped": "no time left"}
        try:
            return {"name": name, **work()}
        except Exception as error:
            return {"name": name, "failed": "".join(traceback.format_exception_only(error))[-2000:]}


def kernel_checks(bench: Bench) -> Iterator[dict[str, Any]]:
    """Every kernel against float64, its error at most twice that of torch's own op in the same type."""
    for precision in bench.precisions:
        for name, make in (_float8_cases if precision == "float8" else _cases)(bench, precision).items():

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
    front_end = KaldiFbank(max_length=8)

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


def _float8_cases(bench: Bench, precision: str) -> dict[str, Callable[[], gpu_cases.Case]]:
    """Cases of the kernels that differ in float8: the matrix products, and the output of attention."""
    shape, m, d, where = (2, 1214, 768), 3072, 768, {"device": bench.device}
    tiles = tuning.tiles_for(bench.ops(12, precision).target.arch, 1)
    bf16, fp8 = torch.bfloat16, torch.float8_e4m3fn

    def norm_linear(tile: tuning.Tile) -> gpu_cases.Case:
        return float8_cases.norm_linear(bf16, shape, m, tile, "gelu", fp8, **where)

    def linear_residual(tile: tuning.Tile) -> gpu_cases.Case:
        return float8_cases.linear_residual(bf16, (2, 1214, m), d, tile, **where)

    return {
        **{f"norm_linear {tile}": partial(norm_linear, tile) for tile in tiles.norm_linear},
        **{f"linear_residual {tile}": partial(linear_residual, tile) for tile in tiles.residual},
        "attention": lambda: float8_cases.attention_(bf16, 2, 1214, 1214, 12, 64, tiles.attention, **where),
    }


def gpu_tests(bench: Bench) -> Iterator[dict[str, Any]]:
    """Tests marked gpu, if this Python has pytest; in a dry run they are only collected."""
    for path in sorted(TESTS.rglob("test_*.py")):
        if "@pytest.mark.gpu" not in path.read_text():
            continue

        def run(path: Path = path) -> dict[str, Any]:
            if importlib.util.find_spec("pytest") is None:
                return {"ok": "not run: pytest is not installed"}
            how = ["--collect-only"] if bench.dry_run else []
            command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *how, str(path)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
            lines = (done.stdout + done.stderr).strip().splitlines()
            if done.returncode:
                raise RuntimeError("\n".join(lines[-15:]))
            return {"ok": lines[-1]}

        yield bench.attempt(path.name, run)


def _forward(bench: Bench, precision: str, batch: int) -> tuple[CudaOps, Callable[[], Any]]:
    """(backend, one batch of int16 waveforms on the device to logits on the device)."""
    loaded = bench.loaded()
    config, family = loaded.config, loaded.family
    ops = bench.ops(config.num_attention_heads, precision)
    weights = family.pack(ops, loaded.weights)
    ws = {name: ops.empty((batch, *shape), kind) for name, (shape, kind) in family.workspace(config).items()}
    samples = config.front_end.input_samples
    waves = torch.randint(-3000, 3000, (batch, samples), dtype=torch.int16, device=bench.device)
    lengths = torch.full((batch,), samples, dtype=torch.int32, device=bench.device)

    def forward() -> Any:
        spectrogram = ops.log_mel_on_device(waves, lengths, config.front_end, ws["spectrogram"])
        return family.forward(ops, weights, spectrogram, ws)

    return ops, forward


def launch_times(bench: Bench) -> Iterator[dict[str, Any]]:
    """Each launch of a forward pass, batch 32, in microseconds: time, prediction, share of the roofline; then by op."""
    for precision in (p for p in bench.precisions if p in (bench.fastest, "float8")):
        ops, forward = _forward(bench, precision, 1 if bench.dry_run else 32)
        recorder = launchers.Recorder()

        def run_and_keep(entry: launch.Launch, recorder: launchers.Recorder = recorder) -> None:
            """Runs for real, so that launches are timed on the values of a model, which power and clocks depend on."""
            recorder(entry)
            try:
                bench.launcher(entry)
            except Exception:
                return  # its own row says why

        ops._launch = run_and_keep
        forward()
        count = Counter((entry.name, entry.work, entry.grid) for entry in recorder.launches)
        launches = {(entry.name, entry.work, entry.grid): entry for entry in recorder.launches}
        gpu = next((known for known in gpu_model.GPUS if known in ops.hardware), None)
        total: dict[str, Counter[str]] = {}
        for key, entry in launches.items():

            def measure(
                key: Any = key,
                entry: launch.Launch = entry,
                count: Counter[Any] = count,
                gpu: str | None = gpu,
                total: dict[str, Counter[str]] = total,
            ) -> dict[str, Any]:
                microseconds = 1e3 * bench.milliseconds(lambda: bench.launcher(entry))
                row = {"microseconds": microseconds, "teraflops": entry.work.flops / microseconds / 1e6}
                op = total.setdefault(entry.name, Counter())
                op["microseconds"] += count[key] * microseconds
                if gpu is not None:
                    predicted = gpu_model.predict(entry, gpu_model.GPUS[gpu])
                    floor = 1e6 * predicted.floor
                    row |= {"predicted": 1e6 * predicted.seconds, "share_of_roofline": floor / microseconds}
                    op["floor"] += count[key] * floor
                return {**row, "times": count[key], "grid": entry.grid}

            yield bench.attempt(f"{entry.name} {precision}", measure)
        everything = sum(op["microseconds"] for op in total.values())
        for name, op in total.items():
            roofline = {"share_of_roofline": op["floor"] / op["microseconds"]} if op["floor"] else {}
            share = {"share_of_time": op["microseconds"] / everything}
            yield {"name": f"all of {name} {precision}", "microseconds": op["microseconds"], **share, **roofline}


def model_times(bench: Bench) -> Iterator[dict[str, Any]]:
    """Clips per second on the device: astfast from int16 waveforms, transformers from ready features."""
    batches = (1,) if bench.dry_run else BATCHES
    for precision in bench.precisions:
        for batch in batches:

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
    for peer in ("eager", "sdpa", "accelerated", "compiled"):
        for batch in (1,) if bench.dry_run else (32, 8, 1):

            def theirs(peer: str = peer, batch: int = batch) -> dict[str, Any]:
                return {"clips_per_second": 1e3 * batch / bench.milliseconds(_peer(bench, peer, batch))}

            if not (bench.dry_run and peer == "compiled"):
                yield bench.attempt(f"transformers {peer} {bench.fastest} batch {batch}", theirs)


def _peer(bench: Bench, peer: str, batch: int) -> Callable[[], Any]:
    """A batch through the transformers model: eager, SDPA, torch.compile, or accelerated by astfast."""
    model = transformers_model(bench.folder(), bench.fastest).to(bench.device)
    model.set_attn_implementation("eager" if peer == "eager" else "sdpa")
    run = torch.compile(model, mode="max-autotune") if peer == "compiled" else model
    if peer == "accelerated":
        astfast.accelerate(model)
    features = bench.features(batch).to(getattr(torch, bench.fastest))

    def forward() -> Any:
        with torch.inference_mode():
            return run(features).logits

    return forward


def logits_errors(bench: Bench) -> Iterator[dict[str, Any]]:
    """Error of the logits against transformers in float32, root mean square relative to their standard deviation.

    Random weights with outlier channels.
    """
    features = bench.features(2 if bench.dry_run else 8)

    def logits(precision: str) -> torch.Tensor:
        model = transformers_model(bench.folder(), precision).to(bench.device)
        with torch.inference_mode():
            return model(features.to(getattr(torch, precision))).logits.double()

    def error(x: torch.Tensor) -> dict[str, Any]:
        exact = logits("float32")
        difference = x - exact
        spread = difference.square().mean().sqrt() / exact.std()
        return {"error": float(spread), "largest": float(difference.abs().max())}

    for precision in bench.precisions:
        yield bench.attempt(
            f"astfast {precision}", lambda p=precision: error(bench.engine(p).forward(features).double())
        )
        if precision not in ("float32", "float8"):
            yield bench.attempt(f"transformers {precision}", lambda p=precision: error(logits(p)))


def end_to_end(bench: Bench) -> Iterator[dict[str, Any]]:
    """Clips per second from waveforms to top-k, both in host memory, with the engine that users get."""
    config = bench.loaded().config
    rng = np.random.default_rng(0)
    clips = [0.1 * rng.standard_normal(config.front_end.input_samples, np.float32) for _ in range(32)]
    for precision in (p for p in bench.precisions if p in (bench.fastest, "float8")):
        engine = bench.engine(precision)
        for samples in ("float32", "int16"):
            for batch in (1,) if bench.dry_run else (1, 32, 256):
                waves = [clips[i % 32] for i in range(batch)]
                if samples == "int16":
                    waves = [(32767 * wave).astype(np.int16) for wave in waves]

                def measure(engine: Engine = engine, waves: list[Any] = waves) -> dict[str, Any]:
                    seconds = bench.seconds_on_the_host(lambda: engine.top_k(waves, TOP_K, "sigmoid"))
                    scores, labels = engine.top_k(waves[:1], TOP_K, "sigmoid")
                    assert np.isfinite(scores).all(), "scores are not finite"
                    assert scores.shape == labels.shape == (1, TOP_K), f"{scores.shape} scores, {labels.shape} labels"
                    return {"clips_per_second": len(waves) / seconds, "milliseconds": 1e3 * seconds}

                yield bench.attempt(f"astfast {precision} top-{TOP_K} of {samples} waveforms batch {batch}", measure)


SECTIONS = (kernel_checks, end_to_end, launch_times, logits_errors, gpu_tests, model_times)
