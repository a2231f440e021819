"""CED, PaSST and MAEST in bfloat16 and int8 on every tier: the error of their roundings, and no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from astfast.backends.cpu.ops import CpuOps
from astfast.backends.cpu.tiers import native
from astfast.engines.base import ModelEngine
from astfast.engines.eager import EagerEngine
from astfast.models.recognise import load
from tests.cases import checkpoints, timm_vit
from tests.cases.rounded_models import Costs, assert_within_roundings

TIERS = [name for name, missing in native().tiers() if not missing]
CLIPS, D, HEADS, LABELS = 8, 128, 2, 400
Logits = Callable[[torch.Tensor], torch.Tensor]  # of normalised spectrograms


def ced(folder: Path) -> tuple[Path, Logits]:
    state = timm_vit.random_state(timm_vit.ced_shapes(D, 2, LABELS))
    torch.save(state, folder / "ced.pt")
    wide = {name: x.double() for name, x in state.items()}
    return folder / "ced.pt", lambda x: timm_vit.ced_logits_of_normalised(wide, x, HEADS)


def passt(folder: Path, grid: tuple[int, int] = (12, 99), name: str = "passt.pt") -> tuple[Path, Logits]:
    state = timm_vit.random_state(timm_vit.passt_shapes(D, 2, LABELS, grid))
    torch.save(state, folder / name)
    wide = {name: x.double() for name, x in state.items()}
    return folder / name, lambda x: timm_vit.passt_logits(wide, x, HEADS, 10)


def maest(folder: Path) -> tuple[Path, Logits]:
    return passt(folder, (9, 62), "maest.ckpt")


def maest_hub(folder: Path) -> tuple[Path, Logits]:
    model = checkpoints.random_model(
        **{"num_mel_bins": 96, "max_length": 316, "frequency_stride": 10, "time_stride": 10, "num_labels": LABELS},
        **{"hidden_size": D, "num_attention_heads": HEADS, "intermediate_size": 512, "layer_norm_eps": 1e-6},
    )
    checkpoints.write_v4(model, folder)
    extractor = {"feature_extractor_type": "MAESTFeatureExtractor", "num_mel_bins": 96, "max_length": 316}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    return folder, lambda x: model.double()(x).logits


def spectrograms(engine: ModelEngine) -> np.ndarray:
    """Of clips of 1.5 s, as the model's own front end makes them."""
    rng = np.random.default_rng(1)
    samples = 3 * engine.sampling_rate // 2
    waves = [(10 ** rng.uniform(-3, -1) * rng.standard_normal(samples)).astype(np.float32) for _ in range(CLIPS)]
    return engine.features(waves)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("family", [ced, passt, maest, maest_hub], ids=lambda family: family.__name__)
def test_a_precision_costs_its_roundings(
    family: Callable[[Path], tuple[Path, Logits]], precision: str, tmp_path: Path
) -> None:
    source, logits = family(tmp_path)
    loaded = load(source)
    assert loaded.config.num_attention_heads == HEADS
    x = spectrograms(EagerEngine(CpuOps(HEADS, "float32"), loaded))
    with torch.inference_mode():
        exact = logits(torch.from_numpy(x).double()).numpy()
    costs: Costs = {}
    for tier in TIERS:
        assert_within_roundings(loaded, CpuOps(HEADS, precision, threads=2, tier=tier), x, exact, costs)
