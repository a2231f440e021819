"""Sizes that are read, and those that are refused: a small file takes neither minutes nor gigabytes a clip."""

import time
from typing import Any

import pytest

from astfast.errors import CheckpointError
from astfast.front_end import KaldiFbank
from astfast.models import vit_config
from astfast.models.dass.config import DassConfig
from astfast.models.fields import MAX_SPECTROGRAM
from astfast.models.recognise import load
from astfast.models.vit_config import VitConfig
from tests.cases.checkpoints import random_model, write_v4

TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "num_hidden_layers": 24}


def config(frames: int, mels: int = 128, **sizes: Any) -> VitConfig:
    return VitConfig(front_end=KaldiFbank(max_length=frames, num_mel_bins=mels), **sizes)


@pytest.mark.parametrize(
    ("frames", "sizes"),
    [
        (1024, {}),
        (1024, TINY),
        (3000, {"prefix_tokens": 2}),  # PaSST and MAEST at 30 s
        (10_000, {"num_hidden_layers": 24}),
        (10_000, LARGE),
        (10_000, TINY),
        (27_000, TINY),
        (10_000, {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 256}),
        (30_000, {"time_stride": 16, "frequency_stride": 16}),
    ],
)
def test_models_of_long_audio_are_read(frames: int, sizes: dict[str, Any]) -> None:
    assert config(frames, **sizes).num_tokens > 1000


@pytest.mark.parametrize("dims", [(96, 192, 384, 768), (20, 40, 33, 70)])
@pytest.mark.parametrize("frames", [1024, 10_000, 30_000])
def test_dass_of_long_audio_is_read(frames: int, dims: tuple[int, ...]) -> None:
    front_end = KaldiFbank(max_length=frames)
    assert DassConfig(dims=dims, mlp_dims=tuple(4 * dim for dim in dims), front_end=front_end).num_tokens > 5000


def test_attention_is_in_proportion_to_the_parameters(tmp_path) -> None:
    """A file of 200 layers of 4 columns and 32,000 tokens has 600 KB, and took minutes a clip."""
    sizes = {"hidden_size": 4, "num_attention_heads": 1, "intermediate_size": 4}
    shape: dict[str, Any] = {"frames": 30_000, "mels": 2, "patch_size": 2, "time_stride": 2, "frequency_stride": 2}
    with pytest.raises(CheckpointError, match=r"15002 tokens in 200 layers of 1 heads make 4\.5e\+10 pairs .* 4,000"):
        config(num_hidden_layers=200, **sizes, **shape)
    del shape["frames"], shape["mels"]
    model = random_model(**sizes, **shape, num_hidden_layers=20, max_length=30_000, num_mel_bins=2)
    write_v4(model, tmp_path)
    started = time.process_time()
    with pytest.raises(CheckpointError, match="20 layers of 1 heads make"):
        load(tmp_path)
    assert time.process_time() - started < 2


def test_the_limit_of_pairs_and_one_past_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vit_config, "FREE_PAIRS", 0)
    base = config(1024)
    pairs = 12 * 12 * base.num_tokens**2
    parameters = 768 * (12 * (4 * 768 + 2 * 3072) + base.num_tokens + 256)
    assert pairs < 3 * parameters
    for limit, refused in ((3, False), (2, True)):
        monkeypatch.setattr(vit_config, "MAX_PAIRS_PER_PARAMETER", limit)
        if refused:
            with pytest.raises(CheckpointError, match=f"{parameters:,} parameters"):
                config(1024)
        else:
            config(1024)


def test_blocks_of_dass_are_in_proportion_to_the_parameters() -> None:
    """A file of 100 blocks of 4 channels has 300 KB."""
    narrow: dict[str, Any] = {"dims": (4, 4, 4, 4), "mlp_dims": (16, 16, 16, 16)}
    front_end = KaldiFbank(max_length=30_000)
    DassConfig(depths=(1, 1, 1, 1), **narrow, front_end=front_end)
    with pytest.raises(CheckpointError, match=r"makes 24,\d+,\d+ positions in blocks, more than 4 for each of"):
        DassConfig(depths=(100, 1, 1, 1), **narrow, front_end=front_end)


@pytest.mark.parametrize("extra", [0, 1])
def test_spectrograms_have_a_largest_size(extra: int) -> None:
    frames = MAX_SPECTROGRAM // 2048 + extra
    patches = {"time_stride": 1024, "frequency_stride": 1024, "patch_size": 64}
    for make in (lambda f: VitConfig(front_end=f, **patches), lambda f: DassConfig(front_end=f)):
        front_end = KaldiFbank(max_length=frames, num_mel_bins=2048)
        if extra:
            with pytest.raises(CheckpointError, match=r"1954 frames x 2048 mel bins has more than 4,000,000 values"):
                make(front_end)
        else:
            make(front_end)
