"""CED, PaSST and MAEST in each precision, on every tier and interpreted GPU kernels: what roundings cost, no more."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from astfast.backends.cpu.ops import CpuOps
from astfast.backends.cpu.tiers import native
from astfast.backends.cuda.ops import CudaOps
from astfast.backends.cuda.target import Target
from astfast.engines.base import ModelEngine
from astfast.engines.eager import EagerEngine
from astfast.models.recognise import load
from tests.cases import centred_float64, checkpoints, timm_vit
from tests.cases.rounded_models import Costs, assert_within_roundings
from tests.launchers import interpret

TIERS = [name for name, missing in native().tiers() if not missing]
CLIPS, D, HEADS, LABELS = 8, 128, 2, 400
FRAMES = 106  # of the hub's MAEST, where a clip of 1.5 s has 94
GPU = Target("gfx942", 4, "a GPU that is not here")  # whose float32 products are no TF32


class Family(NamedTuple):
    """A small random model."""

    source: Path
    logits: Callable[[torch.Tensor], torch.Tensor]  # of normalised spectrograms, in their type
    spectrogram: Callable[[np.ndarray], np.ndarray]  # of a waveform in float64, [frames, mels]


def ced(folder: Path) -> Family:
    state = timm_vit.random_state(timm_vit.ced_shapes(D, 2, LABELS))
    torch.save(state, folder / "ced.pt")
    mean, variance, weight, bias = (
        state[f"init_bn.1.{part}"].double().numpy() for part in ("running_mean", "running_var", "weight", "bias")
    )
    return Family(
        folder / "ced.pt",
        lambda x: timm_vit.ced_logits_of_normalised(timm_vit.in_type(state, x.dtype), x, HEADS),
        lambda wave: (centred_float64.ced(wave, 1012) - mean) / np.sqrt(variance + 1e-5) * weight + bias,
    )


def passt(folder: Path) -> Family:
    return of_authors(folder / "passt.pt", (12, 99), centred_float64.passt)


def maest(folder: Path) -> Family:
    return of_authors(folder / "maest.ckpt", (9, 62), centred_float64.maest)


def of_authors(path: Path, grid: tuple[int, int], spectrogram: Callable[[np.ndarray], np.ndarray]) -> Family:
    state = timm_vit.random_state(timm_vit.passt_shapes(D, 2, LABELS, grid))
    torch.save(state, path)
    return Family(path, lambda x: timm_vit.passt_logits(timm_vit.in_type(state, x.dtype), x, HEADS, 10), spectrogram)


def maest_hub(folder: Path) -> Family:
    model = checkpoints.random_model(
        **{"num_mel_bins": 96, "max_length": FRAMES, "frequency_stride": 10, "time_stride": 10, "num_labels": LABELS},
        **{"hidden_size": D, "num_attention_heads": HEADS, "intermediate_size": 512, "layer_norm_eps": 1e-6},
    )
    checkpoints.write_v4(model, folder)
    extractor = {"feature_extractor_type": "MAESTFeatureExtractor", "num_mel_bins": 96, "max_length": FRAMES}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))

    def padded(wave: np.ndarray) -> np.ndarray:
        found = centred_float64.maest(wave, "constant")[:FRAMES]
        silence = -2.06755686098554 / (2 * 1.268292820667291)
        return np.pad(found, ((0, FRAMES - len(found)), (0, 0)), constant_values=silence)

    return Family(folder, lambda x: copy.deepcopy(model).to(x.dtype)(x).logits, padded)


def spectrograms(engine: ModelEngine) -> np.ndarray:
    """Of clips of 1.5 s, as the model's own front end makes them."""
    rng = np.random.default_rng(1)
    samples = 3 * engine.sampling_rate // 2
    waves = [(10 ** rng.uniform(-3, -1) * rng.standard_normal(samples)).astype(np.float32) for _ in range(CLIPS)]
    return engine.features(waves)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("family", [ced, passt, maest, maest_hub], ids=lambda family: family.__name__)
def test_a_precision_costs_its_roundings(family: Callable[[Path], Family], precision: str, tmp_path: Path) -> None:
    """And bfloat16 no more than twice what it costs PyTorch."""
    model = family(tmp_path)
    loaded = load(model.source)
    assert loaded.config.num_attention_heads == HEADS
    x = spectrograms(EagerEngine(CpuOps(HEADS, "float32"), loaded))
    with torch.inference_mode():
        exact = model.logits(torch.from_numpy(x).double()).numpy()
        by_torch = model.logits(torch.from_numpy(x).bfloat16()).double().numpy()
    costs: Costs = {}
    for tier in TIERS:
        error = assert_within_roundings(loaded, CpuOps(HEADS, precision, threads=2, tier=tier), x, exact, costs)
        if precision == "bfloat16":
            assert error <= 2 * np.abs(by_torch - exact).max(), tier


@pytest.mark.slow
@pytest.mark.parametrize("family", [ced, passt, maest, maest_hub], ids=lambda family: family.__name__)
def test_interpreted_gpu_logits(family: Callable[[Path], Family], tmp_path: Path) -> None:
    """Of waveforms. float32 by the formulas; float16 no further from them than twice what PyTorch's own is."""
    model = family(tmp_path)
    loaded = load(model.source)
    rng = np.random.default_rng(2)
    lengths = (1, loaded.config.front_end.sampling_rate // 3)
    waves = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in lengths]
    whole, half = (
        EagerEngine(CudaOps(HEADS, precision, "cpu", launcher=interpret, target=GPU), loaded)
        for precision in ("float32", "float16")
    )
    logits = whole.logits(waves)
    for wave, row in zip(waves, logits, strict=True):
        x = torch.from_numpy(model.spectrogram(wave))[None]
        with torch.inference_mode():
            exact = model.logits(x)[0].numpy()
        assert np.abs(row - exact).max() <= 1e-4 * np.abs(exact).max()
    with torch.inference_mode():
        by_torch = model.logits(x.half())[0].double().numpy()
    assert np.abs(half.logits(waves[-1:])[0] - exact).max() <= 2 * np.abs(by_torch - exact).max()
