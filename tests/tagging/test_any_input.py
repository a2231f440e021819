"""With on_error="return" nothing but an error record comes of an input, whatever it is; what is not finite is told."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import astfast
from astfast.audio.kinds import expand_batch
from tests.audio.test_prefetch import ODD
from tests.cases.recordings import RATE, clips, file_bytes

HOW: dict[str, Any] = {"sampling_rate": RATE, "on_error": "return", "top_k": 1}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**32), window=st.sampled_from([None, 0.3, 2.0]))
def test_odd_inputs_among_good_ones_are_error_records(tagger: astfast.Tagger, seed: int, window: float | None) -> None:
    chance = random.Random(seed)
    ahead = chance.choice([None, 1, 4])
    good = clips(1, 0.4)[0]
    makers: list[Callable[[], Any]] = [chance.choice([*ODD, lambda: good]) for _ in range(chance.randrange(1, 20))]
    with np.errstate(all="raise"):
        expected = tagger.classify(good, window=window, **HOW)
        for results in (
            tagger.classify([make() for make in makers], window=window, **HOW),
            list(tagger.stream((make() for make in makers), window=window, prefetch=ahead, **HOW)),
        ):
            assert len(results) == len(makers)
            for make, result in zip(makers, results, strict=True):
                if make in ODD:
                    assert result["error"], make
                else:
                    assert result == expected


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("number", range(len(ODD)))
def test_one_odd_input_is_an_error_record(tagger: astfast.Tagger, number: int) -> None:
    for method in (tagger.classify, tagger.segments):
        with np.errstate(all="raise"):
            result = method(ODD[number](), **HOW)
        if expand_batch(ODD[number]())[1]:
            assert result["error"]
        else:  # a list, a column of paths
            assert isinstance(result, list)


def test_denormal_scores_are_no_error_where_numpy_raises(tagger: astfast.Tagger) -> None:
    with np.errstate(all="raise"):
        for activation in ("softmax", "sigmoid", "none"):
            tagger.classify(clips(3), sampling_rate=RATE, activation=activation)
            tagger.classify(clips(3), sampling_rate=RATE, activation=activation, window=0.2)


def test_what_float32_rounds_to_zero_is_no_error_where_numpy_raises(tagger: astfast.Tagger) -> None:
    tiny = clips(1)[0].astype(np.float64) * 1e-42
    features = tagger.features(tiny, sampling_rate=RATE).astype(np.float64) * 1e-50
    with np.errstate(all="raise"):
        assert list(tagger.live([tiny], sampling_rate=RATE, window=0.5))
        assert tagger.segments(tiny, sampling_rate=RATE, window=0.5)
        tagger.forward(features)


def test_logits_that_are_not_finite_are_an_error(tagger: astfast.Tagger, tiny_model: Path) -> None:
    features = tagger.features(clips(2), sampling_rate=RATE)
    features[1] = 3e38
    with pytest.raises(astfast.AstfastError, match=r"cpu float32.*not finite for clip 1 of a batch of 2.*: check the"):
        tagger.forward(features)
    broken = astfast.load(tiny_model, device="cpu", precision="float32")
    engine = broken._lazy.get()
    inner = engine._run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_run", lambda *args: np.full_like(inner(*args), np.nan))
        for call in (broken.classify, broken.segments, broken.scores, broken.logits, broken.embed):
            with pytest.raises(astfast.AstfastError, match="not finite for clip 0"):
                call(clips(1), sampling_rate=RATE)
        assert np.isnan(broken.features(clips(1), sampling_rate=RATE)).all()  # made of checked samples: not looked at


@pytest.mark.parametrize("samples", [1, 2, 159, 399, 400, 401, 559, 560])
def test_clips_shorter_than_a_frame_or_two_are_tagged(tagger: astfast.Tagger, samples: int) -> None:
    clip = clips(1)[0][:samples]
    assert len(tagger.classify(clip, sampling_rate=RATE)) == 5
    assert np.isfinite(tagger.scores(clip, sampling_rate=RATE)).all()


@pytest.mark.parametrize("level", [0.0, 0.9])
def test_silence_and_a_constant_have_finite_scores(tagger: astfast.Tagger, level: float) -> None:
    (scores,) = tagger.scores(np.full(RATE // 2, level, np.float32), sampling_rate=RATE)
    assert np.isfinite(scores).all()
    assert scores.max() < 1


@pytest.mark.parametrize("rate", [4000, 8000, 11_025, 44_056, 192_000, 250_000, 384_000, 500_000])
def test_rates_of_all_recorders(tagger: astfast.Tagger, rate: int) -> None:
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)).astype(np.float32)
    at_16k = (0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE // 2) / RATE)).astype(np.float32)
    scores, same = tagger.scores([tone], sampling_rate=rate), tagger.scores([at_16k], sampling_rate=RATE)
    np.testing.assert_allclose(scores, same, atol=0.05)


def test_more_labels_than_there_are_is_all_of_them(tagger: astfast.Tagger) -> None:
    for top_k in (len(tagger.labels), len(tagger.labels) + 1, 10**9, None):
        assert len(tagger.classify(clips(1)[0], sampling_rate=RATE, top_k=top_k)) == len(tagger.labels)


def test_empty_files_end_no_stream(tagger: astfast.Tagger, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    header = file_bytes(np.zeros(0), format="WAV")
    good = file_bytes(clips(1)[0], format="WAV")
    first, second, third = tagger.stream([tmp_path / "empty.wav", header, good], on_error="return")
    assert "empty.wav: the file is empty" in first["error"]
    assert "no samples" in second["error"]
    assert third == tagger.classify(good)


def test_embeddings_are_the_same_alone_and_in_any_batch(tagger: astfast.Tagger) -> None:
    batch = clips(8)
    expected = tagger.embed(batch, sampling_rate=RATE)
    for size in (1, 3, 8):
        for _ in range(2):
            parts = [tagger.embed(batch[at : at + size], sampling_rate=RATE) for at in range(0, 8, size)]
            np.testing.assert_array_equal(np.concatenate(parts), expected)
