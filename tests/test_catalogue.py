"""The catalogue of published models: names that load, and figures that follow from sizes."""

import pytest

from astfast.catalogue import HUB_IDS, MODELS
from astfast.checkpoints import sources

BY_NAME = {model.name: model for model in MODELS}


def test_names_and_ids_are_unique_and_no_paths() -> None:
    assert len(HUB_IDS) == len({model.hub_id for model in MODELS}) == len(MODELS)
    for model in MODELS:
        assert "/" not in model.name
        assert sources.HUB_ID.fullmatch(model.hub_id)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("ast-10-10", 130), ("ced-tiny", 1.6), ("ced-mini", 2.8), ("ced-small", 5.9), ("ced-base", 22.6)],
)
def test_multiply_adds_are_those_stated(name: str, billions: float) -> None:
    """Of the layers alone: the patch projection and the classifier are a few percent of the smallest."""
    macs = BY_NAME[name].macs
    assert macs is not None
    assert macs / 1e9 == pytest.approx(billions, rel=0.05)


def test_a_name_is_its_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(sources, "_hub", lambda *arguments: asked.append(arguments))
    for source in ("ced-mini", "mispeech/ced-mini"):
        sources.find(source, "abc123", None, True)
    assert asked == [("mispeech/ced-mini", "abc123", None, True)] * 2


def test_a_folder_comes_before_a_name(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ced-mini").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sources.CheckpointError, match="ced-mini"):
        sources.find("ced-mini", None, None, True)
