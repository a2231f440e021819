"""astfast.accelerate where the model is: on a GPU (marked gpu), and the same tests on a CPU. No audio file is read."""

import copy
from typing import Any

import pytest
import torch

import astfast
from tests.cases import checkpoints
from tests.fakes.places import Place, StandIn

PLACES = pytest.mark.parametrize("place", [StandIn(), pytest.param(Place(), marks=pytest.mark.gpu)], ids=["cpu", "gpu"])


@pytest.fixture
def model() -> torch.nn.Module:
    return checkpoints.random_model(seed=5)


def own(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Logits of the model's own forward."""
    with torch.no_grad():
        logits: torch.Tensor = type(model).forward(model, x).logits
    return logits


def on(place: Place, model: torch.nn.Module, dtype: torch.dtype) -> tuple[Any, torch.Tensor]:
    x = torch.from_numpy(checkpoints.spectrogram(model.config, 2))
    return copy.deepcopy(model).to(place.device, dtype), x.to(place.device, dtype)


@PLACES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_is_at_most_twice_the_models_own(place: Place, model: torch.nn.Module, dtype: torch.dtype) -> None:
    moved, x = on(place, model, dtype)
    exact = own(copy.deepcopy(model).double(), x.cpu().double())
    error = (own(moved, x).cpu().double() - exact).abs().max()
    logits = astfast.accelerate(moved)(x).logits
    assert (logits.device.type, logits.dtype) == (place.device.type, dtype)
    assert (logits.cpu().double() - exact).abs().max() <= max(2 * error, 2e-4)


@PLACES
def test_inputs_of_the_callers_stream_are_waited_for(place: Place, model: torch.nn.Module) -> None:
    moved, x = on(place, model, torch.float32)
    accelerated = astfast.accelerate(moved, precision="float32")
    expected, late = accelerated(x).logits.clone(), torch.zeros_like(x)
    place.synchronize()
    with place.stream():
        place.busy()
        late.copy_(x)
        got = accelerated(late).logits.clone()
    place.synchronize()
    assert torch.equal(got, expected)


@PLACES
def test_new_weights_are_packed_at_the_next_call(place: Place, model: torch.nn.Module) -> None:
    moved, x = on(place, model, torch.float32)
    accelerated = astfast.accelerate(moved, precision="float32")
    before = accelerated(x).logits.clone()
    with torch.no_grad():
        accelerated.classifier.dense.bias += 1.0
    torch.testing.assert_close(accelerated(x).logits, before + 1.0, rtol=0, atol=1e-4)
    assert not torch.equal(astfast.restore(accelerated)(x).logits, before)
