"""Windows of any length are heard in full: longer than the model's input, and longer than that of one member."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import astfast
from astfast.spans import ignored_tail, starts_of_parts
from tests.cases.recordings import RATE, clips

AGGREGATES: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "max": np.max}


@pytest.fixture(scope="module")
def both(tiny_model: Path, other_tiny_model: Path) -> astfast.Tagger:
    """An ensemble of members that hear 0.78 s and 0.93 s at a time."""
    return astfast.load([tiny_model, other_tiny_model], device="cpu", precision="float32")


def by_label(tags: list[Any], tagger: astfast.Tagger) -> np.ndarray:
    scores = {tag["label"]: tag["score"] for tag in tags}
    return np.array([scores[label] for label in tagger.labels])


def scores_of_parts(member: astfast.Tagger, clip: np.ndarray, aggregate: str) -> np.ndarray:
    """What hearing all of a clip means: the parts of the model's length, the last one ending with the clip."""
    size = member.config.front_end.input_samples
    starts = [*range(0, len(clip) - size, size), len(clip) - size]
    parts = [clip[start : start + size] for start in starts]
    return AGGREGATES[aggregate](member.scores(parts, sampling_rate=RATE).astype(np.float64), axis=0)


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_a_window_longer_than_the_models_input_is_heard_in_full(tagger: astfast.Tagger, aggregate: str) -> None:
    first, second = clips(2, 3.1)
    clip = np.concatenate([first, second])
    how: dict[str, Any] = {"sampling_rate": RATE, "top_k": None, "window": 3.1, "aggregate": aggregate}
    segments = tagger.segments(clip, **how)
    assert [(s["start"], s["end"]) for s in segments] == [(0, 3.1), (3.1, 6.2)]
    expected = [scores_of_parts(tagger, part, aggregate) for part in (first, second)]
    for segment, scores in zip(segments, expected, strict=True):
        np.testing.assert_allclose(by_label(segment["tags"], tagger), scores, rtol=1e-6)
    whole = by_label(tagger.classify(clip, **how), tagger)
    np.testing.assert_allclose(whole, AGGREGATES[aggregate](expected, axis=0), rtol=1e-6)


def test_what_stands_at_the_end_of_a_long_window_counts(tagger: astfast.Tagger) -> None:
    quiet = np.zeros(4 * RATE, np.float32)
    late = quiet.copy()
    late[-RATE:] = clips(1, 1.0)[0]
    how: dict[str, Any] = {"sampling_rate": RATE, "window": 4, "top_k": 1}
    assert tagger.segments(late, **how)[0]["tags"] != tagger.segments(quiet, **how)[0]["tags"]
    assert tagger.classify(late, **how) != tagger.classify(quiet, **how)


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_each_member_of_an_ensemble_hears_the_whole_window(
    both: astfast.Tagger, tagger: astfast.Tagger, other_tiny_model: Path, aggregate: str
) -> None:
    other = astfast.load(other_tiny_model, device="cpu", precision="float32")
    short, long = (member.config.front_end.input_samples for member in (tagger, other))
    assert short < long
    clip = clips(1, 2.5)[0]
    expected = np.mean([scores_of_parts(member, clip, aggregate) for member in (tagger, other)], axis=0)
    (segment,) = both.segments(clip, sampling_rate=RATE, window=2.5, top_k=None, aggregate=aggregate)
    np.testing.assert_allclose(by_label(segment["tags"], both), expected, rtol=1e-6)

    beginning = clip[:long]
    expected = np.mean([scores_of_parts(member, beginning, "mean") for member in (tagger, other)], axis=0)
    np.testing.assert_allclose(both.scores(beginning, sampling_rate=RATE)[0], expected, rtol=1e-6)
    np.testing.assert_allclose(
        by_label(both.classify(beginning, sampling_rate=RATE, top_k=None), both), expected, rtol=1e-6
    )


def test_a_clip_longer_by_a_frame_costs_one_window_and_no_warning(tagger: astfast.Tagger) -> None:
    samples = tagger.config.front_end.input_samples
    tail = RATE // 100
    clip = np.concatenate(clips(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tagger.classify(clip[: samples + tail], sampling_rate=RATE) == tagger.classify(
            clip[:samples], sampling_rate=RATE
        )
    with pytest.warns(UserWarning, match="only its first"):
        tagger.classify(clip[: samples + tail + 1], sampling_rate=RATE)
    for more, windows in ((0, 1), (tail, 1), (tail + 1, 2)):
        assert len(tagger.segments(clip[: samples + more], sampling_rate=RATE)) == windows
        heard: list[int] = []
        engine = tagger._lazy.get()
        inner = engine.logits
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "logits", lambda batch: heard.append(len(batch)) or inner(batch))  # noqa: B023
            tagger.segments(clip[: samples + more], sampling_rate=RATE, window=9)
        assert heard == [windows]


def test_parts_cover_a_clip() -> None:
    assert ignored_tail(RATE) == 160
    for samples, expected in (
        (1, [0]),
        (1000, [0]),
        (1160, [0]),
        (1161, [0, 161]),
        (2000, [0, 1000]),
        (2160, [0, 1000]),
        (2161, [0, 1000, 1161]),
    ):
        assert starts_of_parts(samples, 1000, RATE) == expected
