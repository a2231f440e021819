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
from tests.cases.recordings import RATE, clips

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


def test_logits_that_are_not_finite_are_an_error(tagger: astfast.Tagger, tiny_model: Path) -> None:
    features = tagger.features(clips(2), sampling_rate=RATE)
    features[1] = 3e38
    with pytest.raises(astfast.AstfastError, match=r"cpu float32.*not finite for clip 1 of a batch of 2"):
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
