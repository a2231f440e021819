"""PaSST against a transcription of its formulas: strides, hops, lengths, depth; and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import astfast
from astfast.errors import CheckpointError
from astfast.models.recognise import load
from tests.cases import centred_float64, timm_vit
from tests.cases.timm_vit import State

D, LAYERS, HEADS = 64, 2, 1
RATE = 32_000


def write(path: Path, state: State, wrapper: str = "") -> Path:
    torch.save({wrapper + name: x for name, x in state.items()}, path)
    return path


def state_of(grid: tuple[int, int], labels: int = 527, layers: int = LAYERS) -> State:
    return timm_vit.random_state(timm_vit.passt_shapes(D, layers, labels, grid), seed=sum(grid))


@pytest.fixture(scope="module")
def state() -> State:
    return state_of((12, 99))


@pytest.fixture(scope="module")
def checkpoint(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("passt") / "passt-s-kd-ap.486.pt", state)


def clip(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


def expected(state: State, wave: np.ndarray, stride: int = 10, positions: int = 99) -> np.ndarray:
    """Logits of the patches that there are positions for, [L]."""
    spectrogram = torch.from_numpy(centred_float64.passt(wave))[: positions * stride + 15]
    w = {name: x.double() for name, x in state.items()}
    return timm_vit.passt_logits(w, spectrogram[None], HEADS, stride)[0].numpy()


def relative(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(ours - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_logits_at_every_length(checkpoint: Path, state: State, backend: str) -> None:
    tagger = astfast.load(checkpoint, device="cpu", backend=backend, precision="float32")
    waves = [clip(n) for n in (1, 4801, 40_000, 330_000)]
    logits = tagger.logits(waves, sampling_rate=RATE)
    for row, wave in zip(logits, waves, strict=True):
        assert relative(row, expected(state, wave)) <= 1e-4


def test_ten_seconds_are_read_without_a_warning(checkpoint: Path, recwarn: pytest.WarningsRecorder) -> None:
    tagger = astfast.load(checkpoint, device="cpu", precision="float32")
    tagger.logits({"array": clip(320_000), "sampling_rate": RATE})
    assert not [w for w in recwarn if "used" in str(w.message)]
    assert tagger.config.num_tokens == 2 + 12 * 99
    assert tagger.labels[0] == "Speech"


@pytest.mark.parametrize(("stride", "grid"), [(12, (10, 83)), (14, (9, 71)), (16, (8, 62))])
def test_other_strides(stride: int, grid: tuple[int, int], tmp_path: Path) -> None:
    state = state_of(grid)
    tagger = astfast.load(write(tmp_path / "passt.pt", state), device="cpu", precision="float32")
    wave = clip(320_000)
    exact = expected(state, wave, stride, grid[1])
    assert relative(tagger.logits(wave, sampling_rate=RATE)[0], exact) <= 1e-4


@pytest.mark.parametrize("wrapper", ["net.", "net_swa.", "module."])
def test_seven_layers_in_a_training_checkpoint(wrapper: str, tmp_path: Path) -> None:
    state = state_of((12, 99), labels=20, layers=7)
    path = tmp_path / "passt.pt"
    torch.save({"state_dict": {wrapper + name: x for name, x in state.items()}}, path)
    names = [f"instrument {i}" for i in range(20)]
    tagger = astfast.load(path, device="cpu", precision="float32", labels=names)
    assert tagger.config.num_hidden_layers == 7
    wave = clip(40_000)
    assert relative(tagger.logits(wave, sampling_rate=RATE)[0], expected(state, wave)) <= 1e-4
    scores = tagger.scores(wave, sampling_rate=RATE)[0]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-expected(state, wave))), atol=1e-4)


def test_an_old_projection_is_a_matrix(state: State, tmp_path: Path) -> None:
    flat = state | {"patch_embed.proj.weight": state["patch_embed.proj.weight"].reshape(D, 256)}
    tagger = astfast.load(write(tmp_path / "old.pt", flat), device="cpu", precision="float32")
    wave = clip(20_000)
    assert relative(tagger.logits(wave, sampling_rate=RATE)[0], expected(state, wave)) <= 1e-4


@pytest.mark.parametrize(
    ("name", "positions", "hop"),
    [
        ("passt-s-f128-stfthop100-p16-s10-ap.473-swa.pt", 320, 100),
        ("passt-s-f128-stfthop160-p16-s10-ap.473-swa.pt", 200, 160),
        ("passt-s-f128-20sec-p16-s10-ap.474-swa.pt", 200, 320),
        ("passt-s-f128-30sec-p16-s10-ap.473-swa.pt", 300, 320),
    ],
)
def test_hops_by_name(name: str, positions: int, hop: int, tmp_path: Path) -> None:
    config = load(write(tmp_path / name, state_of((12, positions), layers=1))).config
    assert (config.front_end.hop_length, config.grid) == (hop, (12, positions))


@pytest.mark.parametrize("positions", [200, 320])
def test_a_hop_that_cannot_be_told_is_asked_for(positions: int, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.pt", state_of((12, positions), layers=1))
    with pytest.raises(CheckpointError, match=f"{positions} positions along time.*pass hop_length="):
        load(path)
    assert load(path, hop_length=160).config.front_end.hop_length == 160


def test_the_folders_name_tells_no_hop(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stfthop100"
    folder.mkdir()
    path = folder / checkpoint.name
    path.write_bytes(checkpoint.read_bytes())
    assert load(path).config.front_end.hop_length == 320


def test_what_could_be_a_maest_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.pt", state_of((9, 50), labels=20, layers=1))
    with pytest.raises(CheckpointError, match="pass time_stride=14 if it is a PaSST, time_stride=10 if it is a MAEST"):
        load(path)
    as_passt, as_maest = load(path, time_stride=14), load(path, time_stride=10, max_length=400)
    assert (as_passt.family.name, as_passt.config.time_stride) == ("PaSST", 14)
    assert (as_maest.family.name, as_maest.config.time_stride, as_maest.config.max_length) == ("MAEST", 10, 400)
    with pytest.raises(CheckpointError, match=r"\(MAEST\): leave out hop_length="):
        load(path, time_stride=10, hop_length=320)


@pytest.mark.parametrize(("labels", "columns"), [(527, 62), (527, 187), (400, 71)])
def test_labels_and_length_of_two_families_are_asked_about(labels: int, columns: int, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.pt", state_of((9, columns), labels=labels, layers=1))
    with pytest.raises(CheckpointError, match="one of each: pass time_stride=14 if it is a PaSST, time_stride=10"):
        load(path)
    assert [load(path, time_stride=stride).family.name for stride in (14, 10)] == ["PaSST", "MAEST"]


def test_scores_of_a_fine_tune_are_as_given_or_said_to_be_assumed(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.pt", state_of((12, 99), labels=50, layers=1))
    checkpoint = load(path)
    assert checkpoint.config.problem_type == "multi_label_classification"
    assert "problem_type=multi_label_classification (sigmoid scores)" in checkpoint.notes[-1]
    tagger = astfast.load(path, device="cpu", problem_type="single_label_classification", labels=map(str, range(50)))
    assert tagger.scores(np.zeros(320_000, np.float32), sampling_rate=32_000).sum() == pytest.approx(1, abs=1e-5)
    assert not any("problem_type" in note for note in load(path, problem_type="regression").notes)


def test_more_frames_than_positions_are_refused(checkpoint: Path) -> None:
    longest = load(checkpoint).config.max_length
    with pytest.raises(
        CheckpointError, match=rf"\(PaSST\) has positions for {longest} frames and not for {longest + 1}:"
    ):
        load(checkpoint, max_length=longest + 1)
    assert load(checkpoint, max_length=longest).config.max_length == longest


@pytest.mark.parametrize("name", ["dist_token", "new_pos_embed", "blocks.1.norm2.bias", "head.1.bias"])
def test_a_missing_tensor_is_named(name: str, state: State, tmp_path: Path) -> None:
    damaged = {other: x for other, x in state.items() if other != name}
    with pytest.raises(CheckpointError, match=rf"PaSST.*lacks 1 tensor: {name}"):
        load(write(tmp_path / "passt.pt", damaged))


@pytest.mark.parametrize(("constant", "value"), [("LAYER_NORM_EPS", 1e-5), ("HEAD_LAYER_NORM_EPS", 1e-6)])
def test_every_epsilon_matters(
    checkpoint: Path, state: State, constant: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"astfast.models.timm_layout.{constant}", value)
    wave = clip(20_000)
    tagger = astfast.load(checkpoint, device="cpu", backend="reference")
    assert relative(tagger.logits(wave, sampling_rate=RATE)[0], expected(state, wave)) > 3e-4


@pytest.mark.parametrize(
    ("name", "cut", "message"),
    [
        ("blocks.0.mlp.fc1.weight", (slice(None), slice(-1)), r"fc1\.weight is \[256, 63\], not \[256, 64\]"),
        ("time_new_pos_embed", (slice(None), slice(-1)), r"time_new_pos_embed is \[1, 63, 1, 99\], not"),
        ("head.0.weight", (slice(-1),), r"head\.0\.weight is \[63\], not \[64\]"),
    ],
)
def test_a_misshapen_tensor_is_named(
    name: str, cut: tuple[slice, ...], message: str, state: State, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"PaSST.*{message}"):
        load(write(tmp_path / "passt.pt", state | {name: state[name][cut]}))


def test_a_truncated_file_is_named(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    (tmp_path / "passt.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"passt\.pt"):
        load(tmp_path / "passt.pt")


def test_a_stride_that_the_positions_contradict(checkpoint: Path) -> None:
    with pytest.raises(
        CheckpointError, match="12 positions along frequency are of another stride than 12 over 128 mel"
    ):
        load(checkpoint, time_stride=12)


@pytest.mark.parametrize("wrapper", ["module.", "net."])
def test_two_models_in_one_file_are_refused(state: State, tmp_path: Path, wrapper: str) -> None:
    both = state | {wrapper + name: 2 * x for name, x in state.items()}
    with pytest.raises(CheckpointError, match=rf"has, beside those of PaSST, \d+ tensors: {wrapper}"):
        load(write(tmp_path / "passt.pt", both))
