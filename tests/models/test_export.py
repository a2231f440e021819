"""`astfast convert` writes what transformers and astfast load, whole or not at all."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from astfast.errors import CheckpointError
from astfast.models.export import convert
from astfast.models.recognise import load
from tests.cases import dass
from tests.cases.checkpoints import (
    GEOMETRY,
    MEAN,
    SMALL,
    assert_close,
    edit_json,
    logits,
    random_model,
    spectrogram,
    transformers_logits,
    write_authors,
    write_v4,
)

# astfast convert ------------------------------------------------------------------------------------------------------


def test_convert_writes_what_transformers_loads(model, tmp_path):
    from transformers import ASTFeatureExtractor, ASTForAudioClassification

    path = write_authors(model, tmp_path / "ast.pth")
    notes = convert(path, tmp_path / "out" / "hf", **GEOMETRY, labels=[f"n{i}" for i in range(7)])
    assert any("head_layer_norm_eps" in note and "transformers ignores" in note for note in notes)
    folder = tmp_path / "out" / "hf"
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert list(folder.parent.iterdir()) == [folder]  # nothing staged is left
    x = spectrogram(model.config)
    theirs, info = ASTForAudioClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert theirs.config.layer_norm_eps == 1e-6
    assert theirs.config.id2label[6] == "n6"
    assert ASTFeatureExtractor.from_pretrained(folder).mean == MEAN
    original, converted = load(path, **GEOMETRY), load(folder)
    assert np.array_equal(logits(original, x), logits(converted, x))
    assert converted.config.head_layer_norm_eps == 1e-5
    theirs.classifier.layernorm.eps = 1e-5
    assert_close(logits(converted, x), transformers_logits(theirs.eval(), x))


def test_convert_round_trip_of_every_tensor(v4, tmp_path):
    assert convert(v4, tmp_path / "copy") == ()
    before, after = load_file(v4 / "model.safetensors"), load_file(tmp_path / "copy" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    convert(v4, tmp_path / "half", dtype="float16")
    half = load_file(tmp_path / "half" / "model.safetensors")
    assert all(torch.equal(before[name].half(), half[name]) for name in before)


def test_convert_bare_model(tmp_path):
    folder = write_v4(random_model(bare=True), tmp_path / "bare")
    assert convert(folder, tmp_path / "copy") == ()
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "copy" / "model.safetensors")
    assert before.keys() == after.keys()
    assert load(tmp_path / "copy").weights.head is None


def test_convert_never_overwrites_unasked(v4, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not an empty folder"):
        convert(v4, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    convert(v4, tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert load(tmp_path).config == load(v4).config
    with pytest.raises(CheckpointError, match="not an empty folder"):
        convert(v4, tmp_path / "notes.txt", force=True)
    (tmp_path / "processor_config.json").write_text('{"feature_extractor": {"mean": 1.0}}')
    with pytest.raises(
        CheckpointError, match=r"processor_config\.json would come before the preprocessor_config\.json"
    ):
        convert(v4, tmp_path, force=True)


def test_convert_that_fails_leaves_nothing(v4, tmp_path):
    state = load_file(v4 / "model.safetensors")
    state["classifier.dense.bias"][3] = 70000.0  # beyond float16
    save_file(state, tmp_path / "model.safetensors")
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((v4 / name).read_text())
    with pytest.raises(CheckpointError, match=r"classifier\.dense\.bias has values that float16 can't hold"):
        convert(tmp_path, tmp_path / "new" / "half", dtype="float16")
    assert list((tmp_path / "new").iterdir()) == []
    convert(tmp_path, tmp_path / "new" / "full")


def test_written_config_is_plain_json(v4, tmp_path):
    convert(v4, tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert config["model_type"] == "audio-spectrogram-transformer"
    assert config["id2label"]["1"] == "sound 1, b"
    assert {name: config[name] for name in SMALL if name != "num_labels"} == {
        name: value for name, value in SMALL.items() if name != "num_labels"
    }


# astfast convert of several -------------------------------------------------------------------------------------------


def test_an_average_is_the_mean_of_every_tensor(tmp_path):
    sources = [write_v4(random_model(seed=seed), tmp_path / f"epoch {seed}") for seed in range(3)]
    assert convert(sources, tmp_path / "mean") == ()
    states = [load_file(source / "model.safetensors") for source in sources]
    mean = load_file(tmp_path / "mean" / "model.safetensors")
    assert mean.keys() == states[0].keys()
    for name, values in mean.items():
        exact = torch.stack([state[name].double() for state in states]).mean(0)
        assert torch.equal(values, exact.float()), name
    assert load(tmp_path / "mean").config == load(sources[0]).config
    convert(sources[:1], tmp_path / "one")
    assert all(torch.equal(states[0][n], x) for n, x in load_file(tmp_path / "one" / "model.safetensors").items())


def test_an_average_of_a_state_space_model(tmp_path):
    tiny = dass.TINY
    sources = [dass.write_hub(dass.random_state(tiny, seed=s), tiny, tmp_path / str(s), 64, 48) for s in (1, 2)]
    convert(sources, tmp_path / "mean")
    first, second, mean = (load_file(p / "model.safetensors") for p in (*sources, tmp_path / "mean"))
    for name, values in mean.items():
        assert torch.allclose(values, ((first[name].double() + second[name].double()) / 2).float(), rtol=1e-6), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_length": 88}, r"values of front_end\.max_length \(88, 76\) differ"),
        ({"num_hidden_layers": 2}, r"values of num_hidden_layers \(2, 3\) differ"),
        ({"num_labels": 6}, r"numbers of labels \(6, 7\) differ"),
        ({"layer_norm_eps": 1e-5}, r"values of layer_norm_eps \(1e-05, 1e-12\)"),
        ({"bare": True}, r"classifiers \(one has none\)"),
    ],
)
def test_models_that_differ_are_not_averaged(change, message, v4, tmp_path):
    other = write_v4(random_model(seed=5, **change), tmp_path / "other")
    with pytest.raises(CheckpointError, match=f"other and .* can't be averaged: their {message}"):
        convert([v4, other], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
    with pytest.raises(ValueError, match="no source"):
        convert([], tmp_path / "mean")


def test_labels_that_differ_are_named_by_the_first(v4, tmp_path):
    shutil.copytree(v4, tmp_path / "other")
    names = json.loads((v4 / "config.json").read_text())["id2label"]
    edit_json(tmp_path / "other" / "config.json", id2label=names | {"3": "bark", "4": "woof"})
    with pytest.raises(CheckpointError, match=r"their values of labels\[3\] \('bark', 'sound 3, a'\) differ"):
        convert([v4, tmp_path / "other"], tmp_path / "mean")


def test_families_are_not_averaged(v4, tmp_path):
    other = dass.write_hub(dass.random_state(dass.TINY), dass.TINY, tmp_path / "dass", 64, 48)
    with pytest.raises(CheckpointError, match=r"families \(DASS, AST\) differ"):
        convert([v4, other], tmp_path / "mean")
