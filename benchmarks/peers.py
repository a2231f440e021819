"""Inference engines that astfast is compared with on a CPU, each set up as its own documentation recommends.

transformers with fused attention (fp32, bf16); the same compiled by PyTorch's inductor with frozen weights (bf16); ONNX
Runtime (fp32, int8 with dynamic activations, int8 calibrated, QDQ); OpenVINO (fp32, bf16, int8 calibrated by NNCF with
its transformer preset), latency mode for single clips and throughput mode with two streams for batches. Exported models
are kept in the cache folder. A peer that is not installed is left out, with a message.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from astfast.benchmarking.peers import (
    EngineUnderTest,
    missing_packages,
    openvino_engine,
    openvino_model,
    torch_engine,
    transformers_model,
)
from astfast.engines.base import FloatArray
from astfast.models.ast.config import AstConfig
from benchmarks import models

CALIBRATION_CLIPS = 16  # for static quantisation; not those that are measured


@dataclass(frozen=True)
class Setup:
    """Checkpoint, batch size and threads for a peer to run."""

    folder: Path  # Hugging Face checkpoint
    config: AstConfig
    batch: int
    threads: int
    cache: Path

    def exported(self, name: str) -> Path:
        """Where a model exported from this checkpoint is kept."""
        folder = self.cache / "exported" / self.folder.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def openvino_file(self) -> Path:
        """The float32 model for OpenVINO."""
        path = self.exported("float32.xml")
        if not path.exists():
            import openvino

            exported = openvino_model(transformers_model(self.folder), *self.input_shape)
            openvino.save_model(exported, path, compress_to_fp16=False)
        return path

    @property
    def input_shape(self) -> tuple[int, int]:
        """(frames, mels)"""
        return self.config.max_length, self.config.num_mel_bins

    def calibration(self) -> FloatArray:
        """Features to set the ranges of activations by, [clips, frames, mels]."""
        return models.features(CALIBRATION_CLIPS, self.config, seed=1)


def transformers_float32(setup: Setup) -> EngineUnderTest:
    return torch_engine("transformers", transformers_model(setup.folder), "float32", setup.threads)


def transformers_bfloat16(setup: Setup) -> EngineUnderTest:
    model = transformers_model(setup.folder, "bfloat16")
    return torch_engine("transformers", model, "bfloat16", setup.threads)


def torch_compile_bfloat16(setup: Setup) -> EngineUnderTest:
    import torch
    from torch._inductor import config as inductor

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(setup.cache / "inductor")
    inductor.freezing = True  # lets it pack the weights
    model = torch.compile(transformers_model(setup.folder, "bfloat16"), dynamic=False)
    return torch_engine("torch.compile", model, "bfloat16", setup.threads)


def onnxruntime_float32(setup: Setup) -> EngineUnderTest:
    return _onnxruntime(setup, "float32", "onnxruntime", _onnx(setup))


def onnxruntime_int8_dynamic(setup: Setup) -> EngineUnderTest:
    path = setup.exported("int8-dynamic.onnx")
    if not path.exists():
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(_prepared_onnx(setup), path, per_channel=True)
    return _onnxruntime(setup, "int8", "onnxruntime dynamic", path)


def onnxruntime_int8_static(setup: Setup) -> EngineUnderTest:
    path = setup.exported("int8-static.onnx")
    if not path.exists():
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        class Clips(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self._clips = iter(setup.calibration())

            def get_next(self) -> dict[str, FloatArray] | None:
                return next(({"features": clip[None]} for clip in self._clips), None)

        quantize_static(
            _prepared_onnx(setup),
            path,
            Clips(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"WeightSymmetric": True},
        )
    return _onnxruntime(setup, "int8", "onnxruntime static", path)


def openvino_float32(setup: Setup) -> EngineUnderTest:
    return openvino_engine(_openvino(setup), "float32", setup.threads, setup.batch)


def openvino_bfloat16(setup: Setup) -> EngineUnderTest:
    return openvino_engine(_openvino(setup), "bfloat16", setup.threads, setup.batch)


def openvino_int8(setup: Setup) -> EngineUnderTest:
    import openvino

    path = setup.exported("int8.xml")
    if not path.exists():
        import nncf

        nncf.set_log_level(40)
        clips = nncf.Dataset([clip[None] for clip in setup.calibration()])
        quantised = nncf.quantize(
            _openvino(setup), clips, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_CLIPS
        )
        openvino.save_model(quantised, path, compress_to_fp16=False)
    return openvino_engine(openvino.Core().read_model(path), "int8", setup.threads, setup.batch)


# name -> (packages that it needs, how to make it)
PEERS: dict[str, tuple[tuple[str, ...], Callable[[Setup], EngineUnderTest]]] = {
    "transformers float32": (("transformers",), transformers_float32),
    "transformers bfloat16": (("transformers",), transformers_bfloat16),
    "torch.compile bfloat16": (("transformers",), torch_compile_bfloat16),
    "onnxruntime float32": (("transformers", "onnx", "onnxruntime"), onnxruntime_float32),
    "onnxruntime dynamic int8": (("transformers", "onnx", "onnxruntime"), onnxruntime_int8_dynamic),
    "onnxruntime static int8": (("transformers", "onnx", "onnxruntime"), onnxruntime_int8_static),
    "openvino float32": (("transformers", "openvino"), openvino_float32),
    "openvino bfloat16": (("transformers", "openvino"), openvino_bfloat16),
    "openvino int8": (("transformers", "openvino", "nncf"), openvino_int8),
}


def make(names: Sequence[str], setup: Setup) -> Iterator[EngineUnderTest]:
    """Loads the named peers one after another; prints a message for each that is not installed."""
    for name in names:
        needed, peer = PEERS[name]
        missing = missing_packages(*needed)
        if missing:
            print(f"{name} left out: {', '.join(missing)} is not installed", file=sys.stderr)
            continue
        engine = peer(setup)
        if engine.engine in ("transformers", "torch.compile"):
            engine = replace(engine, isa=_torch_isa(engine, setup))
        yield engine


def _openvino(setup: Setup) -> Any:
    import openvino

    return openvino.Core().read_model(setup.openvino_file())


def _onnx(setup: Setup) -> Path:
    """The float32 model, any batch size."""
    path = setup.exported("float32.onnx")
    if not path.exists():
        import torch

        with warnings.catch_warnings():  # the tracer's, about values that are constant for one geometry anyway
            warnings.simplefilter("ignore")
            torch.onnx.export(
                transformers_model(setup.folder),
                (torch.zeros(1, *setup.input_shape),),
                str(path),
                input_names=["features"],
                output_names=["logits"],
                dynamic_axes={"features": {0: "batch"}, "logits": {0: "batch"}},
                opset_version=20,
                dynamo=False,
            )
    return path


def _prepared_onnx(setup: Setup) -> Path:
    """The float32 model with shapes inferred and nodes fused, as quantisation wants it."""
    path = setup.exported("prepared.onnx")
    if not path.exists():
        from onnxruntime.quantization import quant_pre_process

        quant_pre_process(_onnx(setup), path, skip_symbolic_shape=True)
    return path


def _onnxruntime(setup: Setup, precision: str, engine: str, path: Path) -> EngineUnderTest:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setup.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # no spinning while others are timed
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(features: FloatArray) -> FloatArray:
        logits: FloatArray = session.run(None, {"features": features})[0]
        return logits

    return EngineUnderTest(engine, precision, "MLAS (does not say)", onnxruntime.__version__, run)


def _torch_isa(engine: EngineUnderTest, setup: Setup) -> str:
    """The kernels that PyTorch's linear layers run on, as oneDNN and MKL report them while the model runs once."""
    import torch

    features = models.features(setup.batch, setup.config)
    engine.run(features)  # compiles
    with (
        _standard_output() as lines,
        torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON),
        torch.backends.mkl.verbose(torch.backends.mkl.VERBOSE_ON),
    ):
        engine.run(features)
    text = "\n".join(lines)
    kernels = set(re.findall(r"(?:matmul|inner_product),([^,]+),", text))
    kernels |= {f"MKL {product.lower()} {engine.isa}" for product in re.findall(r"MKL_VERBOSE (\w*GEMM\w*)", text)}
    return ", ".join(sorted(kernels)) or engine.isa


@contextlib.contextmanager
def _standard_output() -> Iterator[list[str]]:
    """Captures what C code prints in the context: a list of lines, complete when the context ends."""
    lines: list[str] = []
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile("w+") as file:
        os.dup2(file.fileno(), 1)
        try:
            yield lines
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            file.seek(0)
            lines += file.read().splitlines()
