"""Ensembles across families: the mean of the members' own scores, whatever each hears and at which rate."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import astfast
from astfast import resampling
from astfast.engines import ensemble
from astfast.errors import AstfastError, AudioError, CheckpointError
from astfast.front_end import FrontEnd
from tests.cases import checkpoints, dass, timm_vit

LABELS = tuple(f"sound {i}" for i in range(7))


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("members")
    torch.save(timm_vit.random_state(timm_vit.ced_shapes(64, 1, 7), seed=1), folder / "ced.pt")
    torch.save(timm_vit.random_state(timm_vit.ced_shapes(128, 2, 7), seed=2), folder / "other-ced.pt")
    torch.save(timm_vit.random_state(timm_vit.passt_shapes(64, 1, 7, (12, 99)), seed=3), folder / "passt.pt")
    torch.save(timm_vit.random_state(timm_vit.passt_shapes(64, 1, 7, (9, 31)), seed=4), folder / "maest.ckpt")
    checkpoints.write_v4(checkpoints.random_model(), folder / "ast")
    dass.write_hub(dass.random_state(dass.TINY), dass.TINY, folder / "dass", 64, 48)
    return {path.stem: path for path in folder.iterdir()}


def load(source: Path | list[Path]) -> astfast.Tagger:
    return astfast.load(source, device="cpu", precision="float32", labels=LABELS)


def clip(samples: int, rate: int = 32_000) -> np.ndarray:
    """Sound that a lower rate keeps: all below 6 kHz."""
    t = np.arange(samples) / rate
    noise = np.random.default_rng(samples).uniform(50, 6000, 40)
    return (0.02 * np.sin(2 * np.pi * np.outer(noise, t)).sum(0)).astype(np.float32)


@pytest.mark.parametrize(
    "names", [("ced", "passt"), ("passt", "ced", "ast"), ("maest", "ced"), ("passt", "maest", "dass", "ast")], ids=str
)
def test_scores_are_the_mean_of_the_members_scores(names: tuple[str, ...], members: dict[str, Path]) -> None:
    """At 32 kHz where a PaSST is among them: of the others each hears the clip as it would alone."""
    both = load([members[name] for name in names])
    rate = 32_000 if "passt" in names else 16_000
    waves = [clip(n, rate) for n in (rate // 4, rate // 2, rate // 2)]
    assert both._lazy.get().sampling_rate == 16_000
    alone = [load(members[name]).scores(waves, sampling_rate=rate).astype(np.float64) for name in names]
    np.testing.assert_allclose(both.scores(waves, sampling_rate=rate), np.mean(alone, 0), atol=2e-7)
    best = both.classify(waves[0], sampling_rate=rate, top_k=1)[0]
    assert best["label"] == LABELS[int(np.mean(alone, 0)[0].argmax())]


def test_members_with_other_labels_are_refused_by_the_first_that_differs(members: dict[str, Path]) -> None:
    dass_and_ced = [members["dass"], members["ced"]]  # "label 0" and so on by its config.json, numbers
    with pytest.raises(CheckpointError, match=r"ced\.pt has other labels than .*dass \(label 0 is '.+' and '.+'\)"):
        astfast.load(dass_and_ced, device="cpu")


def test_a_keyword_reaches_the_members_that_have_it(members: dict[str, Path]) -> None:
    both = [members["passt"], members["dass"]]
    ensemble = load(both)._lazy.get()
    hops = astfast.load(both, device="cpu", precision="float32", labels=LABELS, hop_length=160)._lazy.get()
    assert [engine.members[0].config.front_end.hop_length for engine in (ensemble, hops)] == [320, 160]
    assert hops.members[1].config == ensemble.members[1].config
    with pytest.raises(
        TypeError, match=r"unknown keyword time_stride=: the fields of .*ced\.pt \(CED\) or .*\(DASS\) are"
    ):
        astfast.load([members["ced"], members["dass"]], device="cpu", time_stride=10)._lazy.get()


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_windows_longer_than_a_member_hears(aggregate: str, members: dict[str, Path]) -> None:
    names = ("passt", "ced", "maest")  # 10.05 s, 10.13 s, 5 s
    both = load([members[name] for name in names])
    wave = clip(12 * 32_000)
    how = {"sampling_rate": 32_000, "window": 12.0, "top_k": None, "aggregate": aggregate}
    alone = [{tag["label"]: tag["score"] for tag in load(members[name]).classify(wave, **how)} for name in names]
    for tag in both.classify(wave, **how):
        assert tag["score"] == pytest.approx(np.mean([each[tag["label"]] for each in alone]), abs=2e-7)


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 32_000, 44_100, 48_000])
def test_every_member_hears_a_file_as_it_would_alone(rate: int, members: dict[str, Path], tmp_path: Path) -> None:
    """Resampled from the file itself for each rate; noise, whose ends and highest bands show any other way."""
    names, path = ("passt", "ced", "ast"), tmp_path / "clip.wav"
    both = load([members[name] for name in names])
    for samples in (1, 7, rate // 3 + 1, rate * 7 // 10, rate * 5 // 4 + 1):
        noise = np.random.default_rng(samples).uniform(-0.3, 0.3, samples).astype(np.float32)
        soundfile.write(path, noise, rate, subtype="FLOAT")
        if samples < rate:  # an AST here hears 0.78 s
            alone = [load(members[name]).scores(str(path))[0] for name in names]
            np.testing.assert_allclose(both.scores(str(path))[0], np.mean(alone, 0), atol=1e-6)
        how: dict[str, Any] = {"window": 0.5, "top_k": None}
        alone_tags = [{t["label"]: t["score"] for t in load(members[name]).classify(path, **how)} for name in names]
        for tag in both.classify(path, **how):
            mean = np.mean([each[tag["label"]] for each in alone_tags])
            assert tag["score"] == pytest.approx(mean, abs=1e-6), samples


def test_a_live_stream_is_heard_at_each_rate(members: dict[str, Path]) -> None:
    names = ("passt", "ced")
    chunks = np.split(clip(2 * 48_000, 48_000), 20)
    both, *alone = (list(load(s).live(chunks, sampling_rate=48_000, window=1.0, top_k=None))
                    for s in ([members[name] for name in names], *(members[name] for name in names)))  # fmt: skip
    assert len(both) == len(alone[0]) == 2
    for together, *each in zip(both, *alone, strict=True):
        mean = {t["label"]: t["score"] / 2 for t in each[0]["tags"]}
        for tag in each[1]["tags"]:
            mean[tag["label"]] += tag["score"] / 2
        assert {t["label"]: t["score"] for t in together["tags"]} == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("decoding", ["threads", "processes"])
def test_a_run_of_an_ensemble_of_two_rates(decoding: str, members: dict[str, Path], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", clip(44_100, 44_100), 44_100, subtype="FLOAT")
    both = load([members["passt"], members["ced"]])
    (record,) = astfast.tag_files([str(tmp_path / "clip.wav")], tagger=both, top_k=None, decoding=decoding)
    expected = {tag["label"]: tag["score"] for tag in both.classify(tmp_path / "clip.wav", top_k=None)}
    assert {tag["label"]: tag["score"] for tag in record["tags"]} == pytest.approx(expected, abs=1e-4)


def test_an_array_without_a_rate_is_not_guessed_between_two(members: dict[str, Path]) -> None:
    both, wave = load([members["passt"], members["ced"]]), clip(8000)
    for call in (both.classify, both.scores, lambda x: list(both.stream(x))):
        with pytest.raises(AudioError, match="without sampling_rate, and the models are at 32000 and 16000 Hz: pass"):
            call([wave])


def test_rates_without_a_common_step_make_no_ensemble(members: dict[str, Path]) -> None:
    engine = load(members["ced"])._lazy.get()
    odd = SimpleNamespace(sampling_rate=16_001)
    with pytest.raises(AstfastError, match=r"models at 16000, 16001 Hz make no ensemble: .* 40 Hz or more"):
        ensemble.Ensemble([engine, odd])  # type: ignore[list-item]


def test_each_front_end_and_rate_is_computed_once(members: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two CEDs have statistics of their own, and so front ends; the same one twice has one; members at 16 kHz share a
    resampled clip."""
    both = load([members["passt"], members["ced"], members["ced"], members["other-ced"], members["maest"]])
    made: Counter[FrontEnd] = Counter()
    for member in both._lazy.get().members:
        log_mel = member.ops.log_mel
        monkeypatch.setattr(
            member.ops, "log_mel", lambda w, f, out, log_mel=log_mel: (made.update({f: len(w)}), log_mel(w, f, out))[1]
        )
    made_at: Counter[int] = Counter()
    soxr_of = resampling._soxr
    monkeypatch.setattr(
        resampling, "_soxr", lambda rate, target, name: (made_at.update([target]), soxr_of(rate, target, name))[1]
    )
    both.scores([clip(n) for n in (9000, 20_000, 20_000, 9001)], sampling_rate=44_100)
    assert made_at == {16_000: 4, 32_000: 4}
    assert len(made) == 4
    assert set(made.values()) == {4}


def test_scores_of_a_regression_are_not_averaged_with_probabilities(members: dict[str, Path], tmp_path: Path) -> None:
    regression = checkpoints.write_v4(checkpoints.random_model(problem_type="regression"), tmp_path)
    with pytest.raises(CheckpointError, match="make no ensemble: the outputs of one are scores of a regression"):
        load([members["ast"], regression])
    load([regression, regression])
