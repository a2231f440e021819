"""The engines that astfast is measured against, each as its own makers would have it run on a CPU.

transformers with fused attention (fp32, bf16); the same compiled by PyTorch's inductor with frozen weights (bf16); ONNX
Runtime (fp32, int8 with dynamic activations, int8 calibrated, QDQ); OpenVINO (fp32, bf16, int8 calibrated by NNCF with
its transformer preset), latency mode for single clips and throughput mode with two streams for batches. Exported models
are kept in the cache folder. A peer that is not installed is left out, and said so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from astfast.benchmarking.compare import (
    Contender,
    FloatArray,
    openvino_contender,
    openvino_model,
    torch_contender,
    transformers_model,
)
from astfast.models.ast.config import AstConfig
from benchmarks import models

CALIBRATION_CLIPS = 16  # for static quantisation; not those that are measured


@dataclass(frozen=True)
class Setup:
    """What a peer is to run."""

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


def transformers_float32(setup: Setup) -> Contender:
    return torch_contender("transformers", transformers_model(setup.folder), "float32", setup.threads)


def transformers_bfloat16(setup: Setup) -> Contender:
    model = transformers_model(setup.folder, "bfloat16")
    return torch_contender("transformers", model, "bfloat16", setup.threads)


def torch_compile_bfloat16(setup: Setup) -> Contender:
    import torch
    from torch._inductor import config as inductor

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(setup.cache / "inductor")
    inductor.freezing = True  # lets it pack the weights
    model = torch.compile(transformers_model(setup.folder, "bfloat16"), dynamic=False)
    return torch_contender("torch.compile", model, "bfloat16", setup.threads)


def onnxruntime_float32(setup: Setup) -> Contender:
    return _onnxruntime(setup, "float32", "onnxruntime", _onnx(setup))


def onnxruntime_int8_dynamic(setup: Setup) -> Contender:
    path = setup.exported("int8-dynamic.onnx")
    if not path.exists():
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(_prepared_onnx(setup), path, per_channel=True)
    return _onnxruntime(setup, "int8", "onnxruntime dynamic", path)


def onnxruntime_int8_static(setup: Setup) -> Contender:
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


def openvino_float32(setup: Setup) -> Contender:
    return openvino_contender(_openvino(setup), "float32", setup.threads, setup.batch)


def openvino_bfloat16(setup: Setup) -> Contender:
    return openvino_contender(_openvino(setup), "bfloat16", setup.threads, setup.batch)


def openvino_int8(setup: Setup) -> Contender:
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
    return openvino_contender(openvino.Core().read_model(path), "int8", setup.threads, setup.batch)


# name -> (packages that it needs, how to make it)
PEERS: dict[str, tuple[tuple[str, ...], Callable[[Setup], Contender]]] = {
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


def make(names: Sequence[str], setup: Setup) -> Iterator[Contender]:
    """The peers of these names that are installed, loaded one after the other; says which are not."""
    for name in names:
        needed, peer = PEERS[name]
        missing = [package for package in needed if importlib.util.find_spec(package) is None]
        if missing:
            print(f"{name} left out: {', '.join(missing)} is not installed", file=sys.stderr)
            continue
        contender = peer(setup)
        if contender.engine in ("transformers", "torch.compile"):
            contender = replace(contender, isa=_torch_isa(contender, setup))
        yield contender


def _openvino(setup: Setup) -> Any:
    import openvino

    return openvino.Core().read_model(setup.openvino_file())


def _onnx(setup: Setup) -> Path:
    """The float32 model, any batch size."""
    path = setup.exported("float32.onnx")
    if not path.exists():
        import torch

        with warnings.catch_warnings():  # of the tracer, about what is constant for one geometry anyway
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


def _onnxruntime(setup: Setup, precision: str, engine: str, path: Path) -> Contender:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setup.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between calls, while others have their turn
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(features: FloatArray) -> FloatArray:
        logits: FloatArray = session.run(None, {"features": features})[0]
        return logits

    return Contender(engine, precision, "MLAS (does not say)", onnxruntime.__version__, run)


def _torch_isa(contender: Contender, setup: Setup) -> str:
    """The kernels that PyTorch's linear layers run on, as oneDNN and MKL report them while the model runs once."""
    import torch

    features = models.features(setup.batch, setup.config)
    contender.run(features)  # compiles
    with (
        _standard_output() as lines,
        torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON),
        torch.backends.mkl.verbose(torch.backends.mkl.VERBOSE_ON),
    ):
        contender.run(features)
    text = "\n".join(lines)
    kernels = set(re.findall(r"(?:matmul|inner_product),([^,]+),", text))
    kernels |= {f"MKL {product.lower()} {contender.isa}" for product in re.findall(r"MKL_VERBOSE (\w*GEMM\w*)", text)}
    return ", ".join(sorted(kernels)) or contender.isa


@contextlib.contextmanager
def _standard_output() -> Iterator[list[str]]:
    """What C code prints meanwhile, line by line, complete when the context ends."""
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
