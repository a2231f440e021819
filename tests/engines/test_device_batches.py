"""Batches that the GPU engine takes as they are: tensors on its device, and arrays that are resampled there."""

from pathlib import Path

import numpy as np
import pytest
import torch

from astfast.audio.inputs import load_audio
from astfast.backends.reference import ReferenceOps
from astfast.engines.base import DeviceBatch
from astfast.engines.cuda_graphs import CudaGraphEngine
from astfast.engines.eager import EagerEngine
from astfast.errors import AudioError
from astfast.models import recognise as checkpoint
from tests.fakes.recording_runtime import RecordingRuntime, at_rate, gpu_engine

FLOAT32_AND_INT16 = pytest.mark.parametrize("dtype", [torch.float32, torch.int16], ids=["float32", "int16"])


@pytest.fixture
def loaded(tiny_model: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(tiny_model)


@pytest.fixture
def runtime() -> RecordingRuntime:
    return RecordingRuntime()


@pytest.fixture
def engine(loaded: checkpoint.Checkpoint, runtime: RecordingRuntime) -> CudaGraphEngine:
    return gpu_engine(loaded, runtime)


@pytest.fixture
def reference(loaded: checkpoint.Checkpoint) -> EagerEngine:
    return EagerEngine(ReferenceOps(loaded.config.num_attention_heads), loaded)


def clips_at(rate: int, dtype: torch.dtype, count: int = 5) -> torch.Tensor:
    clips = at_rate(rate, count)
    return (32768 * clips).to(torch.int16) if dtype == torch.int16 else clips


@pytest.mark.parametrize("rate", [16000, 44100])
@FLOAT32_AND_INT16
def test_all_outputs_are_those_of_the_reference(
    engine: CudaGraphEngine, reference: EagerEngine, rate: int, dtype: torch.dtype
) -> None:
    clips = clips_at(rate, dtype)
    batch, waves = DeviceBatch(clips, rate), [load_audio(clip, rate).wave for clip in clips]
    np.testing.assert_allclose(engine.features(batch)[:, 1:], reference.features(waves)[:, 1:], atol=5e-3)
    np.testing.assert_allclose(engine.embed(batch), reference.embed(waves), atol=1e-3)
    np.testing.assert_allclose(engine.logits(batch), reference.logits(waves), atol=1e-3)
    kinds = {kind for _, _, kind, _ in engine._graphs}
    assert kinds == {"int16" if (rate, dtype) == (16000, torch.int16) else "float32"}


@FLOAT32_AND_INT16
def test_all_outputs_are_bit_for_bit_those_of_waveforms(engine: CudaGraphEngine, dtype: torch.dtype) -> None:
    """At the model's rate a tensor, an array and a list of waveforms go through the same graphs."""
    clips = clips_at(16000, dtype)
    waves = list(clips.numpy())
    expected = (engine.features(waves), engine.embed(waves), engine.logits(waves), engine.scores(waves))
    best = engine.top_k(waves, 3)
    for samples in (clips, clips.numpy()):
        batch = DeviceBatch(samples, 16000)
        got = (engine.features(batch), engine.embed(batch), engine.logits(batch), engine.scores(batch))
        for ours, theirs in zip((*got, *engine.top_k(batch, 3)), (*expected, *best), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("rate", [16000, 44100])
@FLOAT32_AND_INT16
def test_arrays_give_the_same_as_tensors(engine: CudaGraphEngine, rate: int, dtype: torch.dtype) -> None:
    clips = clips_at(rate, dtype, count=11)
    np.testing.assert_array_equal(
        engine.logits(DeviceBatch(clips.numpy(), rate)), engine.logits(DeviceBatch(clips, rate))
    )


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_tensor_stays_on_the_device_and_only_results_are_waited_for(
    engine: CudaGraphEngine, runtime: RecordingRuntime, rate: int
) -> None:
    batch = DeviceBatch(at_rate(rate, 12), rate)
    engine.top_k(batch, 2)
    runtime.log.clear()
    engine.top_k(batch, 2)
    # A batch is collected when the next one is on its way; nothing but results is in pinned memory.
    assert runtime.log == ["stream waits", "replay", "replay", "host waits", "replay", "host waits", "host waits"]
    (graph,) = engine._graphs.values()
    assert graph._staging == [None, None]
    assert {tuple(x.shape[1:]) for results in graph._results for x in results.values()} == {(2,)}


def test_batches_in_host_memory_and_on_the_device_share_a_graph(engine: CudaGraphEngine) -> None:
    clips = at_rate(16000, 9)
    expected, first = engine.logits(list(clips.numpy())), engine.logits([clips[0].numpy()])
    for _ in range(3):
        np.testing.assert_array_equal(engine.logits(DeviceBatch(clips, 16000)), expected)
        np.testing.assert_array_equal(engine.logits([clips[0].numpy()]), first)
    assert {(bucket, *rest) for bucket, _, *rest in engine._graphs} == {
        (1, "float32", "logits"),
        (4, "float32", "logits"),
    }


def test_no_more_of_an_array_is_uploaded_than_is_needed(
    engine: CudaGraphEngine, runtime: RecordingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded: list[tuple[int, ...]] = []
    pinned_zeros = runtime.pinned_zeros

    def noted(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        uploaded.append(tuple(shape))
        return pinned_zeros(shape, dtype)

    monkeypatch.setattr(runtime, "pinned_zeros", noted)
    clips = np.zeros((4, 441_000), np.float32)
    engine.logits(DeviceBatch(clips, 44100))
    seconds = engine.input_samples / engine.sampling_rate
    (rows, samples), *_ = uploaded
    assert rows == 4
    assert 44100 * seconds <= samples <= 44100 * (seconds + 0.1)


def test_a_rate_without_a_short_period_is_refused_and_leaves_the_engine_usable(engine: CudaGraphEngine) -> None:
    clips = at_rate(16001)
    with pytest.raises(AudioError, match="16001 Hz is resampled to 16000 Hz on the CPU only"):
        engine.logits(DeviceBatch(clips, 16001))
    assert engine.logits(DeviceBatch(clips, 16000)).shape == (5, 7)


def test_only_plain_batches_of_clips_are_accepted(engine: CudaGraphEngine) -> None:
    clips = np.zeros((2, 9), np.float32)
    for plain in (clips, clips.astype(np.int16), torch.zeros(2, 9), torch.zeros(2, 9, dtype=torch.int16)):
        assert engine.accepts_on_device(DeviceBatch(plain, 44100))
    odd = (clips.astype(np.float64), clips.astype(">f4"), clips[0], clips[:0], clips[:, :0], clips[None], [clips[0]])
    tensors = (torch.zeros(2, 9).double(), torch.zeros(9), torch.zeros(2, 9, device="meta"))
    for waves in (*odd, *tensors, np.ma.masked_array(clips), "path"):
        assert not engine.accepts_on_device(DeviceBatch(waves, 44100))
    assert engine.accepts_on_device(DeviceBatch(clips, 16000 - 5))  # a period of 3,200 samples
    assert not engine.accepts_on_device(DeviceBatch(clips, 16001))


def test_an_empty_batch_gives_empty_results(engine: CudaGraphEngine) -> None:
    front_end = engine.config.front_end
    for batch in ([], DeviceBatch(torch.zeros(0, 9), 16000)):
        assert engine.features(batch).shape == (0, front_end.max_length, front_end.num_mel_bins)
        assert engine.logits(batch).shape == (0, 7)
        scores, labels = engine.top_k(batch, 3)
        assert scores.shape == labels.shape == (0, 3)
        assert (scores.dtype, labels.dtype) == (np.float32, np.int64)
    assert engine.forward(torch.zeros(0, front_end.max_length, front_end.num_mel_bins)).shape == (0, 7)
