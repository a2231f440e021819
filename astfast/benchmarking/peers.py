"""Engines under test: transformers (PyTorch) and OpenVINO on the CPU, behind the interface that benchmarks time.

The packages are imported when an engine is made; ``missing_packages`` tells which are not installed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from astfast.engines.base import FloatArray

PRECISIONS = ("float32", "bfloat16")  # that transformers and OpenVINO compute in without calibration


@dataclass(frozen=True)
class EngineUnderTest:
    """An inference engine with a model loaded into it."""

    engine: str
    precision: str
    isa: str  # kernel or instruction set, in the engine's own words
    version: str
    run: Callable[[FloatArray], FloatArray]  # features [B, frames, mels] -> logits [B, L], float32

    @property
    def name(self) -> str:
        """Engine and precision, such as "openvino int8"."""
        return f"{self.engine} {self.precision}"


def missing_packages(*names: str) -> list[str]:
    """Those of the Python packages that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def quiet_transformers() -> Any:
    """The transformers module, without its progress bars and warnings."""
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def transformers_model(folder: Path, precision: str = "float32") -> Any:
    """The transformers model of a Hugging Face folder, with PyTorch's fused attention."""
    torch = importlib.import_module("torch")
    model = quiet_transformers().ASTForAudioClassification.from_pretrained(
        folder, attn_implementation="sdpa", dtype=getattr(torch, precision)
    )
    return model.eval()


def torch_engine(engine: str, model: Any, precision: str, threads: int) -> EngineUnderTest:
    """A PyTorch model as an engine under test.

    - ``engine``: its name in results.
    - ``model``: the transformers model, or one compiled from it.
    - ``precision``: dtype of the model and of its inputs.
    - ``threads``: set for all of torch, process-wide.
    """
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
    return EngineUnderTest(engine, precision, isa, version, run)


def transformers_engines(folder: Path, precisions: Sequence[str], threads: int) -> Iterator[EngineUnderTest]:
    """transformers in those of the precisions that it computes in, from a Hugging Face folder."""
    for precision in PRECISIONS:
        if precision in precisions:
            yield torch_engine("transformers", transformers_model(folder, precision), precision, threads)


def openvino_model(model: Any, frames: int, mels: int) -> Any:
    """The transformers model in float32 as an OpenVINO model of single clips, all shapes fixed."""
    torch, openvino = importlib.import_module("torch"), importlib.import_module("openvino")
    with warnings.catch_warnings():  # the tracer's, about values that are constant for one geometry anyway
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(model, example_input=torch.zeros(1, frames, mels))
    converted.reshape([1, frames, mels])
    return converted


def openvino_settings(precision: str, threads: int, batch: int) -> dict[str, Any]:
    """Settings of OpenVINO's CPU plugin: latency mode for single clips; throughput mode, two streams, for batches.

    Throughput mode is how OpenVINO is meant to run batches: requests of one clip each, computed side by side.
    """
    settings = {
        "PERFORMANCE_HINT": "LATENCY" if batch == 1 else "THROUGHPUT",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1 if batch == 1 else min(2, threads),
    }
    if precision != "int8":  # an int8 model takes the fastest type for what is not quantised, OpenVINO's own default
        settings["INFERENCE_PRECISION_HINT"] = {"float32": "f32", "bfloat16": "bf16"}[precision]
    return settings


def openvino_engine(model: Any, precision: str, threads: int, batch: int) -> EngineUnderTest:
    """An OpenVINO model as an engine under test, see ``openvino_settings``.

    ``model``: of single clips, in float32, or already quantised for precision "int8".
    """
    openvino = importlib.import_module("openvino")
    settings = openvino_settings(precision, threads, batch)
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    queue = openvino.AsyncInferQueue(compiled, settings["NUM_STREAMS"])

    def run(features: FloatArray) -> FloatArray:
        logits: dict[int, FloatArray] = {}

        def keep(request: Any, clip: int) -> None:
            logits[clip] = np.array(request.get_output_tensor(0).data[0], np.float32)

        queue.set_callback(keep)
        for clip in range(len(features)):
            queue.start_async({0: features[clip : clip + 1]}, clip)
        queue.wait_all()
        return np.stack([logits[clip] for clip in range(len(features))])

    version = openvino.__version__.split("-")[0]
    return EngineUnderTest("openvino", precision, _openvino_isa(compiled), version, run)


def openvino_engines(model: Any, precisions: Sequence[str], threads: int, batch: int) -> Iterator[EngineUnderTest]:
    """OpenVINO in those of the precisions that it computes a float32 model in."""
    for precision in PRECISIONS:
        if precision in precisions:
            yield openvino_engine(model, precision, threads, batch)


def _openvino_isa(compiled: Any) -> str:
    """The kernels of its linear layers, such as "brgemm_avx512_amx_bf16"."""
    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    kernels = {str(info["primitiveType"].value) for info in infos if info["layerType"].value == "FullyConnected"}
    return ", ".join(sorted(kernels))
