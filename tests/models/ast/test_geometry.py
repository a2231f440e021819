"""What a checkpoint says of itself, what a caller says instead, and what contradicts."""

import numpy as np
import pytest

from astfast.errors import CheckpointError
from astfast.models.recognise import load
from tests.cases.checkpoints import (
    edit_json,
    write_v4,
)

# Configs and overrides ------------------------------------------------------------------------------------------------


def test_overrides_of_every_field(v4):
    front_end = load(v4, mean=1, std=np.float32(2.5), sampling_rate=8000, do_normalize=False).config.front_end
    assert (front_end.mean, front_end.std, front_end.sampling_rate, front_end.do_normalize) == (1.0, 2.5, 8000, False)
    assert load(v4, num_attention_heads=2).config.num_attention_heads == 2
    assert load(v4, problem_type="multi_label_classification").config.problem_type == "multi_label_classification"
    assert load(v4, hidden_act="gelu", mean=None).config == load(v4).config


def test_labels_override(v4, tmp_path):
    names = [f"n{i}" for i in range(7)]
    assert load(v4, labels=names).config.labels == tuple(names)
    (tmp_path / "names.txt").write_text("\n".join(names))
    assert load(v4, labels=tmp_path / "names.txt").config.labels == tuple(names)
    for wrong in (names[:6], [*names, "n7"]):
        with pytest.raises(CheckpointError, match=f"7 outputs, but labels= names {len(wrong)}"):
            load(v4, labels=wrong)


def test_id2label_with_int_keys_and_without_names(model, tmp_path):
    write_v4(model, tmp_path)
    edit_json(tmp_path / "config.json", id2label=None, label2id=None)
    assert load(tmp_path).config.labels == tuple(f"LABEL_{i}" for i in range(7))
    edit_json(tmp_path / "config.json", id2label={str(i): f"n{i}" for i in range(6)})
    with pytest.raises(CheckpointError, match=r"7 outputs, but config\.json names 6"):
        load(tmp_path)


def test_unknown_keyword_names_the_known_ones():
    with pytest.raises(TypeError, match=r"unknown keyword fstride=.*frequency_stride.*time_stride"):
        load("nowhere", fstride=10)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"max_length": "512"}, "max_length .* '512': it must be an integer"),
        ({"max_length": 0}, "max_length .* 0: it must be an integer from 1 to 30000"),
        ({"max_length": 76.0}, "must be an integer"),
        ({"num_attention_heads": True}, "must be an integer"),
        ({"std": 0.0}, "std .* from 1e-06 to 1e\\+06"),
        ({"std": float("nan")}, "std .* from 1e-06 to 1e\\+06"),
        ({"mean": float("inf")}, "mean .* from -1e\\+06 to"),
        ({"layer_norm_eps": -1e-12}, "layer_norm_eps .* from 0 to 1"),
        ({"do_normalize": 1}, "true or false"),
        ({"hidden_act": "relu"}, "hidden_act .* 'relu': astfast runs erf-GELU"),
        ({"num_attention_heads": 3}, "not a multiple of num_attention_heads 3"),
        ({"max_length": 15}, "holds no patch"),
        ({"time_stride": 10}, "position embeddings for 18 patches"),
        ({"frequency_stride": 17}, "geometry makes 2 x 6"),
        ({"hidden_size": 128}, r"cls_token is \[1, 1, 64\], not \[1, 1, 128\]"),
        ({"num_hidden_layers": 4}, "lacks 16 tensors"),
        ({"num_hidden_layers": 2}, "beside those of an AST"),
    ],
)
def test_overrides_refused(v4, override, message):
    with pytest.raises(CheckpointError, match=message):
        load(v4, **override)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu", "relu", "silu"])
def test_other_activations_are_refused_by_name(model, tmp_path, activation):
    write_v4(model, tmp_path)
    edit_json(tmp_path / "config.json", hidden_act=activation)
    with pytest.raises(CheckpointError, match=f"'{activation}'"):
        load(tmp_path)


@pytest.mark.parametrize("activation", ["gelu", "gelu_python"])
def test_erf_gelu_by_either_name(model, tmp_path, activation):
    write_v4(model, tmp_path)
    edit_json(tmp_path / "config.json", hidden_act=activation)
    load(tmp_path)


def test_configs_that_contradict(model, tmp_path):
    write_v4(model, tmp_path)
    edit_json(tmp_path / "preprocessor_config.json", max_length=88)
    with pytest.raises(CheckpointError, match=r"max_length is 76 in config\.json and 88 in preprocessor"):
        load(tmp_path)
    assert load(tmp_path, max_length=76).config.max_length == 76
    edit_json(tmp_path / "config.json", model_type="wav2vec2")
    with pytest.raises(CheckpointError, match="wav2vec2"):
        load(tmp_path)
