"""Rows of benchmarks/run_gpu.py in the order in which their answers matter; each is measured by one function."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from astfast.backends.cuda import autotune_cache, backend
from astfast.backends.cuda.autotune_cache import KernelResult
from astfast.backends.cuda.target import has_dependent_launches, has_float8
from astfast.benchmarking.timing import speedup, spread
from astfast.engines.cuda_graphs import CudaGraphEngine
from astfast.kernels import tuning
from astfast.kernels.quantise import FLOAT8_MAX
from benchmarks import gpu_checks
from benchmarks.gpu_bench import Bench, resources
from benchmarks.rows import ROOT

TOP_K = 5
TURNS, TURN_SECONDS = 8, 0.2  # of engines that are compared in turns
# Of logits, relative to their spread: about four times what PyTorch's own ops in that type gave on a CPU.
LARGEST_ERROR = {"float32": 1e-3, "float16": 4e-3, "bfloat16": 0.03, "float8": 0.25}
TESTS = ROOT / "tests"
TESTERS = 4  # processes of pytest
DEPENDENT = "dependent launches"  # a section
SHORT_CLIPS = "speech-commands"  # a geometry of 146 tokens
FAMILIES = ("ced-mini", "dass-small", "passt-s-10", "maest-30s")  # of which all but the last are timed
Found = dict[str, Any] | list[dict[str, Any]]


class Row(NamedTuple):
    """A row of the results, or several that are measured together."""

    section: str
    name: str
    seconds: float  # limit
    measure: Callable[[Bench], Found]


def rows(arch: tuning.Arch, dry_run: bool = False) -> list[Row]:
    """All rows for a GPU, those that matter most first. In a dry run: in float32, which the interpreter computes."""
    fastest = "float32" if dry_run else backend.fastest_precision()
    few, eight, many = (1, 1, 2) if dry_run else (1, 8, 32)
    called = (few, many) if dry_run else (few, eight, 2 * many, 8 * many)  # clips in a call
    others = [] if dry_run else ["float16", "float32"]
    narrow = ["float8"] if has_float8(arch) and not dry_run else []
    compared = ("astfast", "sdpa", "compiled", "accelerated")
    made = [Row("smoke", "ceilings", 20, ceilings)]
    made += [
        Row("smoke", f"check {name} {fastest}", 20, checked(fastest, name)) for name in checks(arch, fastest, dry_run)
    ]
    made += [Row("smoke", f"engine {fastest}", 60, partial(engine_works, precision=fastest))]
    limits = {"compiled": 170.0}
    made += [throughput(f"batch {many}", name, fastest, many, limits.get(name, 45)) for name in compared]
    made += [
        Row(f"batch {many}", f"in turns {fastest} batch {many}", 45, partial(in_turns, precision=fastest, batch=many))
    ]
    made += [Row(f"batch {many}", f"ops {fastest} batch {many}", 20, partial(ops, precision=fastest, batch=many))]
    made += [Row(f"batch {many}", "kernels", 10, lambda _: resources())]
    for samples in ("int16", "float32"):
        for clips in called:
            made.append(top_k("waveforms to top-k", fastest, samples, clips))
    made += [
        Row("families", f"check {name}", 20, partial(gpu_checks.check_family, precision=fastest, name=name))
        for name in gpu_checks.families()
    ]
    made += [
        Row("families", f"engine {fastest} {name}", 60, partial(engine_works, precision=fastest, geometry=name))
        for name in FAMILIES
    ]
    for name in FAMILIES[:-1]:
        made += [throughput("families", engine, fastest, many, 45, name) for engine in ("astfast", "sdpa")]
        made += [top_k("families", fastest, "int16", many, name)]
    for clips in called[:-1]:
        made += [throughput("other batches", name, fastest, clips, 30) for name in ("astfast", "sdpa", "accelerated")]
    if has_dependent_launches(arch) or dry_run:
        made += [
            Row(DEPENDENT, f"in turns {fastest} batch {clips}", 60, partial(dependent, precision=fastest, batch=clips))
            for clips in dict.fromkeys((few, eight))
        ]
    for precision in narrow:
        made += [throughput(precision, "astfast", precision, many, 60)]
        made += [Row(precision, f"ops {precision} batch {many}", 20, partial(ops, precision=precision, batch=many))]
        made += [Row(precision, f"_scaled_mm batch {many}", 30, partial(scaled_products, batch=many))]
    for precision in others:
        made += [throughput(precision, name, precision, many, 60) for name in ("astfast", "sdpa")]
    for precision in (*others, *narrow):
        names = checks(arch, precision, dry_run)
        made += [Row("odd shapes", f"check {name} {precision}", 20, checked(precision, name)) for name in names]
    made += [throughput("odd shapes", name, fastest, many + 1, 45, SHORT_CLIPS) for name in ("astfast", "sdpa")]
    made += [Row("tests", path, 150, partial(gpu_tests, path=path)) for path in test_files()]
    made += [throughput("compiled batches", "compiled", fastest, clips, 100) for clips in dict.fromkeys((eight, few))]
    return made


def checks(arch: tuning.Arch, precision: str, dry_run: bool) -> list[str]:
    return list(gpu_checks.cases(arch, precision, "cpu" if dry_run else "cuda"))


def checked(precision: str, name: str) -> Callable[[Bench], Found]:
    return partial(gpu_checks.check, precision=precision, name=name)


def ceilings(bench: Bench) -> Found:
    """What this GPU reaches with PyTorch's own copy (bytes read and written) and product in bfloat16."""
    n, size = (64, 1 << 16) if bench.dry_run else (8192, 1 << 30)
    a, b = torch.randn(2, n, n, device=bench.device).to(torch.bfloat16)
    source, copy = torch.empty(2, size, dtype=torch.uint8, device=bench.device)
    product = spread(bench.call_seconds(lambda: a @ b, 0.5)).p20
    copied = spread(bench.call_seconds(lambda: copy.copy_(source), 0.3)).p20
    return {"product_tflops": 2 * n**3 / product / 1e12, "copy_tbs": 2 * size / copied / 1e12}


def engine_works(bench: Bench, precision: str, geometry: str = "") -> Found:
    """One call of the engine against PyTorch in float32; whether graphs are in use; which kernels were refused."""
    engine = bench.engine(precision, geometry)
    clips = 2 if bench.dry_run else 8
    error = accurate(bench, engine.forward(bench.features(clips, geometry)), precision, clips, geometry)
    row = {"error": error, "graphs": engine.ops.runtime.graphs_failure is None, "hardware": engine.hardware}
    return row | refusals(engine)


def refusals(engine: CudaGraphEngine) -> dict[str, str]:
    """``failed``, if the engine has refused a kernel."""
    refused = [f"{key}: {result.failure}" for key, result in engine.ops.op_results().items() if result.failure]
    return {"failed": f"kernels that are not used: {'; '.join(refused)}"} if refused else {}


def accurate(bench: Bench, logits: torch.Tensor, precision: str, batch: int, geometry: str = "") -> float:
    """The error of logits. Raises AssertionError where it is too large to call it that precision."""
    error = bench.error(logits, batch, geometry)
    if not error <= LARGEST_ERROR[precision]:
        raise AssertionError(f"logits are off by {error:.2g} of their spread: more than {LARGEST_ERROR[precision]:g}")
    return error


def throughput(section: str, name: str, precision: str, batch: int, seconds: float, geometry: str = "") -> Row:
    where = f" {geometry}" if geometry else ""

    def measure(bench: Bench) -> Found:
        """Clips a second, features on the device to logits there, after a look at the logits."""
        work = bench.contestant(name, precision, batch, geometry)
        row: dict[str, Any] = {"engine": name, "precision": precision, "batch": batch, "geometry": geometry}
        row["model"] = bench.name(geometry)
        start = time.perf_counter()
        row["error"] = accurate(bench, work(), precision, batch, geometry)
        row["first_call_seconds"] = time.perf_counter() - start
        row |= bench.timed(work, batch)
        if name == "astfast":
            engine = bench.engine(precision, geometry)
            row |= {
                "hardware": engine.hardware,
                "ops": autotune_cache.describe(of_batch(engine, batch)),
            }
        if name in ("sdpa", "compiled"):
            row["attention"] = bench.attention_choice(precision, batch, geometry)
        return row

    return Row(section, f"{name} {precision} batch {batch}{where}", seconds, measure)


def of_batch(engine: CudaGraphEngine, batch: int) -> dict[str, KernelResult]:
    """Autotuning results of the ops of one batch size, which the engine has run. Raises AssertionError if there are
    none."""
    bucket = max(each for each in engine.buckets if each <= batch)
    found = {key: each for key, each in engine.ops.op_results().items() if f" {bucket}x" in key}
    assert found, f"no op has run with a batch of {bucket}"
    return found


def in_turns(bench: Bench, precision: str, batch: int) -> Found:
    """Engines in turns, so that all meet the same clock: how many times faster than each of the others ours is.

    One that has failed before is left out.
    """
    known = {key[0] for key in bench.contestants if key[1:] == (precision, batch, "")}
    names = ["astfast", *(name for name in ("sdpa", "compiled", "accelerated") if name == "sdpa" or name in known)]
    return {"precision": precision, "batch": batch, **compared(bench, names, precision, batch)}


def dependent(bench: Bench, precision: str, batch: int) -> Found:
    """Dependent launches against the others, in turns, after a look at their logits."""
    logits, engine = bench.contestant("dependent", precision, batch)(), bench.engine(precision, dependent=True)
    row: dict[str, Any] = {"with": DEPENDENT, "precision": precision, "batch": batch, "hardware": engine.hardware}
    row["error"] = accurate(bench, logits, precision, batch)
    row["ops"] = autotune_cache.describe(of_batch(engine, batch))
    return row | compared(bench, ["dependent", "astfast"], precision, batch) | refusals(engine)


def compared(bench: Bench, names: list[str], precision: str, batch: int) -> dict[str, Any]:
    """How many times faster the first contestant is than each of the others, in turns; clocks and power meanwhile. One
    of the others that fails costs its ratio only, and says why."""
    works, found = {}, dict[str, Any]()
    for name in names:
        try:
            works[name] = bench.contestant(name, precision, batch)
            works[name]()
        except Exception as error:
            if name == names[0]:
                raise
            works.pop(name, None)
            found[f"without_{name}"] = f"{type(error).__name__}: {error}"[:300]
    times: dict[str, list[float]] = {name: [] for name in works}
    with bench.sensors() as readings:
        for _ in range(1 if bench.dry_run else TURNS):
            for name, work in works.items():
                times[name].append(spread(bench.call_seconds(work, TURN_SECONDS)).p50)
    ratios = {f"over_{name}": list(speedup(times[name], times[names[0]])) for name in list(works)[1:]}
    return ratios | found | readings


def ops(bench: Bench, precision: str, batch: int) -> Found:
    """Each op of a batch: which implementation serves it, and how fast both are."""
    found = []
    engine = bench.engine(precision)
    engine.forward(bench.features(batch))  # in a worker that has not done so
    for key, result in sorted(of_batch(engine, batch).items()):
        row: dict[str, Any] = {"name": key, "failure": result.failure}
        row["served_by"] = "kernel" if result.failure is None and result.kernel_is_faster else "torch"
        flops = operations(key, bench.checkpoint().config.num_tokens)
        for server, seconds in (("kernel", result.kernel_seconds), ("torch", result.torch_seconds)):
            if seconds is not None:
                row |= {f"{server}_us": 1e6 * seconds, f"{server}_tflops": flops / seconds / 1e12}
        found.append(row)
    return found


def operations(key: str, tokens: int) -> float:
    """Operations of a product or of attention by its autotuning key, whose first shapes are those of the result, the
    input, and the weight; 0 for the other ops."""
    shapes = [[int(n) for n in text.split("x")] for text in re.findall(r"(?<= )\d+(?:x\d+)+(?= |$)", key)]
    clips, rows_, columns = shapes[0] if len(shapes[0]) == 3 else (0, 0, 0)
    if key.startswith("attention"):
        return 4.0 * clips * rows_ * tokens * columns
    return 2.0 * clips * rows_ * columns * shapes[2][1] if key.startswith(("norm_linear", "linear_residual")) else 0.0


def top_k(section: str, precision: str, samples: str, clips: int, geometry: str = "") -> Row:
    where = f" {geometry}" if geometry else ""
    work = partial(to_top_k, precision=precision, samples=samples, clips=clips, geometry=geometry)
    return Row(section, f"top-{TOP_K} of {samples} waveforms {precision} batch {clips}{where}", 30, work)


def to_top_k(bench: Bench, precision: str, samples: str, clips: int, geometry: str = "") -> Found:
    """Waveforms to the best scores and labels, both in host memory, in one call of the engine."""
    engine = bench.engine(precision, geometry)
    waves = bench.waves(geometry)
    if samples == "int16":
        waves = [(32767 * wave.clip(-1, 1)).astype(np.int16) for wave in waves]
    waves = [np.roll(waves[i % len(waves)], i) for i in range(clips)]
    row = bench.timed_on_the_host(lambda: engine.top_k(waves, TOP_K, "sigmoid"), clips)
    scores, labels = engine.top_k(waves, TOP_K, "sigmoid")
    alone, _ = engine.top_k(waves[-1:], TOP_K, "sigmoid")
    assert scores.shape == labels.shape == (clips, TOP_K), f"{scores.shape} scores, {labels.shape} labels"
    assert np.abs(scores[-1] - alone[0]).max() <= 0.05, f"the last clip has {scores[-1]} here and {alone[0]} alone"
    return {"precision": precision, "batch": clips, **row}


def scaled_products(bench: Bench, batch: int) -> Found:
    """PyTorch's float8 product alone, at the shapes of the layers: what ours, in the rows of ops, must beat with bias,
    GELU, residual and statistics; and what sums of more than 14 bits would cost on Hopper."""
    config, found = bench.checkpoint().config, []
    d, m, rows_ = config.hidden_size, config.intermediate_size, batch * config.num_tokens
    for n, k in ((3 * d, d), (d, d), (m, d), (d, m)):
        x, w = (torch.randn(size, k, device=bench.device).clamp(-FLOAT8_MAX, FLOAT8_MAX) for size in (rows_, n))
        a, b = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn).t()
        scales = torch.rand(rows_, 1, device=bench.device), torch.rand(1, n, device=bench.device)
        for fast in (False, True):
            row: dict[str, Any] = {"name": f"_scaled_mm {rows_}x{n}x{k}{' fast accumulation' if fast else ''}"}
            work = partial(torch._scaled_mm, a, b, *scales, out_dtype=torch.bfloat16, use_fast_accum=fast)
            try:
                seconds = spread(bench.call_seconds(work, 0.2)).p50
                row |= {"torch_us": 1e6 * seconds, "torch_tflops": 2e-12 * rows_ * n * k / seconds}
            except RuntimeError as error:  # of a GPU or a PyTorch that has no such product
                row["unsupported"] = str(error).strip().splitlines()[0]
            found.append(row)
    return found


def test_files() -> list[str]:
    """Files with tests marked gpu."""
    found = [path for path in sorted(TESTS.rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    return [str(path.relative_to(ROOT)) for path in found]


def gpu_tests(bench: Bench, path: str) -> Found:
    """Tests marked gpu of a file, if this Python has pytest; in a dry run they are only collected."""
    if importlib.util.find_spec("pytest") is None:
        return {"ok": "not run: pytest is not installed"}
    parallel = ["-n", str(TESTERS)] if importlib.util.find_spec("xdist") else []  # they compile for most of their time
    how = ["--collect-only"] if bench.dry_run else parallel
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *how, path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    if done.returncode:
        raise AssertionError("\n".join(lines[-15:]))
    return {"ok": lines[-1]}
