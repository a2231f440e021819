"""2-D batches of a tagger on a GPU: tensors on it, arrays that are uploaded, other rates, the best labels."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import astfast
from astfast.audio.inputs import load_audio
from astfast.backends.cuda import backend as cuda
from astfast.engines.base import DeviceBatch
from astfast.engines.cuda_graphs import CudaGraphEngine
from astfast.errors import AudioError
from tests.fakes.recording_runtime import RecordingRuntime, at_rate, torch_ops, waves

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def runtime() -> RecordingRuntime:
    return RecordingRuntime()


@pytest.fixture
def tagger(tiny_model: Path, runtime: RecordingRuntime, monkeypatch: pytest.MonkeyPatch) -> astfast.Tagger:
    """A tagger that takes the recording runtime for a GPU."""
    monkeypatch.setattr(cuda, "unavailable", lambda _: None)
    monkeypatch.setattr(cuda, "open", lambda heads, *_: torch_ops(heads, runtime))
    return astfast.load(tiny_model, device="cuda", precision="float32", batch_size=4)


@pytest.fixture
def engine(tagger: astfast.Tagger) -> CudaGraphEngine:
    engine = tagger._lazy.get()
    assert isinstance(engine, CudaGraphEngine)
    return engine


def test_only_the_best_labels_come_back_to_a_tagger(tagger: astfast.Tagger, engine: CudaGraphEngine) -> None:
    tags = tagger.classify(waves(3), sampling_rate=16000, top_k=2)
    (graph,) = engine._graphs.values()
    assert {tuple(result.shape[1:]) for results in graph._results for result in results.values()} == {(2,)}
    scores = tagger.scores(waves(3), sampling_rate=16000)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :2]
    assert [[tag["label"] for tag in clip] for clip in tags] == [[tagger.labels[i] for i in row] for row in best]
    np.testing.assert_allclose(
        [[tag["score"] for tag in clip] for clip in tags], np.take_along_axis(scores, best, 1), rtol=1e-6
    )


def test_int16_arrays_go_up_as_they_are(tagger: astfast.Tagger, engine: CudaGraphEngine) -> None:
    """At the model's own rate; the same tags, to the bit, as of float32 samples."""
    samples = (32768 * at_rate(16000)).to(torch.int16).numpy()
    exact = samples.astype(np.float32) / 32768
    expected = tagger.classify(exact, sampling_rate=16000)
    engine._graphs.clear()
    for batch in (samples, list(samples)):
        assert tagger.classify(batch, sampling_rate=16000) == expected
    assert {kind for _, _, kind, _ in engine._graphs} == {"int16"}
    np.testing.assert_array_equal(
        tagger.logits(samples, sampling_rate=16000), tagger.logits(exact, sampling_rate=16000)
    )
    mixed = tagger.classify([samples[0], exact[1]], sampling_rate=16000)
    assert mixed == tagger.classify(exact[:2], sampling_rate=16000)
    bad = tagger.classify([samples[0], samples[0][:0]], sampling_rate=16000, on_error="return")
    assert bad[0] == tagger.classify(exact[0], sampling_rate=16000)
    assert "no samples" in bad[1]["error"]
    long = np.concatenate([samples[0]] * 2)
    with pytest.warns(UserWarning, match=r"<array> is 1\.4 s long and only its first 0\.78 s are used"):
        assert tagger.classify(long, sampling_rate=16000) == tagger.classify(
            long[: tagger.config.front_end.input_samples], sampling_rate=16000
        )


def test_tensors_on_the_gpu_are_tagged_there(tagger: astfast.Tagger, runtime: RecordingRuntime) -> None:
    clips = at_rate(44100)
    there = tagger.logits(clips, sampling_rate=44100), tagger.scores(clips, sampling_rate=44100)
    tags = tagger.classify(clips, sampling_rate=44100, top_k=2)
    assert "upload" not in runtime.log
    here = [clip.numpy() for clip in clips]
    np.testing.assert_allclose(there[0], tagger.logits(here, sampling_rate=44100), atol=1e-3)
    np.testing.assert_allclose(there[1], tagger.scores(here, sampling_rate=44100), atol=1e-4)
    expected = tagger.classify(here, sampling_rate=44100, top_k=2)
    assert [[tag["label"] for tag in clip] for clip in tags] == [[tag["label"] for tag in clip] for clip in expected]
    assert "upload" in runtime.log
    with pytest.warns(UserWarning, match=r"<tensor> is 0\.8 s long and only its first 0\.78 s are used"):
        tagger.classify(torch.zeros(2, 12800), sampling_rate=16000)
    clips[3, 7] = float("nan")
    with pytest.raises(AudioError, match="input 3, <tensor>: not finite"):
        tagger.scores(clips, sampling_rate=44100)
    with pytest.raises(AudioError, match="a sampling rate of -1 Hz is not possible"):
        tagger.scores(clips, sampling_rate=-1)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_clip_that_is_not_finite_spoils_no_other_of_its_tensor(tagger: astfast.Tagger, rate: int) -> None:
    clips = at_rate(rate)
    expected = tagger.classify(clips, sampling_rate=rate)
    clips[3, 7] = float("nan")
    tags = tagger.classify(clips, sampling_rate=rate, on_error="return")
    assert "input 3, <tensor>: not finite" in tags[3]["error"]
    assert [tags[i] for i in (0, 1, 2, 4)] == [expected[i] for i in (0, 1, 2, 4)]


def as_type(clips: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (32768 * clips).to(torch.int16) if dtype == torch.int16 else clips


@pytest.fixture
def read_on_the_host(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Clips that went the way of the CPU path."""
    from astfast.audio import prefetch as reading

    clips: list[Any] = []

    def noted(x: Any, *args: Any, **kwargs: Any) -> Any:
        clips.append(x)
        return load_audio(x, *args, **kwargs)

    monkeypatch.setattr(reading, "load_audio", noted)
    return clips


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_arrays_give_the_same_as_tensors_on_the_device(
    tagger: astfast.Tagger, runtime: RecordingRuntime, read_on_the_host: list[Any], rate: int, dtype: torch.dtype
) -> None:
    """To the bit, in more parts than one: 19 clips are more than the 16 of a call, in buckets of 4."""
    clips = as_type(at_rate(rate, 19), dtype)
    how = {"sampling_rate": rate}
    there = tagger.logits(clips, **how), tagger.scores(clips, **how), tagger.classify(clips, top_k=2, **how)
    largest: list[int] = []
    pinned = runtime.pinned_zeros
    runtime.pinned_zeros = lambda shape, type: largest.append(shape[0]) or pinned(shape, type)  # type: ignore[method-assign]
    array = clips.numpy()
    array.flags.writeable = False  # as np.frombuffer gives them
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(tagger.logits(array, **how), there[0])
        np.testing.assert_array_equal(tagger.scores(array, **how), there[1])
        assert tagger.classify(array, top_k=2, **how) == there[2]
        np.testing.assert_array_equal(tagger.logits(array[::-1, :], **how), there[0][::-1])
    assert max(largest) == 4
    assert bool(read_on_the_host) == (rate == 16000)  # those go up as they are from there


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [7, 45000])  # of the 45,646 that both paths look at, to hear 34,400 or so
def test_a_bad_row_is_found_on_the_host(
    tagger: astfast.Tagger, read_on_the_host: list[Any], bad: float, place: int
) -> None:
    clips = at_rate(44100, 6, 2.0).numpy()
    clips[3, place] = bad
    for method in (tagger.logits, tagger.scores, tagger.classify):
        with (
            pytest.warns(UserWarning, match="only its first"),
            pytest.raises(AudioError, match="input 3, <array>: not finite"),
        ):
            method(clips, sampling_rate=44100)
    how = {"sampling_rate": 44100, "on_error": "return"}
    with pytest.warns(UserWarning, match="only its first"):
        tags = tagger.classify(clips, **how)
    with pytest.warns(UserWarning, match="only its first"):
        assert tags == tagger.classify(list(clips), **how)
    assert "input 3, <array>: not finite" in tags[3]["error"]
    assert sum("error" in clip for clip in tags if isinstance(clip, dict)) == 1


def test_a_bad_sample_after_those_that_are_heard_does_not_count(tagger: astfast.Tagger) -> None:
    clips = at_rate(44100, 6, 2.0).numpy()
    broken = clips.copy()
    broken[3, 46000] = np.nan
    with pytest.warns(UserWarning, match="only its first"):
        expected = tagger.scores(clips, sampling_rate=44100)
    for same in (broken, list(broken)):
        with pytest.warns(UserWarning, match="only its first"):
            np.testing.assert_allclose(tagger.scores(same, sampling_rate=44100), expected, atol=1e-4)


def test_arrays_that_are_not_plain_are_read_on_the_host(
    tagger: astfast.Tagger, engine: CudaGraphEngine, read_on_the_host: list[Any]
) -> None:
    clips = at_rate(44100, 2).numpy()
    for odd in (clips.astype(np.float64), clips.astype(">f4"), (1e9 * clips).astype(np.int32)):
        assert not engine.accepts_on_device(DeviceBatch(odd, 44100))
        tagger.classify(odd, sampling_rate=44100)
    tagger.classify(clips, sampling_rate=16001)  # no short period
    tagger.classify(clips[:, :32], sampling_rate=44100)
    assert len(read_on_the_host) == 10
    tagger.classify(clips[:, :33], sampling_rate=44100)
    assert len(read_on_the_host) == 10
    with pytest.raises(AudioError, match="looks like \\(samples, channels\\)"):
        tagger.classify(np.zeros((33, 32), np.float32), sampling_rate=44100)
    with pytest.raises(AudioError, match="input 0, <array>: no samples"):
        tagger.classify(clips[:, :0], sampling_rate=44100)
    assert tagger.classify(clips[:0], sampling_rate=44100) == []
    for on_error in ("raise", "return"):  # an option, not an input
        with pytest.raises(AudioError, match="a sampling rate of -1 Hz is not possible"):
            tagger.classify(clips, sampling_rate=-1, on_error=on_error)
    with pytest.raises(ValueError, match="on_error 'skip' is unknown"):
        tagger.classify(clips, sampling_rate=44100, on_error="skip")  # type: ignore[arg-type]


@pytest.mark.parametrize(("peak", "loud"), [(16.0, False), (16.001, True)])
def test_a_loud_array_warns_as_it_does_on_the_host(
    tagger: astfast.Tagger, read_on_the_host: list[Any], peak: float, loud: bool
) -> None:
    clips = at_rate(44100, 2).numpy()
    clips[1, 5] = -peak
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tagger.scores(clips, sampling_rate=44100)
    assert any("though float samples lie in" in str(warning.message) for warning in caught) == loud
    assert bool(read_on_the_host) == loud


def test_only_the_beginning_of_a_long_array_is_read(tagger: astfast.Tagger, read_on_the_host: list[Any]) -> None:
    """With the warning that the CPU path gives, from the same sample on: 81 are more than the tail of 10 ms."""
    samples = tagger.config.front_end.input_samples
    clips = at_rate(8000, 3, 2.0).numpy()
    exact = clips[:, : samples // 2 + 80]
    assert samples % 2 == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tagger.logits(exact, sampling_rate=8000)
        tagger.logits(list(exact), sampling_rate=8000)
    read_on_the_host.clear()
    one_more = clips[:, : samples // 2 + 81]
    messages = []
    for batch in (one_more, list(one_more)):
        with pytest.warns(UserWarning, match="only its first") as caught:
            tagger.logits(batch, sampling_rate=8000)
        messages.append([str(warning.message) for warning in caught])
    assert messages[0] == messages[1]
    assert len(read_on_the_host) == 3  # of the list
    with pytest.warns(UserWarning, match="are used"):
        there = tagger.logits(torch.from_numpy(clips), sampling_rate=8000)
    with pytest.warns(UserWarning, match=r"<array> is 2\.0 s long and only its first"):
        np.testing.assert_array_equal(tagger.logits(clips, sampling_rate=8000), there)


def test_the_cpu_engine_reads_arrays_as_ever(tiny_model: Path, read_on_the_host: list[Any]) -> None:
    tagger = astfast.load(tiny_model, device="cpu", precision="float32")
    clips = at_rate(44100, 3).numpy()
    scores = tagger.scores(clips, sampling_rate=44100)
    assert len(read_on_the_host) == 3
    np.testing.assert_array_equal(scores, tagger.scores(list(clips), sampling_rate=44100))
