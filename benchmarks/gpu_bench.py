"""What the rows of benchmarks/run_gpu.py share: device, model, engines and peers made once a process, and timing."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import inspect
import itertools
import os
import pkgutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.runtime.jit import JITFunction

import astfast
from astfast import kernels
from astfast.backends.cuda import backend
from astfast.backends.cuda.autotune import Autotuner, environment_key
from astfast.backends.cuda.ops import CudaOps, Target
from astfast.backends.cuda.runtime import runtime_for
from astfast.backends.cuda.target import driver_version, target_of
from astfast.benchmarking.peers import transformers_model
from astfast.benchmarking.timing import spread
from astfast.engines.cuda_graphs import CudaGraphEngine
from astfast.engines.load import engine_for
from astfast.kernels import launch, tuning
from astfast.models import recognise
from astfast.models.base import Checkpoint
from astfast.models.vit_config import VitConfig
from benchmarks import family_models, models
from tests import launchers

SPIN_SECONDS, TIMED_SECONDS = 0.3, 1.0  # of work before a measurement, which an idle GPU's clock needs; and of one
SAMPLE_SECONDS = 0.05  # between readings of clocks and power
LARGE = tuning.Tile(64, 256, 128, 4, 2)
DRY_TILES = replace(tuning.FLOAT32, log_mel=LARGE, tf32_log_mel=LARGE)  # few programs: the interpreter is slow
FASTEST_ATTENTION = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
Work = Callable[[], Any]
Made = TypeVar("Made")


def once(make: Callable[..., Made]) -> Callable[..., Made]:
    """The method, whose results are kept as long as the process lives: by its arguments, however they are passed."""
    signature, made = inspect.signature(make), dict[Any, Made]()

    @functools.wraps(make)
    def kept(*args: Any, **kwargs: Any) -> Made:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        key = tuple(bound.arguments.values())
        if key not in made:
            made[key] = make(*args, **kwargs)
        return made[key]

    return kept


class Bench:
    """A GPU, or for a dry run the CPU with Triton's interpreter and a tiny model."""

    def __init__(self, dry_run: bool, cache: Path) -> None:
        self.dry_run = dry_run
        self.cache = cache
        self.device = "cpu" if dry_run else "cuda"
        self.target = Target(80, 4, "dry run on a CPU") if dry_run else target_of(torch.device("cuda"))
        self.contestants: dict[tuple[str, str, int, str], Work] = {}  # those that were made in this process
        self.launcher: launch.Launcher = launchers.interpret if dry_run else launch.run
        self.runtime = runtime_for(torch.device(self.device))

    def describe(self) -> dict[str, Any]:
        """GPU and versions, for every row."""
        cudnn: Any = torch.backends.cudnn
        versions = {"triton": importlib.metadata.version("triton"), "cuda": torch.version.cuda}
        versions |= {"cudnn": cudnn.version(), "driver": driver_version()}
        gpu = {"gpu": self.target.name, "arch": self.target.arch, "multiprocessors": self.target.multiprocessors}
        return {**gpu, "gpu_versions": versions}

    def usable(self) -> bool:
        """Whether the device still computes: after an access out of bounds a process can only end."""
        try:
            return bool(torch.ones(2, device=self.device).sum() == 2)
        except RuntimeError:
            return False

    def ops(self, heads: int, precision: str, dependent: bool = False) -> CudaOps:
        """The backend's ops as users get them, or with dependent launches; in a dry run kernels are interpreted, and
        checked, but not timed."""
        if self.dry_run:
            tuner = Autotuner(
                self.runtime, self.launcher, environment_key(self.target.name, "none"), deterministic=True
            )
            return CudaOps(heads, precision, self.device, target=self.target, tiles=DRY_TILES, autotuner=tuner)
        with mock.patch.dict(os.environ, {"ASTFAST_DEPENDENT_LAUNCHES": str(int(dependent))}):
            return backend.open(heads, precision, self.device)

    def kernels(self, precision: str) -> CudaOps:
        """All of the backend's kernels, unchecked."""
        tiles = DRY_TILES if self.dry_run else None
        return CudaOps(1, precision, self.device, launcher=self.launcher, target=self.target, tiles=tiles)

    def name(self, geometry: str = "") -> str:
        """The model of that name in models.py or family_models.py; in a dry run, the tiny one of its family."""
        if self.dry_run:
            return f"tiny-{geometry.partition('-')[0]}" if geometry in family_models.MODELS else "tiny"
        return geometry or "ast-base"

    @once
    def checkpoint(self, geometry: str = "") -> Checkpoint:
        if geometry in family_models.MODELS:
            name = self.name(geometry)
            return recognise.load(family_models.checkpoint(name, self.cache), **family_models.MODELS[name].options)
        return recognise.load(self.folder(geometry))

    def folder(self, geometry: str = "") -> Path:
        """Of an AST in transformers' layout."""
        return models.checkpoint(self.name(geometry), self.cache, outliers=True)

    @once
    def engine(
        self, precision: str, geometry: str = "", batch_size: int | None = None, dependent: bool = False
    ) -> CudaGraphEngine:
        """The engine that users get, packed once a precision; or one with dependent launches."""
        loaded = self.checkpoint(geometry)
        engine = engine_for(self.ops(loaded.config.num_attention_heads, precision, dependent), loaded, batch_size)
        assert isinstance(engine, CudaGraphEngine)
        return engine

    @once
    def model(self, precision: str, geometry: str = "") -> Any:
        """transformers' model with PyTorch's fused attention; of another family its formulas in PyTorch's fast ops."""
        if geometry in family_models.MODELS:
            return family_models.torch_model(self.name(geometry), precision, self.device)
        return transformers_model(self.folder(geometry), precision).to(self.device)

    @once
    def features(self, batch: int, geometry: str = "") -> torch.Tensor:
        """Noise, as loud as normalised spectrograms are, [batch, frames, mels] float32; no two clips alike."""
        config = self.checkpoint(geometry).config
        noise = torch.randn((batch, config.max_length, config.num_mel_bins), generator=torch.Generator().manual_seed(0))
        return (0.5 * noise).to(self.device)

    def contestant(self, name: str, precision: str, batch: int, geometry: str = "") -> Work:
        """A function without arguments: a batch of features on the device to logits there; made once.

        ``name``: astfast, dependent (the same with dependent launches), or what runs PyTorch's model: sdpa; of an AST
        also accelerated, or compiled (max-autotune).
        """
        key = name, precision, batch, geometry
        if key not in self.contestants:
            self.contestants[key] = self._contestant(*key)
        return self.contestants[key]

    def _contestant(self, name: str, precision: str, batch: int, geometry: str) -> Work:
        if name in ("astfast", "dependent"):
            engine = self.engine(precision, geometry, dependent=name == "dependent")
            x = self.features(batch, geometry)
            return lambda: engine.forward(x)
        model: Any = self.model(precision, geometry)
        x = self.features(batch, geometry).to(getattr(torch, precision))
        if name == "accelerated":
            model = astfast.accelerate(
                transformers_model(self.folder(geometry), precision).to(self.device), precision=precision
            )
        if name == "compiled":
            how: Any = {"backend": "eager"} if self.dry_run else {"mode": "max-autotune"}
            model = torch.compile(model, dynamic=False, **how)

        def forward() -> torch.Tensor:
            if name == "compiled":
                torch.compiler.cudagraph_mark_step_begin()
            with torch.inference_mode(), sdpa_kernel(list(FASTEST_ATTENTION), set_priority=True):
                logits: torch.Tensor = model(x).logits
            return logits

        return forward

    @once
    def waves(self, geometry: str = "") -> list[Any]:
        """Waveforms that fill the model's input, no two alike; 64, or few in a dry run."""
        config: Any = self.checkpoint(geometry).config
        return list(models.waves(4 if self.dry_run else 64, config))

    def attention_choice(self, precision: str, batch: int, geometry: str = "") -> str | None:
        """PyTorch's own name of the attention that its model runs on; None for a model without attention."""
        config = self.checkpoint(geometry).config
        if not isinstance(config, VitConfig):
            return None
        heads, tokens = config.num_attention_heads, config.num_tokens
        shape = (batch, heads, tokens, config.hidden_size // heads)
        x = torch.zeros(shape, dtype=getattr(torch, precision), device=self.device)
        with torch.inference_mode(), sdpa_kernel(list(FASTEST_ATTENTION), set_priority=True):
            return str(SDPBackend(torch._fused_sdp_choice(x, x, x)).name)

    def error(self, logits: torch.Tensor, batch: int, geometry: str = "") -> float:
        """Of logits of ``features(batch)``: root mean square against PyTorch's model in float32, relative to their
        standard deviation."""
        exact = self._exact(batch, geometry)
        return float((logits.double() - exact).square().mean().sqrt() / exact.std())

    @once
    def _exact(self, batch: int, geometry: str) -> torch.Tensor:
        model, parts = self.model("float32", geometry), self.features(batch, geometry).split(8)
        with torch.inference_mode():
            return torch.cat([model(part).logits.double() for part in parts])

    def timed(self, work: Work, clips: int, seconds: float = TIMED_SECONDS) -> dict[str, Any]:
        """Clips a second of repeated calls on the device, one after another: median, 20th and 80th percentile of the
        calls; clocks and power meanwhile."""
        with self.sensors() as readings:
            times = self.call_seconds(work, seconds)
        p20, p50, p80 = spread([clips / each for each in times])
        row = {"clips_per_second": p50, "p20": p20, "p80": p80, "milliseconds": 1e3 * clips / p50}
        return {**row, "clips": clips, "calls": len(times), **readings}

    def call_seconds(self, work: Work, seconds: float) -> list[float]:
        """Seconds from the end of one call on the device to the end of the next, after SPIN_SECONDS of such calls."""
        if self.dry_run:
            start = time.perf_counter()
            work()
            return [time.perf_counter() - start]
        spun, start = 0, time.perf_counter()
        while spun < 2 or time.perf_counter() - start < SPIN_SECONDS:
            work()
            torch.cuda.synchronize()
            spun += 1
        calls = max(5, int(seconds / ((time.perf_counter() - start) / spun)))
        ends = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
        ends[0].record()
        for end in ends[1:]:
            work()
            end.record()
        torch.cuda.synchronize()
        return [1e-3 * a.elapsed_time(b) for a, b in itertools.pairwise(ends)]

    def timed_on_the_host(self, work: Work, clips: int, seconds: float = TIMED_SECONDS) -> dict[str, Any]:
        """As ``timed``, for calls that wait for their results in host memory."""
        times: list[float] = []
        work()
        with self.sensors() as readings:
            while not times or (sum(times) < SPIN_SECONDS + seconds and not self.dry_run):
                start = time.perf_counter()
                work()
                times.append(time.perf_counter() - start)
        late = times[len(times) // 4 :]  # after the clock has come up
        p20, p50, p80 = spread([clips / each for each in late])
        row = {"clips_per_second": p50, "p20": p20, "p80": p80, "milliseconds": 1e3 * clips / p50}
        return {**row, "clips": clips, "calls": len(late), **readings}

    @contextlib.contextmanager
    def sensors(self) -> Iterator[dict[str, Any]]:
        """Context whose value holds, when it has ended, clock (MHz), power (W) and temperature read while it ran; why
        not, where the driver doesn't tell."""
        readings: dict[str, Any] = {}
        samples: list[tuple[int, int, int]] = []
        done = threading.Event()

        def sample() -> None:
            try:
                while not done.wait(SAMPLE_SECONDS):
                    samples.append((torch.cuda.clock_rate(), torch.cuda.power_draw(), torch.cuda.temperature()))
            except Exception as error:
                readings["sensors"] = f"{type(error).__name__}: {error}"

        thread = threading.Thread(target=sample, daemon=True)
        if not self.dry_run:
            thread.start()
        try:
            yield readings
        finally:
            done.set()
            if not self.dry_run:
                thread.join(1)
            if samples:
                clocks, power, heat = zip(*samples, strict=True)
                readings |= {"clock_mhz": [min(clocks), max(clocks)], "watts": max(power) / 1e3, "celsius": max(heat)}


def resources() -> list[dict[str, Any]]:
    """Registers, spills and shared memory of every kernel that Triton's JIT has compiled in this process.

    A kernel is named with those of its constants that are its tile. Registers are known once it has been launched.
    """
    found = []
    for module in pkgutil.iter_modules(kernels.__path__):
        names = vars(importlib.import_module(f"{kernels.__name__}.{module.name}"))
        for kernel in {id(value): value for value in names.values() if isinstance(value, JITFunction)}.values():
            for compiled in [each for cached in kernel.device_caches.values() for each in cached[0].values()]:
                constants = {kernel.arg_names[path[0]]: value for path, value in compiled.src.constants.items()}
                tile = "x".join(str(value) for key, value in constants.items() if key.startswith("BLOCK_"))
                meta = compiled.metadata
                name = f"{kernel.fn.__name__} {tile}/{meta.num_warps}w{meta.num_stages}s"
                loaded = {"registers": getattr(compiled, "n_regs", None), "spills": getattr(compiled, "n_spills", None)}
                found.append({"name": name, **loaded, "shared": meta.shared})
    return sorted({str(row): row for row in found}.values(), key=lambda row: str(row["name"]))
