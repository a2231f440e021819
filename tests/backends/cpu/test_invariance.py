"""A clip's logits are the same bits alone, in any batch, at any position, with any number of threads."""

from itertools import pairwise

import numpy as np
import pytest

from astfast import backends
from astfast.backends.cpu.ops import CpuOps
from astfast.backends.cpu.tiers import native
from astfast.engines.eager import EagerEngine
from astfast.models import recognise as checkpoint
from astfast.models.base import Checkpoint
from tests.cases import checkpoints

TIERS = [name for name, missing in native().tiers() if not missing]
PRECISIONS = backends.module_of("cpu").precisions()
# Nothing divides a tile, a vector or a block, and clips are of all lengths, padded and truncated ones too.
ODD = {"hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 200, "num_hidden_layers": 3, "max_length": 301}
BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_hidden_layers": 2}
BASE |= {"frequency_stride": 10, "time_stride": 10, "max_length": 256, "num_mel_bins": 128, "num_labels": 527}
SAMPLES = (301 * 160, 1, 400, 20_000, 60_000, 399, 33_333)


def engine_of(
    loaded: Checkpoint, precision: str, tier: str, threads: int, batch_size: int | None = None
) -> EagerEngine:
    ops = CpuOps(loaded.config.num_attention_heads, precision, threads, tier)
    return EagerEngine(ops, loaded, batch_size)


def waves(samples: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(rng.uniform(0.001, 0.5) * rng.standard_normal(n)).astype(np.float32) for n in samples]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return checkpoint.load(checkpoints.write_v4(checkpoints.random_model(**ODD), tmp_path_factory.mktemp("odd")))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return checkpoint.load(checkpoints.write_v4(checkpoints.random_model(**BASE), tmp_path_factory.mktemp("base")))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_alone_and_in_any_company(odd: Checkpoint, precision: str, tier: str) -> None:
    clips = waves(SAMPLES)
    single = engine_of(odd, precision, tier, threads=1)
    alone = np.concatenate([single.logits([clip]) for clip in clips])  # [B, L]
    assert all((a != b).any() for a, b in pairwise(alone)), "equal clips would hide a mix-up"
    rng = np.random.default_rng(1)
    for threads, batch_size in [(1, 1), (1, 3), (1, 7), (2, 1), (2, 2), (2, 7), (3, 4)]:
        engine = engine_of(odd, precision, tier, threads, batch_size)
        order = rng.permutation(len(clips))
        np.testing.assert_array_equal(
            engine.logits([clips[i] for i in order]),
            alone[order],
            err_msg=f"{threads} threads, batches of {batch_size}",
        )
        np.testing.assert_array_equal(engine.logits([clips[2]] * 5), alone[[2] * 5])


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_of_the_published_size(base: Checkpoint, precision: str, tier: str) -> None:
    """Several row blocks, full tiles; two layers, since every other repeats the first."""
    clips = waves((41_000, 20_000, 50_000))
    alone = np.concatenate([engine_of(base, precision, tier, threads=1).logits([clip]) for clip in clips])
    for threads in (1, 2):
        engine = engine_of(base, precision, tier, threads, batch_size=3)
        np.testing.assert_array_equal(engine.logits(clips[::-1]), alone[::-1], err_msg=f"{threads} threads")
