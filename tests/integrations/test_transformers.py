"""astfast.accelerate: a transformers model with our forward gives its own results through its own interface."""

import copy
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile
import torch
import transformers
from transformers import ASTFeatureExtractor

import astfast
from astfast.errors import AstfastError, AudioError, BackendError, CheckpointError
from tests import ROOT
from tests.cases import checkpoints
from tests.cases.plain_torch import PlainTorch

SAMPLES = ROOT / "samples"


@pytest.fixture
def model() -> torch.nn.Module:
    return checkpoints.random_model(seed=5)


def features(model: torch.nn.Module, clips: int = 2) -> torch.Tensor:
    return torch.from_numpy(checkpoints.spectrogram(model.config, clips))


def own(model: torch.nn.Module, *args, **kwargs):
    with torch.no_grad():
        return type(model).forward(model, *args, **kwargs)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"layer_norm_eps": 0.5, "qkv_bias": False},  # an epsilon that matters
        {"num_attention_heads": 2, "frequency_stride": 11, "time_stride": 7, "num_labels": 1, "num_hidden_layers": 1},
    ],
    ids=["small", "eps and no qkv bias", "one layer, one label"],
)
def test_logits_are_the_models_own(config: dict) -> None:
    model = checkpoints.random_model(seed=6, **config)
    x = features(model)
    expected = own(model, x)
    accelerated = astfast.accelerate(model)
    assert accelerated is model
    output = model(x)
    assert type(output) is type(expected)
    assert output.loss is None
    assert output.hidden_states is None
    assert output.logits.dtype == torch.float32
    assert (output.logits - expected.logits).abs().max() <= 2e-4


def test_bfloat16_model(model: torch.nn.Module) -> None:
    """Its error against float64 is at most twice that of the model's own forward in bfloat16, by ops that round alike
    on any machine, over enough clips for chance not to matter."""
    x = features(model, clips=8)
    exact = own(copy.deepcopy(model).double(), x.double()).logits
    model.bfloat16()
    with PlainTorch():
        error = (own(model, x.bfloat16()).logits.double() - exact).abs().max()
    output = astfast.accelerate(model)(x.bfloat16()).logits
    assert output.dtype == torch.bfloat16
    assert model.forward.engine().ops.precision == "bfloat16"
    assert (output.double() - exact).abs().max() <= 2 * error


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("single_label_classification", torch.tensor([3, 0])),
        ("multi_label_classification", torch.rand(2, 7).round()),
        (None, torch.tensor([6, 1])),
    ],
)
def test_loss_is_the_models_own(model: torch.nn.Module, problem_type: str | None, labels: torch.Tensor) -> None:
    model.config.problem_type = problem_type
    x = features(model)
    expected = own(model, x, labels=labels).loss
    assert astfast.accelerate(model)(x, labels=labels).loss == pytest.approx(expected.item(), abs=2e-4)


def test_tuples_where_the_model_returns_tuples(model: torch.nn.Module) -> None:
    x, labels = features(model), torch.tensor([1, 2])
    astfast.accelerate(model)
    assert len(model(x, return_dict=False)) == len(own(model, x, return_dict=False)) == 1
    assert len(model(input_values=x, labels=labels, return_dict=False)) == 2
    model.config.return_dict = False
    assert isinstance(model(x), tuple)
    assert not isinstance(model(x, return_dict=True), tuple)


def test_restore_brings_the_own_forward_back(model: torch.nn.Module) -> None:
    x = features(model)
    expected = own(model, x).logits
    assert astfast.restore(astfast.accelerate(model)) is model
    assert "forward" not in model.__dict__
    with torch.no_grad():
        assert torch.equal(model(x).logits, expected)
    with pytest.raises(AstfastError, match="not accelerated"):
        astfast.restore(model)


def test_accelerated_twice_is_accelerated_once(model: torch.nn.Module) -> None:
    astfast.restore(astfast.accelerate(astfast.accelerate(model)))
    assert "forward" not in model.__dict__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_hidden_states": True}, "output_hidden_states"),
        ({"output_attentions": True}, "output_attentions"),
        ({"attention_mask": torch.ones(2, 26)}, "attention_mask"),
    ],
)
def test_what_only_the_own_forward_can_do_names_the_cure(model: torch.nn.Module, arguments: dict, message: str) -> None:
    astfast.accelerate(model)
    with pytest.raises(AstfastError, match=rf"{message}.*astfast\.restore"):
        model(features(model), **arguments)
    model(features(model), output_hidden_states=False, output_attentions=None)


def test_hidden_states_asked_for_in_the_config_are_refused_too(model: torch.nn.Module) -> None:
    model.config.output_hidden_states = True
    with pytest.raises(AstfastError, match="output_hidden_states"):
        astfast.accelerate(model)(features(model))


def test_gradients_of_inputs_are_refused(model: torch.nn.Module) -> None:
    x = features(model).requires_grad_()
    astfast.accelerate(model)
    with pytest.raises(AstfastError, match=r"no gradients.*no_grad"):
        model(x)
    with torch.no_grad():
        assert not model(x).logits.requires_grad


def test_training_runs_the_own_forward_and_the_new_weights_are_seen(model: torch.nn.Module) -> None:
    x, labels = features(model), torch.tensor([3, 0])
    astfast.accelerate(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="training mode"):
        model(x, labels=labels).loss.backward()
    optimizer.step()
    model.eval()
    assert (model(x).logits - own(model, x).logits).abs().max() <= 2e-4


def test_loaded_weights_are_seen(model: torch.nn.Module) -> None:
    x = features(model)
    astfast.accelerate(model)
    before = model(x).logits
    engine = model.forward.engine()
    assert model.forward.engine() is engine
    model.load_state_dict(checkpoints.random_model(seed=8).state_dict())
    assert (model(x).logits - own(model, x).logits).abs().max() <= 2e-4
    assert (model(x).logits - before).abs().max() > 0.01


@pytest.mark.parametrize("shape", [(76, 48), (2, 75, 48), (2, 76, 49)])
def test_inputs_of_another_shape_are_refused(model: torch.nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(AudioError, match=r"76 frames, 48 mel bins"):
        astfast.accelerate(model)(torch.zeros(shape))


def test_missing_and_misplaced_inputs_are_refused(model: torch.nn.Module) -> None:
    astfast.accelerate(model)
    with pytest.raises(AudioError, match="missing"):
        model()
    with pytest.raises(AudioError, match="on meta and the model on cpu"):
        model(features(model).to("meta"))


def test_an_empty_batch_has_no_logits(model: torch.nn.Module) -> None:
    assert astfast.accelerate(model)(features(model)[:0]).logits.shape == (0, 7)


def test_other_models_are_refused() -> None:
    with pytest.raises(TypeError, match=r"ASTModel.*embed"):
        astfast.accelerate(checkpoints.random_model(bare=True))
    with pytest.raises(TypeError, match="Linear"):
        astfast.accelerate(torch.nn.Linear(2, 2))
    adapted = checkpoints.random_model()
    adapted.audio_spectrogram_transformer.layers[0].mlp.fc1.register_parameter(
        "lora_A", torch.nn.Parameter(torch.ones(2))
    )
    with pytest.raises(CheckpointError, match="lora_A"):
        astfast.accelerate(adapted)
    activation = checkpoints.random_model(hidden_act="relu")
    with pytest.raises(CheckpointError, match="relu"):
        astfast.accelerate(activation)
    assert "forward" not in activation.__dict__


def test_what_can_not_run_is_said_at_once(model: torch.nn.Module) -> None:
    with pytest.raises(BackendError, match="float64"):
        astfast.accelerate(model, precision="float64")
    with pytest.raises(BackendError, match="meta"):
        astfast.accelerate(model.to("meta"))


def test_precision_and_threads_are_the_engines(model: torch.nn.Module) -> None:
    ops = astfast.accelerate(model, precision="bfloat16", threads=1, batch_size=3).forward.engine().ops
    assert (ops.precision, ops.threads) == ("bfloat16", 1)
    assert model.forward.engine().batch_size == 3
    assert model(features(model)).logits.dtype == torch.float32


def test_copies_and_pickles_have_engines_of_their_own(model: torch.nn.Module) -> None:
    x = features(model)
    astfast.accelerate(model)
    expected = model(x).logits
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.forward.model is other
        assert torch.equal(other(x).logits, expected)
        with torch.no_grad():
            other.classifier.dense.bias += 1
        assert (other(x).logits - expected).min() > 0.99
    assert torch.equal(model(x).logits, expected)


def test_many_threads(model: torch.nn.Module) -> None:
    x = features(model, clips=8)
    expected = astfast.accelerate(model)(x).logits
    results: dict[int, torch.Tensor] = {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: model(x[i : i + 1]).logits})) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.cat([results[i] for i in range(8)]), expected)


def test_compiled_around(model: torch.nn.Module) -> None:
    x = features(model)
    expected = astfast.accelerate(model)(x).logits
    compiled = torch.compile(lambda x: model(x).logits.softmax(-1), backend="eager")
    assert torch.allclose(compiled(x), expected.softmax(-1), rtol=0, atol=1e-6)


def test_the_pipeline_of_transformers_on_a_real_recording() -> None:
    model = checkpoints.random_model(seed=7, max_length=200)
    extractor = ASTFeatureExtractor(num_mel_bins=48, max_length=200)
    classify = transformers.pipeline("audio-classification", model=model, feature_extractor=extractor, device="cpu")
    wave, rate = soundfile.read(SAMPLES / "dog.ogg", dtype="float32")
    clip = {"raw": wave if wave.ndim == 1 else wave.mean(axis=1), "sampling_rate": rate}
    expected = classify(dict(clip), top_k=7)
    astfast.accelerate(model)
    calls = []
    model.register_forward_hook(lambda *_: calls.append("our forward") if "forward" in model.__dict__ else None)
    got = classify(dict(clip), top_k=7)
    assert calls
    assert [tag["label"] for tag in got] == [tag["label"] for tag in expected]
    assert np.allclose([tag["score"] for tag in got], [tag["score"] for tag in expected], rtol=0, atol=1e-4)


def test_nothing_heavy_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys, astfast; astfast.accelerate, astfast.restore; print({'torch', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
