"""Benchmark models and inputs: published geometries with random weights, synthetic clips, operation counts.

No weights can be downloaded where benchmarks run, and speed does not depend on them. Agreement between engines does, so
the weights are as hard as trained ones: attention is peaked, norms differ by channel, biases matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from astfast.engines.base import FloatArray
from astfast.front_end import KaldiFbank
from astfast.models.ast.config import PREFIX, AstConfig


@dataclass(frozen=True)
class Geometry:
    """Sizes of a published model, under the names of its Hugging Face config."""

    num_labels: int
    max_length: int  # frames
    time_stride: int = 10
    frequency_stride: int = 10
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072

    def model_config(self) -> AstConfig:
        """The config of the same sizes in astfast."""
        return AstConfig(
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.intermediate_size,
            time_stride=self.time_stride,
            frequency_stride=self.frequency_stride,
            labels=tuple(f"LABEL_{i}" for i in range(self.num_labels)),
            front_end=KaldiFbank(max_length=self.max_length),
        )


GEOMETRIES = {
    "ast-base": Geometry(num_labels=527, max_length=1024),  # 10 s, 1,214 tokens
    "ast-5s": Geometry(  # 5 s, patches that don't overlap, 258 tokens
        num_labels=527, max_length=512, time_stride=16, frequency_stride=16
    ),
    "speech-commands": Geometry(num_labels=35, max_length=128),  # 1 s, 146 tokens
    "tiny": Geometry(
        num_labels=10,
        max_length=64,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
    ),  # for the harness's own tests
}


def checkpoint(geometry: str, cache: Path, outliers: bool = False) -> Path:
    """Folder of a random Hugging Face checkpoint of this geometry, written once and kept in ``cache``.

    With ``outliers`` some channels are many times larger than the others, as in trained transformers, which is what
    makes int8 hard.
    """
    folder = cache / "checkpoints" / (geometry + ("-outliers" if outliers else ""))
    if not (folder / "config.json").exists():
        _write_checkpoint(GEOMETRIES[geometry], folder, outliers)
    return folder


def _write_checkpoint(geometry: Geometry, folder: Path, outliers: bool) -> None:
    import torch
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    torch.manual_seed(0)
    model: Any = ASTForAudioClassification(ASTConfig(**vars(geometry)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layernorm" in name or ".norm" in name:
                parameter.copy_(
                    torch.rand_like(parameter) + 0.5 if name.endswith("weight") else 0.2 * _normal(parameter)
                )
            elif parameter.ndim >= 2 and name.endswith("weight"):
                gain = 1.5 if ".q_proj." in name or ".k_proj." in name else 1.0  # peaked attention
                parameter.copy_(gain * _normal(parameter) / parameter[0].numel() ** 0.5)
            else:  # biases, tokens, positions
                parameter.copy_(0.3 * _normal(parameter))
            if outliers and name.endswith("layernorm_before.weight"):
                parameter[::97] *= 20.0
            if outliers and name.endswith("position_embeddings"):
                parameter[..., ::131] += 30.0
    model.save_pretrained(folder)
    ASTFeatureExtractor(max_length=geometry.max_length).save_pretrained(folder)


def _normal(like: Any) -> Any:
    import torch

    return torch.randn_like(like)


def waves(count: int, config: AstConfig, seed: int = 0) -> list[FloatArray]:
    """Synthetic clips that fill the model's input: gliding harmonics, bursts of noise, hum; no two alike."""
    rng = np.random.default_rng(seed)
    rate = config.front_end.sampling_rate
    t = np.arange(config.front_end.input_samples) / rate  # seconds
    clips = []
    for _ in range(count):
        pitch, glide, decay, period = rng.uniform((80, -60, 2, 0.2), (900, 60, 12, 1.5))
        phase = 2 * np.pi * (pitch * t + glide * t * t / 2)
        tones = sum(rng.uniform(0, 0.2) / k * np.sin(k * phase) for k in (1, 2, 3, 5))
        noise = rng.standard_normal(len(t)) * (0.003 + 0.2 * np.exp(-decay * (t % period)))
        clips.append((tones + noise).astype(np.float32))
    return clips


def features(count: int, config: AstConfig, seed: int = 0) -> FloatArray:
    """Normalised log-mel spectrograms [count, frames, mels] of ``waves``, by the reference backend."""
    from astfast.backends.reference import ReferenceOps

    ops = ReferenceOps(config.num_attention_heads)
    return ops.to_host(ops.log_mel(waves(count, config, seed), config.front_end))


def operations(config: AstConfig) -> float:
    """Multiplications and additions in the matrix products of one clip, without those that the last layer can skip.

    242e9 for AST-base; 261e9 if the last layer is computed in full.
    """
    t, d, m = config.num_tokens, config.hidden_size, config.intermediate_size
    rows = len(PREFIX)
    patches = 2 * (t - rows) * config.patch_size**2 * d
    layer = 2 * t * (4 * d * d + 2 * d * m) + 4 * t * t * d
    last = 2 * t * 2 * d * d + 2 * rows * (2 * d * d + 2 * d * m) + 4 * rows * t * d
    return float(patches + (config.num_hidden_layers - 1) * layer + last + 2 * d * config.num_labels)
