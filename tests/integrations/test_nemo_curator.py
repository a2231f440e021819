"""The adapter for NeMo Curator, by the protocol of its stage: keywords, four methods, a result an item."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytest

import astfast
from astfast.integrations.nemo_curator import Adapter

RATE = 16_000


@runtime_checkable
class SEDAdapter(Protocol):
    """As NeMo Curator 1.4 has it."""

    checkpoint_path: str | None
    sample_rate: int

    def download_weights_on_node(self) -> None: ...
    def load_model(self, *, num_gpus: int) -> None: ...
    def unload_model(self) -> None: ...
    def infer_batch(self, items: list[dict[str, Any]]) -> list[Any]: ...


@pytest.fixture
def adapter(tiny_model: Path) -> Adapter:
    made = Adapter(checkpoint_path=str(tiny_model), sample_rate=RATE, precision="float32", hop=0.25, window=0.5)
    assert isinstance(made, SEDAdapter)
    made.download_weights_on_node()
    made.load_model(num_gpus=0)
    return made


def waves(*lengths: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"waveform": 0.1 * rng.standard_normal(length).astype(np.float32)} for length in lengths]


def test_each_frame_has_the_scores_of_the_window_around_it(adapter: Adapter, tiny_model: Path) -> None:
    items = waves(2 * RATE, RATE // 10, 30_000)
    results = adapter.infer_batch(items)
    tagger = astfast.load(tiny_model, device="cpu", precision="float32")
    for item, result in zip(items, results, strict=True):
        wave = item["waveform"]
        assert result.original_num_samples == len(wave)
        assert (result.fps, result.valid_frames) == (4.0, -(-len(wave) // 4_000))
        assert result.framewise_output.shape == (result.valid_frames, len(tagger.labels))
        for frame, scores in enumerate(result.framewise_output):
            start = min(max(0, 4_000 * frame - 2_000), max(0, len(wave) - 8_000))
            expected = tagger.scores(wave[start : start + 8_000], sampling_rate=RATE)[0]
            np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_a_batch_of_nothing_and_a_waveform_of_nothing(adapter: Adapter) -> None:
    assert adapter.infer_batch([]) == []
    (result,) = adapter.infer_batch(waves(0))
    assert result.valid_frames == 1
    assert np.isfinite(result.framewise_output).all()


def test_another_rate_than_the_models_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="sample_rate is 32000: set it to the model's, 16000"):
        Adapter(str(tiny_model), sample_rate=32_000).load_model(num_gpus=0)


@pytest.mark.parametrize("option", ["hop", "window"])
def test_impossible_lengths_are_refused(option: str) -> None:
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{option} is .*: it must be seconds, at least 0.025"):
            Adapter(**{option: value})
