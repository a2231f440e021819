"""The catalogue of published models: names that load, and figures that follow from sizes."""

import re

import pytest

from astfast.catalogue import MODELS, published
from astfast.checkpoints import sources
from astfast.errors import CheckpointError
from astfast.models.passt.front_end import front_end
from astfast.ops import patch_grid
from tests.cases.dass import SMALL, random_state

BY_NAME = {model.name: model for model in MODELS}


def test_names_and_ids_are_unique_and_no_paths() -> None:
    assert len(BY_NAME) == len({model.hub_id or model.url for model in MODELS}) == len(MODELS)
    for model in MODELS:
        assert "/" not in model.name
        assert (model.hub_id is None) == (model.url is not None)
        assert model.hub_id is None or sources.HUB_ID.fullmatch(model.hub_id)
        assert published(model.name) == model
        assert model.hub_id is None or published(model.hub_id) == model
        assert model.revision is None or re.fullmatch("[0-9a-f]{40}", model.revision)
    assert published("CED-mini") == BY_NAME["ced-mini"]
    assert published("ced-giant") is None


def test_a_mistyped_name_is_told_from_the_one_that_was_meant() -> None:
    with pytest.raises(CheckpointError, match=r"`astfast models` lists \(ced-mini"):
        sources.find("CED-mni", None, None, True)
    with pytest.raises(CheckpointError, match=r"`astfast models` lists\.$"):
        sources.find("qqqq", None, None, True)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        *(("ast-10-10", 130), ("ced-tiny", 1.6), ("ced-mini", 2.8), ("ced-small", 5.9), ("ced-base", 22.6)),
        *(("passt-s-kd", 127), ("passt-s-16", 47)),
    ],
)
def test_multiply_adds_are_those_stated(name: str, billions: float) -> None:
    """Of the layers alone: the patch projection and the classifier are a few percent of the smallest."""
    macs = BY_NAME[name].macs
    assert macs is not None
    assert macs / 1e9 == pytest.approx(billions, rel=0.05)


def test_multiply_adds_of_a_dass_are_those_of_its_tensors() -> None:
    """Of every matrix and convolution at the positions of its stage; scans have no tensor, and are a few percent."""
    total = 0
    for name, tensor in random_state(SMALL).items():
        stage = re.match(r"(?:module\.)?v\.layers\.(\d)\.(\w+)", name)
        if stage is not None and tensor.ndim > 1 and "A_logs" not in name:
            positions = 256 * 32 // 4 ** (int(stage[1]) + (stage[2] == "downsample"))
            total += tensor.numel() * positions
    for size in ("small-47.2", "small-50.1"):
        assert BY_NAME[f"dass-{size}"].macs == pytest.approx(total, rel=0.1)


@pytest.mark.parametrize(
    ("file", "stride", "hop", "positions"),
    [
        *(("s10", 10, 320, 99), ("s12", 12, 320, 83), ("s14", 14, 320, 71), ("s16", 16, 320, 62)),
        *(("stfthop100", 10, 100, 320), ("stfthop160", 10, 160, 200), ("20sec", 10, 320, 200)),
    ],
)
def test_tokens_of_ten_seconds_of_passt_are_those_of_its_front_end(
    file: str, stride: int, hop: int, positions: int
) -> None:
    frames = front_end(positions * stride + 15, hop).frames_read(320_000)
    rows, columns = patch_grid(frames, 128, 16, stride, stride)
    named = [model for model in MODELS if model.url is not None and file in model.url]
    assert named
    for model in named:
        if file.startswith("s") and "hop" not in file and ("stfthop" in model.url or "sec" in model.url):
            continue
        assert model.tokens == 2 + rows * columns


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What is asked of the model hub."""
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(sources, "_hub", lambda *arguments: calls.append(arguments))
    return calls


def test_a_name_is_its_hub_id(asked: list[tuple[object, ...]]) -> None:
    for source in ("ced-mini", "mispeech/ced-mini"):
        sources.find(source, "abc123", None, True)
    assert asked == [("mispeech/ced-mini", "abc123", None, True)] * 2


def test_a_name_stands_for_the_pinned_revision_and_a_hub_id_for_the_newest(asked: list[tuple[object, ...]]) -> None:
    for source in ("ced-mini", "mispeech/ced-mini", "ced-base"):
        sources.find(source, None, None, False)
    pinned = BY_NAME["ced-mini"].revision
    assert pinned is not None
    assert asked == [
        ("mispeech/ced-mini", pinned, None, False),
        ("mispeech/ced-mini", None, None, False),
        ("mispeech/ced-base", None, None, False),
    ]


def test_a_model_that_is_not_on_the_hub_says_where_it_is(asked: list[tuple[object, ...]]) -> None:
    with pytest.raises(
        sources.CheckpointError, match=r"passt-s-kd is not on the model hub: download https://.*486\.pt"
    ):
        sources.find("passt-s-kd", None, None, False)
    assert not asked


def test_a_folder_comes_before_a_name(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ced-mini").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sources.CheckpointError, match="ced-mini"):
        sources.find("ced-mini", None, None, True)
