"""Ensembles across families: the mean of the members' own scores, whatever each hears and at which rate."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import astfast
from astfast.engines import ensemble
from astfast.front_end import FrontEnd
from astfast.resampling import at_rate
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
    assert both._lazy.get().sampling_rate == rate
    alone = [load(members[name]).scores(waves, sampling_rate=rate).astype(np.float64) for name in names]
    np.testing.assert_allclose(both.scores(waves, sampling_rate=rate), np.mean(alone, 0), atol=2e-7)
    best = both.classify(waves[0], sampling_rate=rate, top_k=1)[0]
    assert best["label"] == LABELS[int(np.mean(alone, 0)[0].argmax())]


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_windows_longer_than_a_member_hears(aggregate: str, members: dict[str, Path]) -> None:
    names = ("passt", "ced", "maest")  # 10.05 s, 10.13 s, 5 s
    both = load([members[name] for name in names])
    wave = clip(12 * 32_000)
    how = {"sampling_rate": 32_000, "window": 12.0, "top_k": None, "aggregate": aggregate}
    alone = [{tag["label"]: tag["score"] for tag in load(members[name]).classify(wave, **how)} for name in names]
    for tag in both.classify(wave, **how):
        assert tag["score"] == pytest.approx(np.mean([each[tag["label"]] for each in alone]), abs=2e-7)


def test_a_file_at_another_rate(members: dict[str, Path], tmp_path: Path) -> None:
    """Resampled to 32 kHz and from there to 16 kHz: close to what a member hears that reads the file alone."""
    soundfile.write(tmp_path / "clip.wav", clip(44_100, 44_100), 44_100, subtype="FLOAT")
    both = load([members["passt"], members["ced"]])
    alone = [load(members[name]).scores(str(tmp_path / "clip.wav")) for name in ("passt", "ced")]
    np.testing.assert_allclose(both.scores(str(tmp_path / "clip.wav")), np.mean(alone, 0), atol=2e-3)


def test_each_front_end_and_rate_is_computed_once(members: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two CEDs have statistics of their own, and so front ends; the same one twice has one; two at 16 kHz share a
    resampled clip."""
    both = load([members["passt"], members["ced"], members["ced"], members["other-ced"], members["maest"]])
    engine = both._lazy.get()
    made: Counter[FrontEnd] = Counter()
    for member in engine.members:
        log_mel = member.ops.log_mel
        monkeypatch.setattr(
            member.ops, "log_mel", lambda w, f, out, log_mel=log_mel: (made.update({f: len(w)}), log_mel(w, f, out))[1]
        )
    resampled: Counter[int] = Counter()

    def counted(wave: np.ndarray, rate: int, target: int) -> np.ndarray:
        resampled[target] += 1
        return at_rate(wave, rate, target)

    monkeypatch.setattr(ensemble, "at_rate", counted)
    engine.scores([clip(n) for n in (9000, 20_000, 20_000, 9001)])
    assert resampled == {16_000: 4}
    assert len(made) == 4
    assert set(made.values()) == {4}
