"""The whole model on the native engine against transformers: every geometry, every tier, every precision."""

from pathlib import Path

import numpy as np
import pytest
import torch

from astfast.backends.cpu.ops import PRECISIONS, CpuOps
from astfast.backends.cpu.tiers import native
from astfast.engines.eager import EagerEngine
from astfast.models import recognise as checkpoint
from tests.cases import checkpoints
from tests.cases.rounded_models import Costs, assert_within_roundings

TIERS = [name for name, missing in native().tiers() if not missing]
STRIDES = {"10-10": 10, "12-12": 12, "14-14": 14, "16-16": 16}
AUDIOSET = {name: {"frequency_stride": s, "time_stride": s, "num_labels": 527} for name, s in STRIDES.items()}
GEOMETRIES = {  # of models.md but for width and depth, and one that divides nothing
    **{name: {**strides, "max_length": 1024, "num_mel_bins": 128} for name, strides in AUDIOSET.items()},
    "speech commands": {"frequency_stride": 10, "time_stride": 10, "max_length": 128, "num_mel_bins": 128},
    "odd": {"frequency_stride": 11, "time_stride": 13, "max_length": 301, "num_mel_bins": 64},
}
SMALL = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512, "num_hidden_layers": 2}
ODD = {"hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 200, "num_hidden_layers": 3}
BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_hidden_layers": 12}


def compare(folder: Path, config: dict[str, int], tiers: list[str], precision: str, clips: int = 2) -> None:
    """Logits of some clips on each tier against those of transformers on the same random checkpoint.

    bfloat16 and int8: see ``assert_within_roundings``.
    """
    model = checkpoints.random_model(**config)
    loaded = checkpoint.load(checkpoints.write_v4(model, folder))
    spectrograms = checkpoints.spectrogram(model.config, clips)
    with torch.inference_mode():
        exact = model(torch.from_numpy(spectrograms)).logits.numpy()
    heads = loaded.config.num_attention_heads
    costs: Costs = {}
    for tier in tiers:
        ops = CpuOps(heads, precision, threads=2, tier=tier)
        if precision == "float32":
            error = np.abs(EagerEngine(ops, loaded).logits(spectrograms) - exact)
            bound = 2e-4 * max(1.0, float(np.abs(exact).max()))
            assert error.max() <= bound, f"{tier}: {error.max():.2e} off, {bound:.2e} allowed"
        else:
            assert_within_roundings(loaded, ops, spectrograms, exact, costs)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_logits_are_those_of_transformers(tmp_path: Path, geometry: str, precision: str) -> None:
    size = ODD if geometry == "odd" else SMALL
    compare(tmp_path, {**size, **GEOMETRIES[geometry]}, TIERS, precision, clips=2 if precision == "float32" else 8)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("geometry", [name for name in GEOMETRIES if name != "odd"])
def test_logits_of_the_published_size(tmp_path: Path, geometry: str, precision: str) -> None:
    """All twelve layers at the first geometry, three at the others: layers know no geometry, and take minutes."""
    layers = 12 if geometry == "10-10" else 3
    tiers = TIERS if geometry == "speech commands" else TIERS[1:]  # scalar: minutes for 1,214 tokens
    compare(tmp_path, {**BASE, "num_hidden_layers": layers, **GEOMETRIES[geometry]}, tiers, precision)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_of_the_distilled_size(tmp_path: Path, precision: str) -> None:
    compare(tmp_path, {**BASE, "num_hidden_layers": 6, **GEOMETRIES["10-10"]}, TIERS[-1:], precision)
