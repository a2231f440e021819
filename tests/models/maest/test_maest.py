"""MAEST: hub folders against transformers on MAEST's features, files against a transcription; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ASTForAudioClassification, BatchFeature, pipeline
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor

import astfast
from astfast.errors import CheckpointError
from astfast.models.export import convert
from astfast.models.recognise import load
from tests.cases import centred_float64, checkpoints, timm_vit
from tests.cases.timm_vit import State

RATE = 16_000
D, LABELS, HEADS = 64, 400, 1
FRAMES = 316
EXTRACTOR = {"feature_extractor_type": "MAESTFeatureExtractor", "sampling_rate": RATE, "num_mel_bins": 96,
             "max_length": FRAMES, "n_fft": 512, "hop_length": 256, "log_compression": "logC", "do_normalize": True,
             "mean": 2.06755686098554, "std": 1.268292820667291, "padding_value": 0.0, "window": [0.5] * 512,
             "mel_fb": [[0.0] * 96] * 257}  # fmt: skip


def hub_model() -> torch.nn.Module:
    return checkpoints.random_model(
        num_mel_bins=96, max_length=FRAMES, frequency_stride=10, time_stride=10, num_labels=LABELS, layer_norm_eps=1e-6
    )


def write_hub(folder: Path) -> Path:
    checkpoints.write_v4(hub_model(), folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(EXTRACTOR))
    return folder


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return hub_model()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub(tmp_path_factory.mktemp("maest"))


def clip(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


def hub_features(wave: np.ndarray) -> np.ndarray:
    """[FRAMES, 96] as the hub's extractor pads and cuts them."""
    spectrogram = centred_float64.maest(wave, "constant")[:FRAMES]
    silence = -2.06755686098554 / (2 * 1.268292820667291)
    return np.pad(spectrogram, ((0, FRAMES - len(spectrogram)), (0, 0)), constant_values=silence)


def relative(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(ours - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_hub_folder_is_a_maest(hub: Path, model: torch.nn.Module, backend: str) -> None:
    tagger = astfast.load(hub, device="cpu", backend=backend, precision="float32")
    waves = [clip(n) for n in (1, 30_000, 90_000)]
    features = np.stack([hub_features(wave) for wave in waves])
    np.testing.assert_allclose(tagger.features(waves, sampling_rate=RATE), features, atol=1e-4)
    theirs = checkpoints.transformers_logits(model, features.astype(np.float32))
    assert relative(tagger.logits(waves, sampling_rate=RATE), theirs) <= 2e-4
    np.testing.assert_allclose(tagger.scores(waves, sampling_rate=RATE), 1 / (1 + np.exp(-theirs)), atol=1e-3)
    assert load(hub).family.name == "MAEST"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_compression": "log"}, "log_compression in .* is 'log'"),
        ({"log_compression": None}, "log_compression in .* is None"),
        ({"hop_length": 160}, "hop_length"),
        ({"do_normalize": False}, "do_normalize"),
        ({"sampling_rate": 22_050}, "sampling_rate"),
        ({"feature_extractor_type": "OtherExtractor"}, "feature extractor 'OtherExtractor'"),
        ({"auto_map": {"AutoFeatureExtractor": "code.Other"}}, r"\(MAEST\): .* feature extractor 'code\.Other'"),
        ({"feature_extractor_type": None}, "has n_fft, hop_length, log_compression, which no ASTFeatureExtractor has"),
        ({"feature_extractor_type": "ASTFeatureExtractor"}, "has n_fft, hop_length, log_compression, which no ASTF"),
        ({"max_length": 626}, "max_length is 316 in config.json and 626"),
    ],
    ids=str,
)
def test_another_extractor_is_refused_by_name(
    hub: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    for path in hub.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(EXTRACTOR | change))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_mean_and_std_are_those_of_the_folder(hub: Path, tmp_path: Path) -> None:
    for path in hub.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(EXTRACTOR | {"mean": 1.0, "std": 2.0}))
    features = astfast.load(tmp_path, device="cpu").features(np.zeros(16_000, np.float32), sampling_rate=RATE)
    np.testing.assert_allclose(features, -0.25, atol=1e-6)


def state_of(positions: int, labels: int = LABELS) -> State:
    return timm_vit.random_state(timm_vit.passt_shapes(D, 2, labels, (9, positions)), seed=positions)


def expected(state: State, wave: np.ndarray, frames: int) -> np.ndarray:
    spectrogram = torch.from_numpy(centred_float64.maest(wave))[:frames]
    return timm_vit.passt_logits({n: x.double() for n, x in state.items()}, spectrogram[None], HEADS, 10)[0].numpy()


@pytest.mark.parametrize(("positions", "frames"), [(31, 312), (62, 625)])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_authors_file(positions: int, frames: int, backend: str, tmp_path: Path) -> None:
    state = state_of(positions)
    path = tmp_path / "discogs-maest-swa.ckpt"
    torch.save({"state_dict": {f"net_swa.{n}": x for n, x in state.items()}, "epoch": 129}, path)
    tagger = astfast.load(path, device="cpu", backend=backend, precision="float32")
    assert load(path).family.name == "MAEST"
    waves = [clip(n) for n in (1, 3840, 40_000, 256 * frames - 256, 200_000)]
    logits = tagger.logits(waves, sampling_rate=RATE)
    for row, wave in zip(logits, waves, strict=True):
        assert relative(row, expected(state, wave, frames)) <= 1e-4


@pytest.mark.parametrize(("positions", "frames"), [(31, 312), (62, 625), (125, 1250), (187, 1875)])
def test_published_files_read_as_many_frames_as_they_were_trained_on(
    positions: int, frames: int, tmp_path: Path
) -> None:
    """Their positions, of frames // 10, would hold up to 9 frames more."""
    torch.save(timm_vit.random_state(timm_vit.passt_shapes(D, 1, LABELS, (9, positions))), tmp_path / "maest.ckpt")
    assert load(tmp_path / "maest.ckpt").config.max_length == frames


def test_more_frames_than_positions_are_refused(tmp_path: Path) -> None:
    """31 positions hold up to 325 frames, of which the published model reads 312."""
    torch.save(state_of(31), tmp_path / "maest.ckpt")
    assert load(tmp_path / "maest.ckpt", max_length=325).config.max_length == 325
    with pytest.raises(CheckpointError, match=r"\(MAEST\) has positions for 325 frames and not for 326:"):
        load(tmp_path / "maest.ckpt", max_length=326)


@pytest.mark.parametrize("labels", [5, LABELS])
def test_mel_bins_of_a_maest_without_an_extractor_are_refused(labels: int, tmp_path: Path) -> None:
    """A folder of MAEST's shape is no AST by default: which of the two it is, its extractor must say."""
    model = checkpoints.random_model(
        num_mel_bins=96, max_length=FRAMES, frequency_stride=10, time_stride=10, num_labels=labels
    )
    preprocessor = checkpoints.write_v4(model, tmp_path) / "preprocessor_config.json"
    assert load(tmp_path).family.name == "AST"
    checkpoints.edit_json(preprocessor, feature_extractor_type=None)
    with pytest.raises(
        CheckpointError, match=r"96 mel bins, as a MAEST is.*MAESTFeatureExtractor.*ASTFeatureExtractor"
    ):
        load(tmp_path)
    preprocessor.unlink()
    with pytest.raises(CheckpointError, match=r"\(AST\): it is of 96 mel bins, as a MAEST is"):
        load(tmp_path, mean=-4.0, std=4.0)


def test_windows_are_the_pieces_of_the_authors_code(tmp_path: Path) -> None:
    """But for the frames at a piece's ends, where a window is mirrored and the whole recording goes on."""
    state = state_of(31)
    torch.save(state, tmp_path / "maest.ckpt")
    names = [f"style {i}" for i in range(LABELS)]
    tagger = astfast.load(tmp_path / "maest.ckpt", device="cpu", precision="float32", labels=names)
    wave = clip(3 * 79_872)
    pieces = [1 / (1 + np.exp(-expected(state, part, 312))) for part in np.split(wave, 3)]
    tags = tagger.classify({"array": wave, "sampling_rate": RATE}, window=79_872 / RATE, top_k=None)
    scores = {tag["label"]: tag["score"] for tag in tags}
    np.testing.assert_allclose([scores[name] for name in names], np.mean(pieces, 0), atol=1e-4)


def test_a_file_converts_to_a_hub_folder(tmp_path: Path) -> None:
    state = state_of(31)
    torch.save(state, tmp_path / "maest.ckpt")
    notes = convert(tmp_path / "maest.ckpt", tmp_path / "hub", labels=[f"style {i}" for i in range(LABELS)])
    assert any("zeros" in note for note in notes)
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert (config["max_length"], config["num_mel_bins"]) == (FRAMES, 96)
    checkpoint = load(tmp_path / "hub")
    assert checkpoint.family.name == "MAEST"
    x = np.random.default_rng(0).standard_normal((1, FRAMES, 96)).astype(np.float32)
    w = {name: tensor.double() for name, tensor in state.items()}
    exact = timm_vit.passt_logits(w, torch.from_numpy(x).double(), HEADS, 10).numpy()
    tagger = astfast.load(tmp_path / "hub", device="cpu", backend="cpu", precision="float32")
    assert relative(tagger.forward(x), exact) <= 1e-4


def test_head_epsilons_are_those_of_the_container(hub: Path, tmp_path: Path) -> None:
    """The hub's converted checkpoints run with one epsilon, 1e-6; the authors' code has 1e-5 in the head."""
    torch.save(state_of(31), tmp_path / "maest.ckpt")
    eps = [(c.layer_norm_eps, c.head_layer_norm_eps) for c in (load(hub).config, load(tmp_path / "maest.ckpt").config)]
    assert eps == [(1e-6, 1e-6), (1e-6, 1e-5)]


@pytest.mark.parametrize(("constant", "value"), [("LAYER_NORM_EPS", 1e-5), ("HEAD_LAYER_NORM_EPS", 1e-6)])
def test_every_epsilon_matters(constant: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(31)
    torch.save(state, tmp_path / "maest.ckpt")
    monkeypatch.setattr(f"astfast.models.timm_layout.{constant}", value)
    tagger = astfast.load(tmp_path / "maest.ckpt", device="cpu", backend="reference")
    assert relative(tagger.logits(clip(40_000), sampling_rate=RATE)[0], expected(state, clip(40_000), 312)) > 3e-4


def test_a_fine_tune_has_its_own_labels_and_length(tmp_path: Path) -> None:
    """Of other lengths than any published one, and with the labels that its config names."""
    model = checkpoints.random_model(
        num_mel_bins=96, max_length=206, frequency_stride=10, time_stride=10, num_labels=5, layer_norm_eps=1e-6
    )
    folder = checkpoints.write_v4(model, tmp_path / "fine")
    (folder / "preprocessor_config.json").write_text(json.dumps(EXTRACTOR | {"max_length": 206}))
    tagger = astfast.load(folder, device="cpu", precision="float32")
    assert (len(tagger.labels), tagger.config.max_length) == (5, 206)
    wave = clip(60_000)
    features = centred_float64.maest(wave, "constant")[None, :206].astype(np.float32)
    theirs = checkpoints.transformers_logits(model, features)
    assert relative(tagger.logits(wave, sampling_rate=RATE), theirs) <= 2e-4
    state = timm_vit.random_state(timm_vit.passt_shapes(D, 1, 400, (9, 45)), seed=1)
    torch.save(state, tmp_path / "fine.ckpt")
    tagger = astfast.load(tmp_path / "fine.ckpt", device="cpu", precision="float32")
    assert tagger.config.max_length == 450
    assert relative(tagger.logits(wave, sampling_rate=RATE)[0], expected(state, wave, 450)) <= 1e-4


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("blocks.1.attn.proj.weight", None, r"MAEST.*lacks 1 tensor: blocks\.1\.attn\.proj\.weight"),
        ("new_pos_embed", None, r"MAEST.*lacks 1 tensor: new_pos_embed"),
        ("norm.bias", lambda x: x[:-1], r"MAEST.*norm\.bias is \[63\], not \[64\]"),
        ("new_pos_embed", lambda x: x[:, :1], r"MAEST.*new_pos_embed is \[1, 1, 64\], not \[1, 2, 64\]"),
        ("surplus.weight", lambda _: torch.zeros(3), r"has, beside those of MAEST, 1 tensor: surplus\.weight"),
    ],
)
def test_damage_of_a_file_is_named(
    name: str, change: Callable[[torch.Tensor], torch.Tensor] | None, message: str, tmp_path: Path
) -> None:
    state = state_of(31)
    if change is None:
        del state[name]
    else:
        state[name] = change(state.get(name, torch.zeros(1)))
    torch.save(state, tmp_path / "maest.ckpt")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "maest.ckpt")


def test_damage_of_a_folder_is_named(hub: Path, tmp_path: Path) -> None:
    for path in hub.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(hub / "model.safetensors")
    del tensors["audio_spectrogram_transformer.layernorm.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"audio_spectrogram_transformer\.layernorm\.bias"):
        load(tmp_path)
    whole = (hub / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(tmp_path)


class HubExtractor(SequenceFeatureExtractor):
    """What the hub's own code is to transformers: a class that it doesn't know, with the features of MAEST."""

    model_input_names: ClassVar[list[str]] = ["input_values"]

    def __call__(self, raw_speech: np.ndarray, **_: object) -> BatchFeature:
        features = hub_features(np.asarray(raw_speech)).astype(np.float32)
        return BatchFeature({"input_values": torch.from_numpy(features)[None]})


def test_an_accelerated_model_of_such_a_folder_takes_its_own_extractors_features(hub: Path) -> None:
    """The features come from the caller: those of MAEST give transformers' logits, alone and in its pipeline."""
    wave = clip(60_000)
    own, fast = (ASTForAudioClassification.from_pretrained(hub).eval() for _ in range(2))
    assert astfast.accelerate(fast, precision="float32") is fast
    features = torch.from_numpy(hub_features(wave)).float()[None]
    with torch.inference_mode():
        assert relative(fast(features).logits.numpy(), own(features).logits.numpy()) <= 1e-4
    extractor = HubExtractor(feature_size=1, sampling_rate=RATE, padding_value=0.0)
    tags = [
        pipeline("audio-classification", model=model, feature_extractor=extractor, device="cpu", top_k=3)(wave)
        for model in (own, fast)
    ]
    assert [tag["label"] for tag in tags[0]] == [tag["label"] for tag in tags[1]]
    assert [tag["score"] for tag in tags[1]] == pytest.approx([tag["score"] for tag in tags[0]], rel=1e-4)
    with pytest.raises(ValueError, match=r"[Uu]nrecognized feature extractor"):  # by transformers, without remote code
        pipeline("audio-classification", model=str(hub), device="cpu")
