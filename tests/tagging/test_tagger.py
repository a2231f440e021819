"""The public API on a tiny random model: shapes, order, errors, threads, processes."""

import itertools
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import astfast
from astfast.scores import activate
from astfast.tagging.tags import TagOptions
from tests.cases.recordings import RATE, clips


def test_one_input_gives_its_tags_and_a_list_gives_a_list(tagger: astfast.Tagger) -> None:
    one, two = clips(2)
    alone = tagger.classify(one, sampling_rate=RATE)
    assert [set(tag) for tag in alone] == [{"score", "label"}] * 5
    assert [tag["score"] for tag in alone] == sorted((tag["score"] for tag in alone), reverse=True)
    assert tagger.classify([one, two], sampling_rate=RATE)[0] == alone
    assert tagger.classify([one], sampling_rate=RATE) == [alone]
    assert tagger.classify(np.stack([one, two]), sampling_rate=RATE)[0] == alone
    assert tagger.classify({"array": one, "sampling_rate": RATE}) == alone
    assert tagger.classify({"raw": one, "sampling_rate": RATE}) == alone
    assert tagger.classify([]) == []


def test_tags_are_the_best_scores(tagger: astfast.Tagger) -> None:
    (clip,) = clips(1)
    scores = tagger.scores(clip, sampling_rate=RATE)[0]
    everything = tagger.classify(clip, sampling_rate=RATE, top_k=None)
    assert {tag["label"]: np.float32(tag["score"]) for tag in everything} == dict(
        zip(tagger.labels, scores, strict=True)
    )
    threshold = float(np.sort(scores)[-2])
    assert len(tagger.classify(clip, sampling_rate=RATE, threshold=threshold)) == 2


@pytest.fixture
def tied_logits(tagger: astfast.Tagger, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """[3, L] with ties; what the engine then gives for clips of 1,000, 1,001 and 1,002 samples."""
    engine = tagger._lazy.get()
    logits = np.random.default_rng(3).integers(-2, 2, (3, len(tagger.labels))).astype(np.float32)
    monkeypatch.setattr(engine, "_run", lambda waves, output: logits[[len(wave) - 1000 for wave in waves]])
    return logits


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "none"])
@pytest.mark.parametrize("top_k", [1, 3, 7, 8, None])
@pytest.mark.parametrize("threshold", [None, 0.5, 2.0])
def test_tags_are_those_of_all_scores(
    tagger: astfast.Tagger, tied_logits: np.ndarray, activation: str, top_k: int | None, threshold: float | None
) -> None:
    assert len(tagger.labels) == 7
    options = TagOptions(top_k, threshold)
    expected = [options.tags(scores, tagger.labels) for scores in activate(tied_logits, activation)]
    asked = {"sampling_rate": RATE, "activation": activation, "top_k": top_k, "threshold": threshold}
    batch = [np.zeros(1000 + i, np.float32) for i in range(3)]
    assert tagger.classify(batch, **asked) == expected
    assert tagger.classify(batch[1], **asked) == expected[1]
    assert tagger.classify(batch, window=1.0, **asked) == expected  # a window that is never full: by way of all scores


def test_one_model_and_one_window_a_clip_are_asked_for_the_best_only(
    tagger: astfast.Tagger, tiny_model: Path, other_tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def note(engine: Any, method: str) -> None:
        inner = getattr(engine, method)
        monkeypatch.setattr(engine, method, lambda *args: asked.append(method) or inner(*args))

    def calls(run: Callable[[], Any]) -> set[str]:
        asked.clear()
        run()
        return set(asked)

    both = astfast.load([tiny_model, other_tiny_model], device="cpu", precision="float32")
    for engine in (tagger._lazy.get(), *both._lazy.get().members):
        note(engine, "top_k")
        note(engine, "_run")
    (clip,) = clips(1)
    alone, all_scores = {"top_k", "_run"}, {"_run"}
    assert calls(lambda: tagger.classify(clip, sampling_rate=RATE)) == alone
    assert calls(lambda: tagger.classify([clip, clip[:0]], sampling_rate=RATE, on_error="return")) == alone
    assert calls(lambda: list(tagger.stream([clip, clip], sampling_rate=RATE))) == alone
    assert calls(lambda: tagger.classify(clip, sampling_rate=RATE, window=0.2)) == all_scores
    assert calls(lambda: tagger.segments(clip, sampling_rate=RATE)) == all_scores
    assert calls(lambda: tagger.scores(clip, sampling_rate=RATE)) == all_scores
    assert calls(lambda: both.classify(clip, sampling_rate=RATE)) == all_scores


def test_arrays_have_a_row_an_input(tagger: astfast.Tagger) -> None:
    config = tagger.config
    batch = clips(3)
    for rows, shape in (
        (tagger.logits, (config.num_labels,)),
        (tagger.scores, (config.num_labels,)),
        (tagger.embed, (config.hidden_size,)),
        (tagger.features, (config.max_length, config.num_mel_bins)),
    ):
        whole = rows(batch, sampling_rate=RATE)
        assert whole.shape == (3, *shape)
        assert whole.dtype == np.float32
        np.testing.assert_array_equal(rows(batch[1], sampling_rate=RATE), whole[1:2])
        assert rows([]).shape == (0, *shape)


def test_forward_of_features_is_logits(tagger: astfast.Tagger) -> None:
    batch = clips(2)
    features, logits = tagger.features(batch, sampling_rate=RATE), tagger.logits(batch, sampling_rate=RATE)
    np.testing.assert_array_equal(tagger.forward(features), logits)
    np.testing.assert_array_equal(tagger.forward(features[0]), logits[:1])
    np.testing.assert_array_equal(tagger.forward(features.astype(np.float64)), logits)
    np.testing.assert_array_equal(activate(logits, "softmax"), tagger.scores(batch, sampling_rate=RATE))


def test_a_bad_input_is_an_error_and_its_neighbours_are_tagged_as_if_alone(
    tagger: astfast.Tagger, tmp_path: Path
) -> None:
    text = tmp_path / "text.wav"
    text.write_text("not audio")
    one, two = clips(2)
    batch = [one, text, two, tmp_path / "missing.wav", np.full(100, np.nan)]
    results = tagger.classify(batch, sampling_rate=RATE, on_error="return")
    assert [isinstance(result, dict) for result in results] == [False, True, False, True, True]
    assert results[0] == tagger.classify(one, sampling_rate=RATE)
    assert results[2] == tagger.classify(two, sampling_rate=RATE)
    assert "text.wav" in results[1]["error"]
    assert "missing.wav" in results[3]["error"]
    assert isinstance(tagger.classify(text, on_error="return"), dict)
    with pytest.raises(astfast.AudioError, match=r"text\.wav"):
        tagger.classify(batch, sampling_rate=RATE)
    segments = tagger.segments([text, one], sampling_rate=RATE, on_error="return")
    assert "error" in segments[0]
    assert segments[1] == tagger.segments(one, sampling_rate=RATE)


def test_stream_keeps_order_and_reads_no_further_ahead_than_it_must(tagger: astfast.Tagger) -> None:
    taken = 0

    def inputs() -> "itertools.Iterator[np.ndarray]":
        nonlocal taken
        for clip in itertools.cycle(clips(7, 0.2)):
            taken += 1
            yield clip

    results = list(itertools.islice(tagger.stream(inputs(), sampling_rate=RATE), 20))
    assert results == tagger.classify((clips(7, 0.2) * 3)[:20], sampling_rate=RATE)
    assert taken < 400


def test_streamed_segments_are_those_of_each_input(tagger: astfast.Tagger, tmp_path: Path) -> None:
    batch = [clips(1, 2.0)[0], tmp_path / "missing.wav", clips(1, 0.3)[0]]
    options = {"sampling_rate": RATE, "window": 0.5, "hop": 0.25, "top_k": 2}
    streamed = list(tagger.stream_segments(batch, on_error="return", **options))
    expected = tagger.segments(batch, on_error="return", **options)
    assert streamed == [
        (number, segment)
        for number, result in enumerate(expected)
        for segment in (result if isinstance(result, list) else [result])
    ]
    with pytest.raises(astfast.AudioError, match=r"missing\.wav"):
        list(tagger.stream_segments(batch, **options))
    with pytest.raises(TypeError, match="iterable of inputs"):
        tagger.stream_segments("one.wav")
    with pytest.raises(ValueError, match="window is 0"):
        tagger.stream_segments([], window=0)


def test_longer_audio_warns_and_windows_hear_all_of_it(tagger: astfast.Tagger) -> None:
    length = tagger.config.front_end.input_samples / RATE
    (clip,) = clips(1, 3.5 * length)
    with pytest.warns(UserWarning, match="window="):
        beginning = tagger.classify(clip, sampling_rate=RATE)
    assert beginning == tagger.classify(clip[: tagger.config.front_end.input_samples], sampling_rate=RATE)

    segments = tagger.segments(clip, sampling_rate=RATE, top_k=None)
    assert segments[0]["start"] == 0.0
    assert segments[-1]["end"] == pytest.approx(3.5 * length)
    assert all(a["end"] >= b["start"] for a, b in itertools.pairwise(segments))
    table = [{tag["label"]: tag["score"] for tag in segment["tags"]} for segment in segments]
    for aggregate, function in (("mean", np.mean), ("max", np.max)):
        whole = tagger.classify(clip, sampling_rate=RATE, top_k=None, window=length, aggregate=aggregate)
        for tag in whole:
            assert tag["score"] == pytest.approx(function([row[tag["label"]] for row in table]), rel=1e-6)


def test_ensembles_average_probabilities(tiny_model: Path, other_tiny_model: Path) -> None:
    both = astfast.load([tiny_model, other_tiny_model], device="cpu", precision="float32")
    batch = clips(2)
    members = [astfast.load(path, device="cpu", precision="float32") for path in (tiny_model, other_tiny_model)]
    mean = np.mean([member.scores(batch, sampling_rate=RATE).astype(np.float64) for member in members], axis=0)
    np.testing.assert_allclose(both.scores(batch, sampling_rate=RATE), mean, rtol=2e-7)
    assert len(both.segments(batch[0], sampling_rate=RATE)) >= 1
    for method in ("logits", "embed", "features", "forward"):
        with pytest.raises(astfast.AstfastError, match="ensemble"):
            getattr(both, method)(batch[0])


def test_members_of_an_ensemble_must_agree_on_labels(tiny_model: Path) -> None:
    with pytest.raises(astfast.CheckpointError, match="agree"):
        astfast.load([None, tiny_model], device="cpu", precision="float32")


def test_bad_arguments_are_named(tagger: astfast.Tagger, tiny_model: Path) -> None:
    (clip,) = clips(1)
    with pytest.raises(TypeError, match="topk"):
        tagger.classify(clip, topk=3)
    with pytest.raises(TypeError, match="hidden_sizes"):
        astfast.load(tiny_model, hidden_sizes=3)
    for bad in ({"top_k": 0}, {"activation": "relu"}, {"on_error": "ignore"}, {"aggregate": "median", "window": 1.0}):
        with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
            tagger.classify(clip, sampling_rate=RATE, **bad)
    for bad in ({"window": 0.0}, {"window": -1.0}, {"window": 1.0, "hop": 0.0}, {"hop": 1.0}):
        with pytest.raises(ValueError, match=r"window|hop"):
            tagger.classify(clip, sampling_rate=RATE, **bad)
    for model in (5, {}, b"x", [None, 5]):
        with pytest.raises(TypeError, match=r"it must be None .* a path, or a list"):
            astfast.load(model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'max', 'each', or the number"):
        tagger.classify(clip, sampling_rate=RATE, channel="x")  # type: ignore[arg-type]
    for bad in ({"batch_size": 0}, {"batch_size": "big"}):
        with pytest.raises(ValueError, match="batch_size"):
            astfast.load(tiny_model, **bad)
    for bad in (
        {"device": "tpu"},
        {"backend": "onnx"},
        {"threads": 0},
        {"precision": "int4"},
        {"device": "cuda", "backend": "cpu"},
    ):
        with pytest.raises(astfast.BackendError, match=str(next(iter(bad.values())))):
            astfast.load(tiny_model, **bad)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batch_size_changes_no_bit(tagger: astfast.Tagger, tiny_model: Path, batch_size: int) -> None:
    batch = clips(5)
    other = astfast.load(tiny_model, device="cpu", precision="float32", batch_size=batch_size)
    np.testing.assert_array_equal(other.logits(batch, sampling_rate=RATE), tagger.logits(batch, sampling_rate=RATE))


def test_many_threads_get_the_same_answers(tagger: astfast.Tagger) -> None:
    batch = clips(24, 0.5)
    expected = [tagger.classify(clip, sampling_rate=RATE) for clip in batch]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda clip: tagger.classify(clip, sampling_rate=RATE), batch)) == expected


def test_pickled_copies_load_when_first_used(tagger: astfast.Tagger) -> None:
    (clip,) = clips(1)
    copy = pickle.loads(pickle.dumps(tagger))
    assert copy._lazy._engine is None
    assert copy.classify(clip, sampling_rate=RATE) == tagger.classify(clip, sampling_rate=RATE)


def _classify_in_child(tagger: astfast.Tagger, clip: np.ndarray, results: "multiprocessing.Queue[object]") -> None:
    results.put(tagger.classify(clip, sampling_rate=RATE))


def test_a_forked_child_can_tag_while_the_parent_is_busy(tagger: astfast.Tagger) -> None:
    (clip,) = clips(1)
    expected = tagger.classify(clip, sampling_rate=RATE)
    context = multiprocessing.get_context("fork")
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            tagger.logits(clip, sampling_rate=RATE)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        for _ in range(5):
            results: multiprocessing.Queue[object] = context.Queue()
            child = context.Process(target=_classify_in_child, args=(tagger, clip, results))
            child.start()
            assert results.get(timeout=60) == expected
            child.join(60)
            assert child.exitcode == 0
    finally:
        stop.set()
        busy.join()


def test_closed_taggers_say_so(tiny_model: Path) -> None:
    with astfast.load(tiny_model, device="cpu", precision="float32") as tagger:
        tagger.warmup()
    with pytest.raises(astfast.AstfastError, match="closed"):
        tagger.classify(clips(1)[0], sampling_rate=RATE)
    assert "closed" in repr(tagger)


def test_automatic_precision_is_checked_once_and_remembered(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from astfast import backends
    from astfast.engines import auto_precision as precision

    monkeypatch.setenv("ASTFAST_CACHE", str(tmp_path))
    monkeypatch.setattr(backends.Choice, "fastest_precision", lambda self: "bfloat16")
    verdicts = []
    inner = precision.difference
    monkeypatch.setattr(precision, "difference", lambda *args: verdicts.append(inner(*args)) or verdicts[-1])
    assert astfast.load(tiny_model, device="cpu").backend == "cpu bfloat16"
    assert astfast.load(tiny_model, device="cpu").backend == "cpu bfloat16"
    (largest,) = verdicts
    assert 0 < largest < precision.TOLERANCE

    for file in tmp_path.iterdir():
        file.unlink()
    monkeypatch.setattr(precision, "difference", lambda *_: 0.5)
    for _ in range(2):
        assert astfast.load(tiny_model, device="cpu").backend == "cpu float32"
        monkeypatch.setattr(precision, "difference", None)


def test_cuda_without_a_gpu_says_what_is_missing(tiny_model: Path) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    with pytest.raises(astfast.BackendError, match="GPU"):
        astfast.load(tiny_model, device="cuda")


def test_every_input_kind_gives_the_same_tags(tagger: astfast.Tagger, tmp_path: Path) -> None:
    (clip,) = clips(1)
    path = tmp_path / "clip.wav"
    soundfile.write(path, clip, RATE, subtype="FLOAT")
    expected = tagger.classify(clip, sampling_rate=RATE)
    with path.open("rb") as file:
        for same in (path, str(path), path.read_bytes(), file, clip.astype(np.float64)):
            assert tagger.classify(same, sampling_rate=RATE) == expected
