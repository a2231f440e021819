"""CED against a transcription of its formulas: every layout, backend and length; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import astfast
from astfast.engines.parts import whole_spectrogram
from astfast.errors import AudioError, CheckpointError
from astfast.models.recognise import load
from tests.cases import centred_float64, timm_vit
from tests.cases.timm_vit import State

D, LAYERS, LABELS, HEADS = 128, 2, 527, 2
RATE = 16_000
CONFIG = {"model_type": "ced", "name": "ced-custom", "embed_dim": D, "depth": LAYERS, "num_heads": HEADS,
          "outputdim": LABELS, "patch_size": 16, "patch_stride": 16, "target_length": 1012, "pooling": "mean",
          "n_mels": 64, "n_fft": 512, "hop_size": 160, "win_size": 512, "f_min": 0, "f_max": None, "center": True,
          "eval_avg": "mean", "pad_last": True, "qkv_bias": True, "mlp_ratio": 4.0}  # fmt: skip
EXTRACTOR = {"feature_extractor_type": "CedFeatureExtractor", "feature_size": 64, "f_max": None, "sampling_rate": RATE}


@pytest.fixture(scope="module")
def state() -> State:
    return timm_vit.random_state(timm_vit.ced_shapes(D, LAYERS, LABELS))


@pytest.fixture(scope="module")
def authors(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ced") / "audiotransformer.pt"
    extra = {
        "front_end.0.spectrogram.window": torch.zeros(512),
        "front_end.0.mel_scale.fb": torch.zeros(257, 64),
        "init_bn.1.num_batches_tracked": torch.tensor(7),
    }
    torch.save({"model": {**extra, **state}}, path)
    return path


def write_hub(folder: Path, state: State, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    tensors = {
        name if name.startswith("outputlayer") else f"encoder.{name}".replace("init_bn.1", "init_bn"): x
        for name, x in state.items()
    }
    save_file({name: x.contiguous() for name, x in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "preprocessor_config.json").write_text(json.dumps(EXTRACTOR))
    return folder


def clip(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def expected(state: State, wave: np.ndarray) -> np.ndarray:
    """Logits of the first 1012 frames of a clip, [L]."""
    w = {name: x.double() for name, x in state.items()}
    decibel = torch.from_numpy(centred_float64.ced(wave, frames=1012))
    return timm_vit.ced_logits(w, decibel[None], HEADS)[0].numpy()


def relative(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(ours - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_logits_at_every_length(authors: Path, state: State, backend: str) -> None:
    """One batch of clips of many lengths: each runs at its own, with the first positions along time."""
    tagger = astfast.load(authors, device="cpu", backend=backend, precision="float32")
    waves = [clip(n, n) for n in (1, 2400, 16_000, 16_100, 170_000, 16_001)]
    logits = tagger.logits(waves, sampling_rate=RATE)
    assert logits.shape == (len(waves), LABELS)
    for row, wave in zip(logits, waves, strict=True):
        assert relative(row, expected(state, wave)) <= 1e-4
    if backend == "cpu":
        np.testing.assert_array_equal(tagger.logits(waves[2], sampling_rate=RATE)[0], logits[2])


def test_both_layouts_give_the_same_bits(authors: Path, state: State, tmp_path: Path) -> None:
    hub = write_hub(tmp_path / "ced", state)
    wave = clip(48_000)
    first, second = (
        astfast.load(source, device="cpu", precision="float32").logits(wave, sampling_rate=RATE)
        for source in (authors, hub)
    )
    np.testing.assert_array_equal(first, second)
    assert [load(source).layout for source in (authors, hub)] == ["CED, the authors' .pt", "CED, hub"]


def test_scores_are_sigmoids_and_labels_audiosets(authors: Path, state: State) -> None:
    tagger = astfast.load(authors, device="cpu", precision="float32")
    wave = clip(48_000)
    scores = tagger.scores(wave, sampling_rate=RATE)[0]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-expected(state, wave))), atol=1e-4)
    assert tagger.labels[0] == "Speech"
    best = tagger.classify(wave, sampling_rate=RATE, top_k=1)[0]
    assert best["label"] == tagger.labels[int(scores.argmax())]


def test_windows_are_the_pieces_of_the_authors_script(authors: Path, state: State) -> None:
    """The waveform is cut every 10 s, and each piece is scored by itself; their mean is that of probabilities."""
    tagger = astfast.load(authors, device="cpu", precision="float32")
    wave = clip(320_000)
    pieces = [1 / (1 + np.exp(-expected(state, part))) for part in (wave[:160_000], wave[160_000:])]
    tags = tagger.classify(wave, sampling_rate=RATE, window=10, top_k=None)
    by_label = {tag["label"]: tag["score"] for tag in tags}
    scores = np.array([by_label[name] for name in tagger.labels])
    np.testing.assert_allclose(scores, np.mean(pieces, 0), atol=1e-4)


def scores_of_pieces(state: State, wave: np.ndarray, aggregate: str = "mean") -> np.ndarray:
    """By the rule of the authors' model: the normalised spectrogram of the clip in pieces of 1012 frames, the last one
    continued with zeros."""
    w = {name: x.double() for name, x in state.items()}
    x = torch.from_numpy(centred_float64.ced(wave, frames=10**6))
    x = (x - w["init_bn.1.running_mean"]) / (w["init_bn.1.running_var"] + 1e-5).sqrt()
    x = x * w["init_bn.1.weight"] + w["init_bn.1.bias"]
    pieces = torch.nn.functional.pad(x, (0, 0, 0, -len(x) % 1012)).view(-1, 1012, 64)
    scores = timm_vit.ced_logits_of_normalised(w, pieces, HEADS).sigmoid().numpy()
    return scores.mean(0) if aggregate == "mean" else scores.max(0)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_window_longer_than_the_model_is_scored_in_pieces_of_its_spectrogram(
    authors: Path, state: State, backend: str
) -> None:
    """With clips of one piece among them, at the first length of two, and of two full ones with silence."""
    tagger = astfast.load(authors, device="cpu", backend=backend, precision="float32")
    silent = clip(323_840)
    silent[:170_000] = 0
    waves = [clip(16_000), clip(162_177), clip(162_016), silent]
    tags = tagger.classify(waves, sampling_rate=RATE, window=60, top_k=None)
    for wave, of_wave in zip(waves, tags, strict=True):
        by_label = {tag["label"]: tag["score"] for tag in of_wave}
        ours = np.array([by_label[name] for name in tagger.labels])
        one = len(wave) <= 162_176
        exact = 1 / (1 + np.exp(-expected(state, wave))) if one else scores_of_pieces(state, wave)
        np.testing.assert_allclose(ours, exact, atol=3e-4)
    best = tagger.classify(silent, sampling_rate=RATE, window=60, top_k=1, aggregate="max")[0]
    assert best["score"] == pytest.approx(scores_of_pieces(state, silent, "max").max(), abs=3e-4)


def test_the_spectrogram_of_a_long_clip_is_whole_at_the_cuts(authors: Path) -> None:
    engine = astfast.load(authors, device="cpu", precision="float32")._lazy.get()
    front_end = engine.config.front_end
    for samples in (162_177, 163_000, 323_000, 600_123):
        wave = clip(samples)
        decibel = centred_float64.ced(wave, frames=10**6)
        exact = decibel * np.array(front_end.scale) + np.array(front_end.offset)
        found = whole_spectrogram(engine.features, wave, front_end)
        np.testing.assert_allclose(found, exact, atol=2e-4 * max(front_end.scale))


def test_without_a_window_the_first_ten_seconds_count(authors: Path) -> None:
    tagger = astfast.load(authors, device="cpu", precision="float32")
    wave = clip(320_000)
    with pytest.warns(UserWarning, match=r"only its first 10\.13 s are used: pass window="):
        tagger.classify({"array": wave, "sampling_rate": RATE})


def test_features_and_forward(authors: Path) -> None:
    tagger = astfast.load(authors, device="cpu", precision="float32")
    features = tagger.features([clip(16_000), clip(16_100)], sampling_rate=RATE)
    assert features.shape == (2, 101, 64)
    np.testing.assert_allclose(
        tagger.forward(features), tagger.logits([clip(16_000), clip(16_100)], sampling_rate=RATE), atol=1e-5
    )
    with pytest.raises(AudioError, match="spectrograms of 101 to 301 frames make no array"):
        tagger.features([clip(16_000), clip(48_000)], sampling_rate=RATE)
    for frames in (15, 1013):
        with pytest.raises(AudioError, match=r"16 to 1012 frames, 64 mel bins"):
            tagger.forward(np.zeros((1, frames, 64), np.float32))


def test_other_lengths_and_label_counts(tmp_path: Path) -> None:
    """A fine-tune with 3000 frames and five classes, named by its config."""
    state = timm_vit.random_state(timm_vit.ced_shapes(64, 1, 5, positions=187), seed=3)
    hub = write_hub(tmp_path / "fine", state, embed_dim=64, depth=1, num_heads=1, outputdim=5, target_length=3000,
                    id2label={str(i): f"class {i}" for i in range(5)})  # fmt: skip
    tagger = astfast.load(hub, device="cpu", precision="float32")
    assert tagger.labels == tuple(f"class {i}" for i in range(5))
    assert tagger.config.max_length == 3000
    wave = clip(400_000)
    w = {name: x.double() for name, x in state.items()}
    decibel = torch.from_numpy(centred_float64.ced(wave, frames=3000))
    exact = timm_vit.ced_logits(w, decibel[None], 1)[0].numpy()
    assert relative(tagger.logits(wave, sampling_rate=RATE)[0], exact) <= 1e-4
    assert load(hub, max_length=500).config.num_tokens == 4 * 31
    with pytest.raises(CheckpointError, match="positions for 3007 frames and not for 3100"):
        load(hub, max_length=3100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "token"}, "pooling in .*config.json is 'token'"),
        ({"pooling": "logit"}, "pooling"),
        ({"n_mels": 128}, "n_mels"),
        ({"hop_size": 320}, "hop_size"),
        ({"f_max": 7600}, "f_max"),
        ({"center": False}, "center"),
        ({"eval_avg": "max"}, "eval_avg"),
        ({"patch_stride": [10, 10]}, "patch_stride"),
        ({"hidden_act": "relu"}, "hidden_act in .* is 'relu'"),
        ({"depth": 12}, r"\(CED\): depth in config.json is 12, that of its tensors 2"),
        ({"outputdim": 10}, "outputdim in config.json is 10, that of its tensors 527"),
        ({"mlp_ratio": 3.0}, r"mlp_ratio in config\.json is 3\.0, that of its tensors 4"),
        ({"top_db": 80}, "top_db in .* is 80"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps in .* is 1e-05"),
        ({"name": "ced-mini"}, "name in config.json is ced-mini, a model of width 256, and its tensors are 128 wide"),
        ({"embed_dim": 192}, "embed_dim in config.json is 192, that of its tensors 128"),
    ],
    ids=str,
)
def test_what_has_no_formula_is_refused_by_name(
    state: State, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(write_hub(tmp_path / "ced", state, **change))


@pytest.mark.parametrize(
    "fields", [{"feature_extractor_type": "Other"}, {"auto_map": {"AutoFeatureExtractor": "code.Other"}}], ids=str
)
def test_another_extractor_is_refused(state: State, tmp_path: Path, fields: dict[str, object]) -> None:
    folder = write_hub(tmp_path / "ced", state)
    (folder / "preprocessor_config.json").write_text(json.dumps(EXTRACTOR | fields))
    with pytest.raises(CheckpointError, match=r"\(CED\): .* feature extractor '(code\.)?Other': astfast runs CedFeat"):
        load(folder)


def test_the_published_extractors_code_is_known(state: State, tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "ced", state)
    code = {"auto_map": {"AutoFeatureExtractor": "feature_extraction_ced.CedFeatureExtractor"}}
    (folder / "preprocessor_config.json").write_text(json.dumps(EXTRACTOR | code))
    assert load(folder).family.name == "CED"


def test_a_folder_without_its_last_layers_is_refused(state: State, tmp_path: Path) -> None:
    cut = {name: x for name, x in state.items() if not name.startswith("blocks.1.")}
    with pytest.raises(CheckpointError, match=r"\(CED\): depth in config.json is 2, that of its tensors 1"):
        load(write_hub(tmp_path / "ced", cut))


def drop(name: str) -> Callable[[State], None]:
    return lambda state: state.__delitem__(name)


def cut(name: str) -> Callable[[State], None]:
    return lambda state: state.__setitem__(name, state[name][..., :-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("blocks.1.attn.qkv.bias"), r"CED.*lacks 1 tensor: blocks\.1\.attn\.qkv\.bias"),
        (drop("freq_pos_embed"), r"lacks 1 tensor: freq_pos_embed"),
        (drop("init_bn.1.running_var"), r"lacks 1 tensor: init_bn\.1\.running_var"),
        (cut("blocks.0.mlp.fc2.weight"), r"CED.*blocks\.0\.mlp\.fc2\.weight is \[128, 511\], not \[128, 512\]"),
        (cut("init_bn.1.running_mean"), r"init_bn\.1\.running_mean is \[63\], not \[64\]"),
        (lambda state: state.update(cls_token=torch.zeros(1, 1, D)), r"has, beside those of CED, 1 tensor: cls_token"),
        (lambda state: state["init_bn.1.running_var"].neg_(), r"running_var has negative"),
    ],
)
def test_damage_is_named(state: State, tmp_path: Path, damage: Callable[[State], None], message: str) -> None:
    damaged = {name: x.clone() for name, x in state.items()}
    damage(damaged)
    torch.save(damaged, tmp_path / "ced.pt")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "ced.pt")


@pytest.mark.parametrize(
    "name", ["norm.weight", "time_pos_embed", "init_bn.running_mean", "encoder.outputlayer.1.bias"]
)
def test_a_second_tensor_of_one_name_is_refused(state: State, tmp_path: Path, name: str) -> None:
    """Without the prefix that the hub's layout gives it, or with one too many: which of both counts can't be told."""
    whole = write_hub(tmp_path / "ced", state)
    tensors = load_file(whole / "model.safetensors")
    first = tensors.get(f"encoder.{name}", tensors.get(name.removeprefix("encoder.")))
    save_file(tensors | {name: 2 * first}, whole / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"has, beside those of CED, 1 tensor: {name}"):
        load(whole)


@pytest.mark.parametrize("heads", ["4", 4.0, True, 0, -1])
def test_num_heads_that_are_no_count(state: State, tmp_path: Path, heads: object) -> None:
    with pytest.raises(CheckpointError, match=r"num_heads in config\.json is .*: it must be an integer above 0"):
        load(write_hub(tmp_path / "ced", state, num_heads=heads))


def test_names_in_label2id_alone_are_the_labels(state: State, tmp_path: Path) -> None:
    names = {f"sound {i}": i for i in reversed(range(LABELS))}
    found = load(write_hub(tmp_path / "ced", state, label2id=names))
    assert found.config.labels[:2] == ("sound 0", "sound 1")
    assert not found.notes


def test_a_pretrained_encoder_gives_embeddings(state: State, tmp_path: Path) -> None:
    torch.save({name: x for name, x in state.items() if not name.startswith("outputlayer")}, tmp_path / "mae.pt")
    tagger = astfast.load(tmp_path / "mae.pt", device="cpu", precision="float32")
    assert tagger.embed(clip(16_000), sampling_rate=RATE).shape == (1, D)
    with pytest.raises(astfast.AstfastError, match="classifier"):
        tagger.classify(clip(16_000), sampling_rate=RATE)


@pytest.mark.parametrize(
    ("constant", "value"),
    [
        ("astfast.models.timm_layout.LAYER_NORM_EPS", 1e-5),
        ("astfast.models.timm_layout.HEAD_LAYER_NORM_EPS", 1e-6),
        ("astfast.models.ced.family.BATCH_NORM_EPS", 1e-3),
        ("astfast.models.ced.family.BATCH_NORM_EPS", 1e-6),
    ],
)
def test_every_epsilon_matters(
    authors: Path, state: State, constant: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    wave = clip(16_000)
    monkeypatch.setattr(constant, value)
    tagger = astfast.load(authors, device="cpu", backend="reference")
    assert relative(tagger.logits(wave, sampling_rate=RATE)[0], expected(state, wave)) > 3e-4


def test_an_ensemble_of_clips_of_many_lengths(authors: Path, state: State, tmp_path: Path) -> None:
    """Scores of each member, averaged, whatever lengths share a batch."""
    other = timm_vit.random_state(timm_vit.ced_shapes(64, 1, LABELS), seed=9)
    torch.save(other, tmp_path / "other.pt")
    waves = [clip(n) for n in (5000, 16_000, 16_000)]
    sources = [authors, tmp_path / "other.pt"]
    both = astfast.load(sources, device="cpu", precision="float32")
    alone = [astfast.load(s, device="cpu", precision="float32").scores(waves, sampling_rate=RATE) for s in sources]
    np.testing.assert_allclose(both.scores(waves, sampling_rate=RATE), np.mean(alone, 0), atol=1e-6)
    np.testing.assert_allclose(both.scores(waves[1:], sampling_rate=RATE), np.mean(alone, 0)[1:], atol=1e-6)
