"""What a GPU's engine hears of batches: tensors that are there, arrays that go up, other rates, best labels."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import astfast
from astfast.audio.inputs import load_audio
from astfast.backends.cuda import backend as cuda
from astfast.backends.cuda.resample import Resampler
from astfast.backends.reference import ReferenceOps
from astfast.engines.cuda_graphs import DeviceEngine
from astfast.engines.eager import Engine
from astfast.errors import AudioError
from astfast.models import recognise as checkpoint
from tests.fakes.recording_runtime import RecordingRuntime, torch_ops, waves


@pytest.fixture
def runtime() -> RecordingRuntime:
    return RecordingRuntime()


@pytest.fixture
def tagger(tiny_model: Path, runtime: RecordingRuntime, monkeypatch: pytest.MonkeyPatch) -> astfast.Tagger:
    """One that takes the noted device for a GPU."""
    monkeypatch.setattr(cuda, "unavailable", lambda _: None)
    monkeypatch.setattr(cuda, "open", lambda heads, *_: torch_ops(heads, runtime))
    return astfast.load(tiny_model, device="cuda", precision="float32", batch_size=4)


@pytest.fixture
def engine(tagger: astfast.Tagger) -> DeviceEngine:
    (engine,) = tagger._loaded()
    assert isinstance(engine, DeviceEngine)
    return engine


@pytest.fixture
def reference(tiny_model: Path) -> Engine:
    loaded = checkpoint.load(tiny_model)
    return Engine(ReferenceOps(loaded.config.num_attention_heads), loaded.config, loaded.weights)


def at_rate(rate: int, count: int = 5, seconds: float = 0.7) -> torch.Tensor:
    """[count, samples] tones and noise, louder from clip to clip."""
    t = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(2)
    clips = [np.sin(6000 * (i + 1) ** 0.5 * t) + 0.3 * rng.standard_normal(len(t)) for i in range(count)]
    return torch.from_numpy(np.stack([0.02 * (i + 1) * clip for i, clip in enumerate(clips)]).astype(np.float32))


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 22050, 32000, 44100, 48000, 96000])
@pytest.mark.parametrize("samples", [3, 1000, 30001])
def test_resampling_on_the_device_is_that_of_the_cpu(rate: int, samples: int) -> None:
    wave = at_rate(rate, 1, 4.0)[0, :samples].numpy()
    expected = load_audio(wave, rate).wave
    got = Resampler(rate, 16000, torch.device("cpu"))(torch.from_numpy(wave)[None])[0].numpy()
    assert len(got) == len(expected)
    error, peak = np.abs(got - expected), np.abs(wave).max()
    assert error[32:].max(initial=0) <= 1e-5 * peak
    assert error[:32].max() <= 0.05 * peak  # the first two milliseconds, where soxr settles


def test_what_is_heard_depends_on_no_more_of_a_clip_than_is_taken() -> None:
    resampler = Resampler(44100, 16000, torch.device("cpu"))
    wave = at_rate(44100, 1)
    needed = resampler.needed(5000)
    assert torch.equal(resampler(wave[:, :needed])[:, :5000], resampler(wave)[:, :5000])
    assert not torch.equal(resampler(wave[:, : needed - 700])[:, :5000], resampler(wave)[:, :5000])


def test_rates_without_a_short_period_are_refused() -> None:
    Resampler(3200 * 5, 16000 - 5, torch.device("cpu"))  # a period of 3,200
    with pytest.raises(AudioError, match="16001 Hz is resampled to 16000 Hz on the CPU only"):
        Resampler(16001, 16000, torch.device("cpu"))


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_tensors_on_the_device_are_heard_there(
    engine: DeviceEngine, runtime: RecordingRuntime, reference: Engine, rate: int, dtype: torch.dtype
) -> None:
    clips = at_rate(rate)
    if dtype == torch.int16:
        clips = (32768 * clips).to(torch.int16)
    expected = reference.logits([load_audio(clip, rate).wave for clip in clips])
    np.testing.assert_allclose(engine.hear(clips, rate).numpy(), expected, atol=1e-3)
    np.testing.assert_array_equal(engine.hear(clips.numpy(), rate).numpy(), engine.hear(clips, rate).numpy())
    assert "upload" not in runtime.log
    assert "host waits" not in runtime.log
    assert {kind for _, kind, _ in engine._programs} == {
        "int16" if (rate, dtype) == (16000, torch.int16) else "float32"
    }


def test_only_the_best_labels_come_back_to_a_tagger(tagger: astfast.Tagger) -> None:
    (engine,) = tagger._loaded()
    tags = tagger.classify(waves(3), sampling_rate=16000, top_k=2)
    (slot,) = (slot for program in engine._programs.values() for slot in program._slots)
    assert {tuple(result.shape[1:]) for result in slot.results.values()} == {(2,)}
    scores = tagger.scores(waves(3), sampling_rate=16000)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :2]
    assert [[tag["label"] for tag in clip] for clip in tags] == [[tagger.labels[i] for i in row] for row in best]
    np.testing.assert_allclose(
        [[tag["score"] for tag in clip] for clip in tags], np.take_along_axis(scores, best, 1), rtol=1e-6
    )


def test_int16_arrays_go_up_as_they_are(tagger: astfast.Tagger) -> None:
    """At the model's own rate; the same tags, to the bit, as of float32 samples."""
    (engine,) = tagger._loaded()
    samples = (32768 * at_rate(16000)).to(torch.int16).numpy()
    exact = samples.astype(np.float32) / 32768
    expected = tagger.classify(exact, sampling_rate=16000)
    engine._programs.clear()
    for batch in (samples, list(samples)):
        assert tagger.classify(batch, sampling_rate=16000) == expected
    assert {kind for _, kind, _ in engine._programs} == {"int16"}
    np.testing.assert_array_equal(
        tagger.logits(samples, sampling_rate=16000), tagger.logits(exact, sampling_rate=16000)
    )
    mixed = tagger.classify([samples[0], exact[1]], sampling_rate=16000)
    assert mixed == tagger.classify(exact[:2], sampling_rate=16000)
    bad = tagger.classify([samples[0], samples[0][:0]], sampling_rate=16000, on_error="return")
    assert bad[0] == tagger.classify(exact[0], sampling_rate=16000)
    assert "no samples" in bad[1]["error"]
    long = np.concatenate([samples[0]] * 2)
    with pytest.warns(UserWarning, match=r"<array> is 1\.4 s long and only its first 0\.78 s are heard"):
        assert tagger.classify(long, sampling_rate=16000) == tagger.classify(
            long[: tagger.config.front_end.input_samples], sampling_rate=16000
        )


def test_a_tagger_hears_tensors_where_they_are(tagger: astfast.Tagger, runtime: RecordingRuntime) -> None:
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
    with pytest.warns(UserWarning, match=r"the clips are 0\.8 s long and only their first 0\.78 s are heard"):
        tagger.classify(torch.zeros(2, 12800), sampling_rate=16000)
    clips[3, 7] = float("nan")
    with pytest.raises(AudioError, match="input 3, <tensor>: not finite"):
        tagger.scores(clips, sampling_rate=44100)
    with pytest.raises(AudioError, match="a sampling rate of -1 Hz is not possible"):
        tagger.scores(clips, sampling_rate=-1)


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
def test_arrays_are_heard_like_tensors_on_the_device(
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
@pytest.mark.parametrize("place", [7, 60000])  # the model hears 34,400 or so, the CPU path reads all 88,200
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


def test_arrays_that_are_not_plain_are_read_on_the_host(
    tagger: astfast.Tagger, engine: DeviceEngine, read_on_the_host: list[Any]
) -> None:
    clips = at_rate(44100, 2).numpy()
    for odd in (clips.astype(np.float64), clips.astype(">f4"), (1e9 * clips).astype(np.int32)):
        assert not engine.hears(odd)
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
    with pytest.raises(AudioError, match="input 0, <array>: a sampling rate of -1 Hz is not possible"):
        tagger.classify(clips, sampling_rate=-1)
    assert "a sampling rate of -1 Hz" in tagger.classify(clips, sampling_rate=-1, on_error="return")[1]["error"]
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


def test_a_long_array_is_heard_for_its_beginning(tagger: astfast.Tagger, read_on_the_host: list[Any]) -> None:
    """With the warning that the CPU path gives, from the same sample on."""
    samples = tagger.config.front_end.input_samples
    clips = at_rate(8000, 3, 2.0).numpy()
    exact = clips[:, : samples // 2]
    assert samples % 2 == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tagger.logits(exact, sampling_rate=8000)
        tagger.logits(list(exact), sampling_rate=8000)
    read_on_the_host.clear()
    one_more = clips[:, : samples // 2 + 1]
    messages = []
    for batch in (one_more, list(one_more)):
        with pytest.warns(UserWarning, match="only its first") as caught:
            tagger.logits(batch, sampling_rate=8000)
        messages.append([str(warning.message) for warning in caught])
    assert messages[0] == messages[1]
    assert len(read_on_the_host) == 3  # of the list
    with pytest.warns(UserWarning, match="are heard"):
        there = tagger.logits(torch.from_numpy(clips), sampling_rate=8000)
    with pytest.warns(UserWarning, match=r"<array> is 2\.0 s long and only its first"):
        np.testing.assert_array_equal(tagger.logits(clips, sampling_rate=8000), there)


def test_the_cpu_engine_reads_arrays_as_ever(tiny_model: Path, read_on_the_host: list[Any]) -> None:
    tagger = astfast.load(tiny_model, device="cpu", precision="float32")
    clips = at_rate(44100, 3).numpy()
    scores = tagger.scores(clips, sampling_rate=44100)
    assert len(read_on_the_host) == 3
    np.testing.assert_array_equal(scores, tagger.scores(list(clips), sampling_rate=44100))
