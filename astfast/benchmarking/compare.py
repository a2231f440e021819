"""How fast a model runs on this machine, and how that compares: the work behind ``astfast bench``.

Engines take turns, so that whatever else the machine does falls on all of them alike, and their results are compared
before anything is timed. The project's own benchmarks/ measure with the same functions.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import astfast
from astfast import environment
from astfast.backends import module_of
from astfast.engines.auto_precision import check_clips
from astfast.errors import BackendError
from astfast.models.export import convert
from astfast.tagging.tagger import Tagger

FloatArray = NDArray[np.float32]

# How far logits may be from float32's, as ‖difference‖ / ‖logits‖, for an engine to be timed at all: what is further
# away is not the result of the same model in that precision.
AGREEMENT = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02, "int8": 0.5, "fp8": 0.5}
TURNS = 5


@dataclass(frozen=True)
class Contender:
    """An engine with a model loaded into it. ``run``: features [B, frames, mels] -> logits [B, L], float32."""

    engine: str
    precision: str
    isa: str  # what it computes with, in the engine's own words
    version: str
    run: Callable[[FloatArray], FloatArray]

    @property
    def name(self) -> str:
        return f"{self.engine} {self.precision}"


class Spread(NamedTuple):
    """Percentiles of repeated measurements."""

    p20: float
    p50: float
    p80: float


def spread(values: Sequence[float]) -> Spread:
    """The 20th, 50th and 80th percentile of at least one value."""
    p20, p50, p80 = np.percentile(values, (20, 50, 80))
    return Spread(float(p20), float(p50), float(p80))


def relative_error(result: FloatArray, exact: FloatArray) -> float:
    """‖result - exact‖ / ‖exact‖ over a whole batch."""
    expected = exact.astype(np.float64)
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))


def take_turns(runs: Sequence[Callable[[], object]], turns: int, seconds: float) -> list[list[float]]:
    """Times functions that take turns: for each of them one figure a turn, the median of its calls, in seconds.

    In its turn a function is called once unmeasured, which brings its data into the caches and wakes its threads, and
    then for at least so many ``seconds``. Every other turn goes through them backwards.
    """
    times: list[list[float]] = [[] for _ in runs]
    order = list(range(len(runs)))
    for _ in range(turns):
        for index in order:
            runs[index]()
            times[index].append(float(np.median(_calls(runs[index], seconds))))
        order.reverse()
    return times


def _calls(run: Callable[[], object], seconds: float) -> list[float]:
    calls: list[float] = []
    while not calls or sum(calls) < seconds:
        start = time.perf_counter()
        run()
        calls.append(time.perf_counter() - start)
    return calls


def astfast_contender(tagger: Tagger) -> Contender:
    """A loaded tagger that is no ensemble."""
    precision = tagger.backend.split()[-1]
    return Contender("astfast", precision, tagger.hardware, astfast.__version__, tagger.forward)


def transformers_model(folder: Path, precision: str = "float32") -> Any:
    """transformers' model of a Hugging Face folder, with PyTorch's fused attention."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.ASTForAudioClassification.from_pretrained(
        folder, attn_implementation="sdpa", dtype=getattr(torch, precision)
    )
    return model.eval()


def torch_contender(engine: str, model: Any, precision: str, threads: int) -> Contender:
    """``model`` is transformers' or compiled from it; ``threads`` holds for all of torch."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    dtype = getattr(torch, precision)

    def run(features: FloatArray) -> FloatArray:
        with torch.inference_mode():
            logits = model(torch.from_numpy(features).to(dtype)).logits
        result: FloatArray = logits.float().numpy()
        return result

    isa = torch.backends.cpu.get_cpu_capability().lower()
    version = f"{importlib.metadata.version('transformers')}, torch {torch.__version__}"
    return Contender(engine, precision, isa, version, run)


def openvino_model(model: Any, frames: int, mels: int) -> Any:
    """transformers' float32 model as an OpenVINO one for single clips, all shapes fixed."""
    torch, openvino = importlib.import_module("torch"), importlib.import_module("openvino")
    with warnings.catch_warnings():  # of the tracer, about what is constant for one geometry anyway
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(model, example_input=torch.zeros(1, frames, mels))
    converted.reshape([1, frames, mels])
    return converted


def openvino_contender(model: Any, precision: str, threads: int, batch: int) -> Contender:
    """Latency mode for single clips; throughput mode, two streams that share the threads, for batches.

    Throughput mode is how OpenVINO is meant to run batches: requests of one clip each, computed side by side. ``model``
    is an OpenVINO model for single clips in float32, or quantised already for "int8".
    """
    openvino = importlib.import_module("openvino")
    streams = 1 if batch == 1 else min(2, threads)
    settings = {
        "PERFORMANCE_HINT": "LATENCY" if batch == 1 else "THROUGHPUT",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
    }
    if precision != "int8":  # an int8 model takes the fastest type for what is not quantised, OpenVINO's own default
        settings["INFERENCE_PRECISION_HINT"] = {"float32": "f32", "bfloat16": "bf16"}[precision]
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    queue = openvino.AsyncInferQueue(compiled, streams)

    def run(features: FloatArray) -> FloatArray:
        logits: dict[int, FloatArray] = {}

        def keep(request: Any, clip: int) -> None:
            logits[clip] = np.array(request.get_output_tensor(0).data[0], np.float32)

        queue.set_callback(keep)
        for clip in range(len(features)):
            queue.start_async({0: features[clip : clip + 1]}, clip)
        queue.wait_all()
        return np.stack([logits[clip] for clip in range(len(features))])

    return Contender("openvino", precision, _openvino_isa(compiled), openvino.__version__.split("-")[0], run)


def _openvino_isa(compiled: Any) -> str:
    """The kernels of its linear layers, such as "brgemm_avx512_amx_bf16"."""
    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    kernels = {str(info["primitiveType"].value) for info in infos if info["layerType"].value == "FullyConnected"}
    return ", ".join(sorted(kernels))


# `astfast bench`


@dataclass(frozen=True)
class Row:
    """An engine's speed. A clip is one full input of the model; features in, logits out."""

    engine: str
    precision: str
    isa: str
    version: str
    batch: int
    clips_per_second: Spread
    error: float  # of the logits, relative to astfast in float32
    astfast_speedup: Spread | None  # of astfast in the same precision over this engine; None for astfast itself


def measure(
    model: str | Path | None,
    precisions: Sequence[str] | None,
    batches: Sequence[int],
    threads: int | None,
    seconds: float,
    say: Callable[[str], None],
) -> Iterator[Row]:
    """Measures a model on the CPU: astfast in these precisions (None: all that run here), transformers, OpenVINO.

    ``seconds`` is how long each engine computes for each batch size; ``say`` is told what was left out, and why. Raises
    CheckpointError, or BackendError for a precision that was asked for and can't run.
    """
    threads = threads or environment.num_threads() or len(os.sched_getaffinity(0))
    exact = astfast.load(model, device="cpu", precision="float32", threads=threads)
    wanted = module_of(exact.backend.split()[0]).precisions() if precisions is None else tuple(precisions)
    contenders = []
    for precision in wanted:
        try:
            contenders.append(
                astfast_contender(astfast.load(model, device="cpu", precision=precision, threads=threads))
            )
        except BackendError as error:
            if precisions is not None:
                raise
            say(f"astfast {precision} left out: {error}")
    clips = check_clips(exact.config)
    with tempfile.TemporaryDirectory() as folder:
        peers = _peers(model, Path(folder), wanted, exact, threads, say)
        for batch in batches:
            features = exact.features([clips[i % len(clips)] for i in range(batch)], sampling_rate=_rate(exact))
            yield from _compare([*contenders, *peers(batch)], features, exact.forward(features), seconds, say)


def _rate(tagger: Tagger) -> int:
    return tagger.config.front_end.sampling_rate


def _peers(
    model: str | Path | None,
    folder: Path,
    precisions: Sequence[str],
    exact: Tagger,
    threads: int,
    say: Callable[[str], None],
) -> Callable[[int], Iterator[Contender]]:
    """batch size -> those of transformers and OpenVINO that are installed, with the same weights."""
    missing = [name for name in ("torch", "transformers", "openvino") if importlib.util.find_spec(name) is None]
    if missing:
        say(f"no comparison with engines that need {', '.join(missing)}: not installed (pip install 'astfast[bench]')")
    if "torch" in missing or "transformers" in missing:
        return lambda _: iter(())
    convert(model, folder, force=True)
    shape = (exact.config.max_length, exact.config.num_mel_bins)

    def contenders(batch: int) -> Iterator[Contender]:
        for precision in ("float32", "bfloat16"):
            if precision in precisions:
                yield torch_contender("transformers", transformers_model(folder, precision), precision, threads)
        if "openvino" not in missing:
            for precision in ("float32", "bfloat16"):
                if precision in precisions:
                    exported = openvino_model(transformers_model(folder), *shape)
                    yield openvino_contender(exported, precision, threads, batch)

    return contenders


def _compare(
    contenders: Sequence[Contender], features: FloatArray, exact: FloatArray, seconds: float, say: Callable[[str], None]
) -> Iterator[Row]:
    errors = {c.name: relative_error(c.run(features), exact) for c in contenders}
    agreeing = [c for c in contenders if errors[c.name] <= AGREEMENT[c.precision]]
    for contender in contenders:
        if contender not in agreeing:
            say(f"{contender.name} left out: its logits are off by {errors[contender.name]:.0%}")
    times = take_turns([lambda c=c: c.run(features) for c in agreeing], TURNS, seconds / TURNS)  # type: ignore[misc]
    ours = {c.precision: own for c, own in zip(agreeing, times, strict=True) if c.engine == "astfast"}
    for contender, own in zip(agreeing, times, strict=True):
        speedup = None
        if contender.engine != "astfast" and contender.precision in ours:
            speedup = spread([theirs / our for theirs, our in zip(own, ours[contender.precision], strict=True)])
        yield Row(
            contender.engine,
            contender.precision,
            contender.isa,
            contender.version,
            len(features),
            spread([len(features) / t for t in own]),
            errors[contender.name],
            speedup,
        )


def as_record(row: Row) -> dict[str, Any]:
    """A row as what JSON can hold; a Spread as {"p20", "p50", "p80"}."""
    record = asdict(row)
    for name in ("clips_per_second", "astfast_speedup"):
        value = getattr(row, name)
        record[name] = None if value is None else value._asdict()
    return record
