"""``astfast.accelerate``: a transformers model keeps its class, its weights and its callers; its forward becomes ours.

Imported on demand: torch and transformers are what the caller's model is made of, and nothing else of astfast needs
this module.
"""

from __future__ import annotations

from typing import Any

import torch

from astfast import backends, notes
from astfast.checkpoints.lazy_tensor import LazyTensor
from astfast.checkpoints.sources import CheckpointFiles
from astfast.engines.base import Engine
from astfast.engines.load import engine_for
from astfast.errors import AstfastError, AudioError, BackendError, CheckpointError
from astfast.models import recognise
from astfast.notes import Note

SOURCE = "the model given to astfast.accelerate"
CURE = "astfast.restore(model) brings the model's own forward back"


def accelerate(model: Any, precision: str, threads: int | None, batch_size: int | None) -> Any:
    """See ``astfast.accelerate``."""
    from transformers import ASTForAudioClassification, ASTModel

    if isinstance(model, ASTModel):
        raise TypeError(
            "an ASTModel returns the states of all tokens, and astfast computes only the two that are read: give it an "
            "ASTForAudioClassification, or take embeddings from astfast.load(folder).embed(...)"
        )
    if not isinstance(model, ASTForAudioClassification):
        raise TypeError(f"a {type(model).__name__} can't be accelerated: pass transformers' ASTForAudioClassification")
    forward = Forward(model, precision, threads, batch_size)
    forward.engine()  # what can't be packed is an error here, not at the first call
    model.forward = forward
    return model


def restore(model: Any) -> Any:
    """See ``astfast.restore``."""
    if not isinstance(model.__dict__.get("forward"), Forward):
        raise AstfastError(f"this {type(model).__name__} is not accelerated: there is nothing to restore")
    del model.forward
    return model


class Forward:
    """What stands in the place of ``ASTForAudioClassification.forward``.

    Holds the model and the engine that its weights are packed in. A copied or pickled model takes a copy along, which
    packs the copy's weights when it is first called.
    """

    def __init__(self, model: Any, precision: str, threads: int | None, batch_size: int | None) -> None:
        self.model = model
        self.precision, self.threads, self.batch_size = precision, threads, batch_size
        self._forget()

    def _forget(self) -> None:
        self._packed: tuple[Any, Engine] | None = None  # an engine, and the ``weights_state`` that it was packed from
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        settings = ("model", "precision", "threads", "batch_size")
        return {name: getattr(self, name) for name in settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __call__(
        self,
        input_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """The arguments and the result of the model's own forward; no gradients.

        Raises AstfastError for what only the model's own forward can do, AudioError for an input of another shape.
        """
        model = self.model
        if model.training:
            if not self._warned:
                notes.show(Note("the accelerated model is in training mode and runs its own forward"))
                self._warned = True
            own = {"labels": labels, "attention_mask": attention_mask, "return_dict": return_dict, **kwargs}
            return type(model).forward(model, input_values, **own)
        self._refuse(input_values, attention_mask, kwargs)

        from transformers.modeling_outputs import SequenceClassifierOutput

        logits = self._logits(input_values)
        loss = None if labels is None else model.loss_function(labels, logits, model.config, **kwargs)
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output if (model.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _refuse(self, x: torch.Tensor | None, attention_mask: Any, kwargs: dict[str, Any]) -> None:
        config = self.model.config
        for name in ("output_hidden_states", "output_attentions"):
            if kwargs.pop(name, None) or getattr(config, name, False):
                raise AstfastError(f"an accelerated model has no {name}: {CURE}")
        if attention_mask is not None:
            raise AstfastError(f"an accelerated model takes no attention_mask, every token is seen: {CURE}")
        if torch.is_grad_enabled() and x is not None and x.requires_grad:
            raise AstfastError(
                f"an accelerated model gives no gradients of its inputs: run it in torch.no_grad(), or {CURE}"
            )
        expected = (config.max_length, config.num_mel_bins)
        if x is None or x.ndim != 3 or tuple(x.shape[1:]) != expected:
            found = "missing" if x is None else f"of shape {tuple(x.shape)}"
            raise AudioError(
                f"input_values are {found}: this model reads (batch, {expected[0]} frames, {expected[1]} mel bins), "
                "as its feature extractor returns"
            )
        if x.device != self.model.device:
            raise AudioError(f"input_values are on {x.device} and the model on {self.model.device}: move one of them")

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        """input_values [B, max_length, num_mel_bins] -> logits [B, L], of the model's dtype, on its device."""
        engine = self.engine()
        features = x.detach().to(torch.float32).contiguous()
        if x.device.type == "cuda":
            on_device: torch.Tensor = engine.forward(features)
            return on_device.to(self.model.dtype)
        return torch.from_numpy(engine.logits(features.numpy())).to(self.model.dtype)

    def engine(self) -> Engine:
        """The engine of the model's weights as they are now: packed anew where they have changed or moved."""
        state = weights_state(self.model)
        packed = self._packed
        if packed is None or packed[0] != state:
            self._packed = None  # the old engine is freed before the new one is made
            del packed
            packed = state, engine_of(self.model, self.precision, self.threads, self.batch_size)
            self._packed = packed
        return packed[1]


def weights_state(model: torch.nn.Module) -> list[tuple[int, int]]:
    """Changes with every change of the weights that torch counts: an optimizer's step, load_state_dict, ``model.to``.
    It does not count writes through ``parameter.data``."""
    modules, state = [model], []
    for module in modules:  # grows as it is walked; ``model.parameters()`` takes four times as long, at every call
        modules.extend(child for child in module._modules.values() if child is not None)
        for p in module._parameters.values():
            if p is not None:
                state.append((p.data_ptr(), 0 if p.is_inference() else p._version))
    return state


def engine_of(model: Any, precision: str, threads: int | None, batch_size: int | None) -> Engine:
    """An engine with the model's weights as they are now, on the device that the model is on."""
    devices = {str(p.device) for p in model.parameters()}
    device = devices.pop()
    if devices or torch.device(device).type not in ("cpu", "cuda"):
        raise BackendError(
            f"the model is on {', '.join(sorted({device, *devices}))}: astfast runs a model that is on one CPU or GPU. "
            "Move it with model.to(...)."
        )
    choice = backends.choose("auto", device, threads)
    if precision == "auto":
        own = str(model.dtype).removeprefix("torch.")
        precision = own if own in choice.precisions() else "float32"
    checkpoint = recognise.from_files(files_of(model))
    return engine_for(choice.open(checkpoint.config.num_attention_heads, precision), checkpoint, batch_size)


def files_of(model: Any) -> CheckpointFiles:
    """The model as if it had been read from a folder: each weight is read when a backend packs it."""

    def lazy(name: str, tensor: torch.Tensor) -> LazyTensor:
        if not tensor.is_floating_point() or tensor.itemsize < 2:
            raise CheckpointError(f"{SOURCE}: {name} is {tensor.dtype}. Give it a model that is not quantised.")
        return LazyTensor(tuple(tensor.shape), lambda: tensor.detach().to("cpu", torch.float32).numpy().copy())

    tensors = {name: lazy(name, tensor) for name, tensor in model.state_dict().items()}
    # The features come from the caller: the constants of the front end are never used.
    return CheckpointFiles(SOURCE, (), tensors, model.config.to_dict(), {"do_normalize": False})
