"""What a call refuses, what it warns of and at which line, and inputs at the edge of what it takes."""

import itertools
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import astfast
from astfast import notes
from tests.cases import checkpoints
from tests.cases.recordings import RATE, clips


def test_forward_names_what_is_wrong(tagger: astfast.Tagger) -> None:
    features = tagger.features(clips(1), sampling_rate=RATE)
    for bad in (features[:, :-1], features[:, :, :-1], features[0, 0], features[None]):
        with pytest.raises(astfast.AudioError, match="mel bins"):
            tagger.forward(bad)
    for bad in (["a", "b"], "features", [[1.0], [1.0, 2.0]], features.astype(np.complex64), None, np.array([{}])):
        with pytest.raises(astfast.AudioError, match="<features>"):
            tagger.forward(bad)
    for value in (np.nan, np.inf, 1e300):
        wide = features.astype(np.float64)
        wide[0, 3, 2] = value
        with pytest.raises(astfast.AudioError, match="NaN"):
            tagger.forward(wide)


def test_forward_takes_tensors_and_empty_batches(tagger: astfast.Tagger) -> None:
    features = tagger.features(clips(2), sampling_rate=RATE)
    logits = tagger.forward(features)
    tensor = torch.from_numpy(features.copy())
    np.testing.assert_array_equal(tagger.forward(tensor.clone().requires_grad_()), logits)
    np.testing.assert_array_equal(tagger.forward(tensor.bfloat16()), tagger.forward(tensor.bfloat16().float()))
    np.testing.assert_array_equal(tagger.forward(features.tolist()), logits)
    for empty in (features[:0], tensor[:0], []):
        assert tagger.forward(empty).shape == (0, logits.shape[1])


def test_a_checkpoint_without_a_classifier_embeds_and_says_what_it_can_not(tmp_path: Path) -> None:
    folder = checkpoints.write_v4(checkpoints.random_model(bare=True), tmp_path)
    bare = astfast.load(folder, device="cpu", precision="float32")
    (clip,) = clips(1)
    assert bare.embed(clip, sampling_rate=RATE).shape == (1, bare.config.embedding_size)
    assert bare.features(clip, sampling_rate=RATE).ndim == 3
    features = bare.features(clip, sampling_rate=RATE)
    for call in (
        lambda: bare.classify(clip),
        lambda: bare.stream([clip]),  # when it is called, not when it is walked
        lambda: bare.segments(clip),
        lambda: bare.scores(clip),
        lambda: bare.logits(clip),
        lambda: bare.forward(features),
    ):
        with pytest.raises(astfast.AstfastError, match="no classifier"):
            call()


@pytest.mark.parametrize(
    ("method", "bad"),
    [
        ("segments", {"window": 0}),
        ("segments", {"window": 1e-9}),
        ("classify", {"window": 0.02}),
        ("segments", {"aggregate": "median"}),
        ("classify", {"max_duration": 0}),
        ("stream", {"max_duration": float("nan")}),
        ("segments", {"window": 0.0}),
        ("segments", {"hop": -1.0}),
        ("segments", {"on_error": "ignore"}),
        ("segments", {"activation": "tanh"}),
        ("stream", {"activation": "tanh"}),
        ("stream", {"on_error": "ignore"}),
        ("stream", {"top_k": 0}),
        ("stream", {"hop": 1.0}),
        ("classify", {"threshold": float("nan")}),
        ("classify", {"threshold": "0.5"}),
        ("classify", {"top_k": 2.0}),
        ("classify", {"top_k": [1]}),
        ("classify", {"window": "2"}),
        ("stream", {"sampling_rate": -1}),
        ("segments", {"sampling_rate": "16000"}),
        ("scores", {"activation": "tanh"}),
    ],
)
def test_impossible_options_are_refused_at_the_call(tagger: astfast.Tagger, method: str, bad: dict[str, Any]) -> None:
    def never() -> "itertools.Iterator[Any]":
        raise AssertionError("an input was read")
        yield

    with pytest.raises(ValueError, match=next(iter(bad))):
        getattr(tagger, method)(never() if method == "stream" else [], **bad)


def test_warnings_name_the_line_of_the_caller(tagger: astfast.Tagger) -> None:
    long = np.zeros(3 * tagger.config.front_end.input_samples, np.float32)
    loud = np.full(1000, 1000.0, np.float32)
    calls: list[Callable[[], object]] = [
        lambda: tagger.classify(long, sampling_rate=RATE),
        lambda: tagger.logits([long], sampling_rate=RATE),
        lambda: list(tagger.stream([loud], sampling_rate=RATE)),
        lambda: tagger.segments(loud, sampling_rate=RATE),
        lambda: astfast.load_audio(loud, sampling_rate=RATE),
    ]
    for call in calls:
        with pytest.warns(UserWarning, match=r"window=|integer samples") as caught:
            call()
        assert {warning.filename for warning in caught} == {__file__}
        assert {warning.lineno for warning in caught} == {call.__code__.co_firstlineno}


def test_a_bare_array_is_taken_at_the_rate_of_the_model_with_one_warning(tagger: astfast.Tagger) -> None:
    notes._shown.clear()
    (clip,) = clips(1)
    with pytest.warns(UserWarning, match="taken as 16000 Hz"):
        assert tagger.classify(clip) == tagger.classify(clip, sampling_rate=RATE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tagger.classify(clip)


@pytest.mark.parametrize("one", ["dog.wav", b"RIFF", {"array": [0.0], "sampling_rate": RATE}, np.zeros(10), None, 3])
def test_stream_refuses_what_is_one_input(tagger: astfast.Tagger, one: Any) -> None:
    with pytest.raises(TypeError, match="iterable of inputs"):
        tagger.stream(one)


def test_impossible_arguments_of_load_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    for bad in (
        {"threads": 2.5},
        {"threads": "2"},
        {"threads": True},
        {"threads": 10**9},
        {"device": []},
        {"device": 3},
    ):
        with pytest.raises(astfast.BackendError, match=next(iter(bad))):
            astfast.load(tiny_model, **bad)
    with pytest.raises(ValueError, match="batch_size"):
        astfast.load(tiny_model, batch_size=True)
    with pytest.raises(ValueError, match="dtype"):
        astfast.convert(tiny_model, tmp_path / "out", dtype="bfloat16")
    with pytest.raises(astfast.AudioError, match="target_rate"):
        astfast.load_audio(np.zeros(10, np.float32), sampling_rate=RATE, target_rate=0)


def test_a_child_of_a_fork_does_not_wait_for_a_thread_of_its_parent(tagger: astfast.Tagger) -> None:
    with tagger._lazy.lock:  # as if another thread were loading
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a child that hangs dies of it
            os._exit(0 if tagger.labels else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_longer_inputs_than_max_duration_are_refused(tagger: astfast.Tagger) -> None:
    (clip,) = clips(1, 2.0)
    at = {"sampling_rate": RATE, "window": 0.5}
    assert len(tagger.segments(clip, max_duration=2.0, **at)) == 4
    for method in (tagger.classify, tagger.segments, lambda x, **how: next(tagger.stream([x], **how))):
        with pytest.raises(astfast.AudioError, match=r"2.0 s of audio, above the limit of 1.9 s.*max_duration"):
            method(clip, max_duration=1.9, **at)
    with pytest.raises(astfast.AudioError, match="max_duration"):
        astfast.load_audio(clip, sampling_rate=RATE, max_duration=1.9)
    with pytest.raises(ValueError, match="max_duration"):
        astfast.load_audio(clip, sampling_rate=RATE, max_duration=-1)


def test_inputs_that_are_cut_warn_once_a_line(tagger: astfast.Tagger) -> None:
    """Of 20,000 calls in a loop the first one warns, and so does a loop at another line."""
    long = [np.zeros(n * tagger.config.front_end.input_samples, np.float32) for n in (2, 3, 4)]

    def run() -> None:
        for clip in long * 3:
            tagger.classify(clip, sampling_rate=RATE)
        list(tagger.stream(long * 3, sampling_rate=RATE))

    for _ in range(2):  # other filters: all is new
        with pytest.warns(UserWarning, match=r"is 1\.6 s long and only its first 0\.78 s") as caught:
            run()
        assert len(caught) == 2
