"""Prefixes that training code puts before names: stripped, nested ones too; what stands beside the model is said."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from astfast.checkpoints.lazy_tensor import zeros
from astfast.checkpoints.wrappers import unwrapped
from astfast.errors import CheckpointError
from astfast.models.recognise import load
from tests.cases.checkpoints import GEOMETRY, authors_state_dict, logits, spectrogram

NESTS = [
    "module.",
    "_orig_mod.",
    "model.",
    "net.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model._orig_mod.",
    "model.net.",
]
MODEL = {"v.cls_token": zeros(1, 1, 8), "v.norm.weight": zeros(8), "mlp_head.1.weight": zeros(5, 8)}


def under(prefix: str, tensors=None) -> dict:
    return {prefix + name: x for name, x in (tensors or MODEL).items()}


@pytest.mark.parametrize("prefix", ["", *NESTS, "net_swa.", "model_ema.module."])
def test_prefixes_of_all_names_are_stripped(prefix):
    found = unwrapped("x.pth", under(prefix))
    assert found.tensors == MODEL
    assert found.prefix == prefix
    assert not found.notes


def test_the_trained_weights_come_before_their_average():
    for averaged in ("net_swa.", "model_ema.module."):
        found = unwrapped("x.ckpt", under("net.") | under(averaged))
        assert found.tensors == MODEL
        assert found.prefix == "net."
        assert len(found.notes) == 1
        assert "averaged in training" in found.notes[0]


def test_an_average_beside_names_without_a_prefix_is_left_out():
    """Whether or not it has more tensors than what was trained."""
    for extra in ({}, {"ema.v.more": zeros(8), "ema.v.yet": zeros(8)}):
        found = unwrapped("x.safetensors", MODEL | under("ema.") | extra)
        assert found.tensors == MODEL
        assert ["the copy averaged in training, ema.*, is left out" in note for note in found.notes] == [True]


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema", "ema_state_dict"])
@pytest.mark.parametrize("under_key", ["state_dict", "model"])
def test_an_average_in_a_key_of_its_own(model, tmp_path, key, under_key):
    """As timm and DeiT keep it: said to be left out, and used where it is alone."""
    state = authors_state_dict(model)
    averaged = {name.removeprefix("module."): x + 1 for name, x in state.items()}
    how = {**GEOMETRY, "layer_norm_eps": 1e-12, "labels": [str(i) for i in range(7)]}
    torch.save({under_key: state, key: averaged, "epoch": 3}, tmp_path / "last.pth")
    loaded = load(tmp_path / "last.pth", **how)
    (note,) = loaded.notes
    assert f"the copy averaged in training, {key}.*, is left out" in note
    assert np.array_equal(np.asarray(loaded.weights.head.linear.bias), state["module.mlp_head.1.bias"].numpy())
    torch.save({key: {"module": averaged, "decay": 0.99}, "epoch": 3}, tmp_path / "ema.pth")
    alone = load(tmp_path / "ema.pth", **how)
    assert np.array_equal(np.asarray(alone.weights.head.linear.bias), averaged["mlp_head.1.bias"].numpy())
    assert not alone.notes


def test_small_tensors_beside_the_model_are_named():
    beside = {"val_acc.tp": zeros(), "mel.preemphasis_coefficient": zeros(1, 1, 2)}
    found = unwrapped("x.ckpt", under("model.") | beside)
    assert found.tensors == MODEL
    (note,) = found.notes
    assert "x.ckpt under model. has the weights that are used; beside them val_acc.tp, mel." in note
    counted = unwrapped("x.pth", under("module.") | {"n_averaged": zeros()})
    assert counted.tensors == MODEL


def test_a_classifier_beside_the_model_is_not_dropped():
    tensors = under("model.", {name: x for name, x in MODEL.items() if "head" not in name} | {"v.a": zeros(2)})
    with pytest.raises(CheckpointError, match=r"1 tensor that may belong to it: classifier\.weight\. Save the state"):
        unwrapped("x.ckpt", tensors | {"classifier.weight": zeros(5, 8)})


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.v.norm.weight",
        "v.blocks.0.attn.qkv.lora_A.default.weight",
        "v.q.base_layer.weight",
        "c.modules_to_save.x",
    ],
)
def test_adapters_are_refused(name):
    with pytest.raises(CheckpointError, match=r"x\.pth is a model with adapters .*merge_and_unload"):
        unwrapped("x.pth", {**MODEL, name: zeros(2, 2)})


def test_names_of_endless_prefixes_cost_nothing():
    found = unwrapped("x.pth", {"module." * 100_000: zeros(1)})
    assert found.prefix == "module." * 8


# Whole files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["_orig_mod.module.", "model."])
def test_a_lightning_checkpoint_is_read(model, v4, tmp_path, prefix):
    state = {prefix + name.removeprefix("module."): x for name, x in authors_state_dict(model).items()}
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5",
        "state_dict": state | {"val_acc.tp": torch.tensor(7)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(3)}}, "param_groups": []}],
        "hyper_parameters": {"lr": 1e-4, "path": tmp_path, "dtype": torch.float32, "rate": np.float64(0.5)},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "kth": np.int64(3)}},
    }
    torch.save(content, tmp_path / "last.ckpt")
    loaded = load(tmp_path / "last.ckpt", **GEOMETRY, layer_norm_eps=1e-12)
    x = spectrogram(model.config)
    assert np.array_equal(logits(loaded, x), logits(load(v4), x))
    assert ["val_acc.tp" in note for note in loaded.notes] == [True]


def test_an_ssast_is_named(tmp_path, model):
    state = {name: x.contiguous() for name, x in authors_state_dict(model).items()}
    save_file(
        state | {"module.p_input_fdim": torch.ones(1), "module.cpredlayer.0.weight": torch.ones(2, 2)},
        tmp_path / "x.safetensors",
    )
    with pytest.raises(CheckpointError, match="is an SSAST before fine-tuning"):
        load(tmp_path / "x.safetensors")
