"""Models as people have them when they accelerate: trained, wrapped, changed, subclassed, traced, saved."""

import copy
import functools
import io

import numpy as np
import pytest
import torch
from transformers import ASTForAudioClassification

import astfast
from astfast.errors import AstfastError, AudioError, CheckpointError
from astfast.integrations.torch_module import AstModule
from tests.cases import checkpoints


@pytest.fixture
def model() -> torch.nn.Module:
    return checkpoints.random_model(seed=5)


def features(model: torch.nn.Module, clips: int = 2) -> torch.Tensor:
    return torch.from_numpy(checkpoints.spectrogram(model.config, clips))


def own(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return type(model).forward(model, x).logits


def off(model: torch.nn.Module, x: torch.Tensor) -> float:
    """Largest difference of the accelerated logits from the model's own."""
    return float((model(x).logits - own(model, x)).abs().max())


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
def test_steps_of_any_optimizer_are_seen(model, fused):
    """A fused optimizer, the Trainer's default, writes weights without torch counting it."""
    x, labels = features(model), torch.tensor([3, 0])
    astfast.accelerate(model)
    before = model(x).logits
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=fused)
    for _ in range(2):  # epochs, with an evaluation after each
        model.train()
        model(x, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        assert off(model, x) <= 2e-4
    assert (model(x).logits - before).abs().max() > 0.1


def test_a_loss_in_evaluation_has_no_gradient(model):
    loss = astfast.accelerate(model)(features(model), labels=torch.tensor([1, 2])).loss
    assert not loss.requires_grad


# Wrappers and subclasses ----------------------------------------------------------------------------------------------


def test_a_wrapped_forward_is_given_back(model):
    hook = model.forward = functools.partial(model.forward)
    with pytest.warns(UserWarning, match=r"wrapped already \(partial\)"):
        astfast.accelerate(model)
    with pytest.warns(UserWarning, match="wrapped already"):
        astfast.accelerate(model)  # twice
    assert astfast.restore(model).__dict__["forward"] is hook


def test_training_goes_through_the_wrapper(model):
    calls = []
    forward = model.forward
    model.forward = lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs)
    with pytest.warns(UserWarning, match="wrapped already"):
        astfast.accelerate(model)
    model.train()
    with pytest.warns(UserWarning, match="training mode"):
        model(features(model))
    assert calls == [1]


class Calibrated(ASTForAudioClassification):
    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits / 2.5
        return out


class Renamed(ASTForAudioClassification):
    pass


def test_a_subclass_with_a_forward_of_its_own_is_refused(model):
    with pytest.raises(TypeError, match="Calibrated has a forward of its own"):
        astfast.accelerate(Calibrated(model.config).eval())
    renamed = Renamed(model.config).eval()
    assert off(astfast.accelerate(renamed), features(model)) <= 2e-4


def test_an_encoder_with_a_forward_of_its_own_is_refused(model):
    class Encoder(type(model.audio_spectrogram_transformer)):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    model.audio_spectrogram_transformer.__class__ = Encoder
    with pytest.raises(TypeError, match="Encoder has a forward of its own"):
        astfast.accelerate(model)


# Changed modules ------------------------------------------------------------------------------------------------------


def test_epsilons_of_the_live_modules_count(model):
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 0.3 if name.startswith("classifier") else 0.1
    x = features(model)
    assert off(astfast.accelerate(model), x) <= 2e-4
    next(m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)).eps = 0.2
    with pytest.raises(CheckpointError, match=r"different eps \(\[0\.1, 0\.2\]\)"):
        astfast.accelerate(model)


@pytest.mark.parametrize("activation", [torch.nn.ReLU(), torch.nn.GELU(approximate="tanh")])
def test_another_activation_in_one_layer_is_refused(model, activation):
    model.audio_spectrogram_transformer.layers[1].mlp.activation_fn = activation
    with pytest.raises(CheckpointError, match=rf"hidden_act .*{type(activation).__name__}"):
        astfast.accelerate(model)
    model.audio_spectrogram_transformer.layers[1].mlp.activation_fn = torch.nn.GELU()
    astfast.accelerate(model)


def test_a_new_classifier_of_another_width(model):
    model.classifier.dense = torch.nn.Linear(64, 5)
    x = features(model)
    assert astfast.accelerate(model)(x).logits.shape == (2, 5)
    assert off(model, x) <= 2e-4


def test_weights_that_are_not_finite_are_named(model):
    with torch.no_grad():
        model.classifier.dense.weight[0, 0] = np.nan
    with pytest.raises(CheckpointError, match=r"accelerate: classifier\.dense\.weight has values that are NaN"):
        astfast.accelerate(model)


# Inputs ---------------------------------------------------------------------------------------------------------------


def test_arrays_and_lists(model):
    x = features(model)
    expected = astfast.accelerate(model)(x).logits
    assert torch.equal(model(x.numpy()).logits, expected)
    assert torch.equal(model(x.double().numpy()).logits, expected)
    assert torch.equal(model(x.tolist()).logits, expected)
    for wrong in ("dog.wav", [[1.0], [1.0, 2.0]], {"a": 1}):
        with pytest.raises(AudioError, match="input_values"):
            model(wrong)


def test_autocast_gives_its_dtype(model):
    x = features(model)
    astfast.accelerate(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).logits.dtype == own(model, x).dtype == torch.bfloat16


# Tracing and saving ---------------------------------------------------------------------------------------------------


def test_tracing_names_the_module_to_export(model):
    x = features(model)
    astfast.accelerate(model)
    with pytest.raises(AstfastError, match=r"AstModule\(model\)"):
        torch.jit.trace(model, (x,), check_trace=False)
    with pytest.raises(AstfastError, match=r"AstModule\(model\)"):
        torch.export.export(model, (x,))


def test_a_module_of_a_bare_model_is_refused():
    with pytest.raises(CheckpointError, match="has no classifier"):
        AstModule(checkpoints.random_model(bare=True))


def test_saved_and_loaded_as_before(model, tmp_path):
    """As transformers' test_save_load and test_torch_save_load."""
    x = features(model)
    expected = astfast.accelerate(model)(x).logits
    model.save_pretrained(tmp_path)
    again = ASTForAudioClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(astfast.accelerate(again)(x).logits, expected)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    other = checkpoints.random_model(seed=9)
    astfast.accelerate(other).load_state_dict(torch.load(io.BytesIO(file.getvalue())))
    assert torch.equal(other(x).logits, expected)


def test_one_by_one_as_in_a_batch_and_the_same_each_time(model):
    """As transformers' test_batching_equivalence and test_determinism."""
    x = features(model, clips=5)
    batch = astfast.accelerate(model)(x).logits
    assert torch.equal(model(x).logits, batch)
    assert torch.allclose(torch.cat([model(clip[None]).logits for clip in x]), batch, rtol=0, atol=1e-5)


def test_a_copy_is_restored_by_itself(model):
    astfast.accelerate(model)
    other = copy.deepcopy(model)
    astfast.restore(other)
    assert "forward" not in other.__dict__
    assert "forward" in model.__dict__
