"""``astfast.accelerate``: a transformers model keeps its class, its weights and its callers; its forward becomes ours.

Imported on demand: torch and transformers are what the caller's model is made of, and nothing else of astfast needs
this module.
"""

from __future__ import annotations

from types import CodeType
from typing import Any

import numpy as np
import torch

from astfast import backends, notes
from astfast.checkpoints.lazy_tensor import LazyTensor, finite
from astfast.checkpoints.sources import CheckpointFiles
from astfast.checkpoints.wrappers import unwrapped
from astfast.engines.base import Engine
from astfast.engines.load import engine_for
from astfast.errors import AstfastError, AudioError, BackendError, CheckpointError, brief
from astfast.models import recognise
from astfast.models.ast.hugging_face import ERF_GELU, EXTRACTORS
from astfast.notes import Note

SOURCE = "the model given to astfast.accelerate"
CURE = "astfast.restore(model) brings the model's own forward back"
WRAPPED = "what that does is left out in evaluation until astfast.restore(model) brings it back"


def accelerate(model: Any, precision: str, threads: int | None, batch_size: int | None) -> Any:
    """See ``astfast.accelerate``."""
    from transformers import ASTForAudioClassification, ASTModel
    from transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer import ASTMLPHead

    if isinstance(model, ASTModel):
        raise TypeError(
            "an ASTModel returns the states of all tokens, and astfast computes only the two that are read: give it an "
            "ASTForAudioClassification, or take embeddings from astfast.load(folder).embed(...)"
        )
    if not isinstance(model, ASTForAudioClassification):
        raise TypeError(f"a {type(model).__name__} can't be accelerated: pass transformers' ASTForAudioClassification")
    parts = {
        model: ASTForAudioClassification,
        model.audio_spectrogram_transformer: ASTModel,
        model.classifier: ASTMLPHead,
    }
    for part, known in parts.items():
        if type(part).forward is not known.forward:
            raise TypeError(
                f"{type(part).__name__} has a forward of its own, which astfast's would replace: pass transformers' "
                f"{known.__name__}, and do in your own code what is added to it"
            )
    before = model.__dict__.get("forward")
    wrapper = before.wrapper if isinstance(before, Forward) else before
    forward = Forward(model, precision, threads, batch_size, wrapper)
    forward.engine()  # what can't be packed is an error here, not at the first call
    if wrapper is not None:
        notes.show(Note(f"the model's forward is wrapped already ({type(wrapper).__name__}): {WRAPPED}"))
    model.forward = forward
    return model


def restore(model: Any) -> Any:
    """See ``astfast.restore``."""
    forward = model.__dict__.get("forward")
    if not isinstance(forward, Forward):
        raise AstfastError(f"this {type(model).__name__} is not accelerated: there is nothing to restore")
    del model.forward
    if forward.wrapper is not None:
        model.forward = forward.wrapper
    return model


class Forward:
    """What stands in the place of ``ASTForAudioClassification.forward``.

    Holds the model, the engine that its weights are packed in, and the forward that the instance had, such as a hook of
    accelerate's. A copied or pickled model takes a copy along, which packs the copy's weights when it is first called.
    """

    def __init__(
        self, model: Any, precision: str, threads: int | None, batch_size: int | None, wrapper: Any = None
    ) -> None:
        self.model, self.wrapper = model, wrapper
        self.precision, self.threads, self.batch_size = precision, threads, batch_size
        self._forget()

    def _forget(self) -> None:
        self._packed: tuple[Any, Engine] | None = None  # an engine, and the ``weights_state`` that it was packed from
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        settings = ("model", "wrapper", "precision", "threads", "batch_size")
        return {name: getattr(self, name) for name in settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __call__(
        self,
        input_values: Any = None,
        labels: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """The arguments and the result of the model's own forward; no gradients.

        Raises AstfastError for what only the model's own forward can do, AudioError for an input of another shape.
        """
        model = self.model
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if tracing or torch.compiler.is_exporting():
            raise AstfastError(
                "an accelerated model can't be traced or exported, its forward is no graph of torch: export "
                f"astfast.integrations.torch_module.AstModule(model), or {CURE}"
            )
        if model.training:
            self._packed = None  # steps of fused optimizers change weights without torch's counting it
            if not self._warned:
                notes.show(Note("the accelerated model is in training mode and runs its own forward"))
                self._warned = True
            own = {"labels": labels, "attention_mask": attention_mask, "return_dict": return_dict, **kwargs}
            if self.wrapper is not None:
                return self.wrapper(input_values, **own)
            return type(model).forward(model, input_values, **own)
        if input_values is not None and not isinstance(input_values, torch.Tensor):
            input_values = self._tensor(input_values)
        self._refuse(input_values, attention_mask, kwargs)

        from transformers.modeling_outputs import SequenceClassifierOutput

        logits = self._logits(input_values)
        loss = None if labels is None else model.loss_function(labels, logits, model.config, **kwargs)
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output if (model.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    @property
    def __code__(self) -> CodeType:
        """torch.export looks at the signature before it calls, and is refused."""
        return type(self).__call__.__code__

    def _tensor(self, values: Any) -> torch.Tensor:
        """An array, or lists of numbers, on the model's device."""
        try:
            return torch.as_tensor(np.asarray(values, dtype=np.float32), device=self.model.device)
        except (TypeError, ValueError) as error:
            raise AudioError(f"input_values are no array of numbers: {error}. Pass a tensor.") from error

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
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.model.dtype
        if kind == "cuda":
            on_device: torch.Tensor = engine.forward(features)
            return on_device.to(dtype)
        return torch.from_numpy(engine.logits(features.numpy())).to(dtype)

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
    return engine_for(
        choice.open(checkpoint.config.num_attention_heads, precision), checkpoint, batch_size, waveforms=False
    )


def files_of(model: Any) -> CheckpointFiles:
    """The model as if it had been read from a folder: each weight is read when a backend packs it."""

    def lazy(name: str, tensor: torch.Tensor) -> LazyTensor:
        if not tensor.is_floating_point() or tensor.itemsize < 2:
            raise CheckpointError(f"{SOURCE}: {name} is {tensor.dtype}. Give it a model that is not quantised.")
        return LazyTensor(
            tuple(tensor.shape),
            lambda: finite(f"{SOURCE}: {name}", tensor.detach().to("cpu", torch.float32).numpy().copy()),
        )

    tensors = {name: lazy(name, tensor) for name, tensor in model.state_dict().items()}
    model_tensors = unwrapped(SOURCE, tensors).tensors
    # The features come from the caller: the constants of the front end are never used.
    preprocessor = {"feature_extractor_type": EXTRACTORS[0], "do_normalize": False}
    return CheckpointFiles(SOURCE, (), model_tensors, live_config(model), preprocessor)


def live_config(model: Any) -> dict[str, Any]:
    """The model's config, with what its modules really have: epsilons, activation, number of outputs.

    Raises CheckpointError for epsilons that differ between layers.
    """
    config: dict[str, Any] = model.config.to_dict()
    config.pop("architectures", None)  # the class that it had when it was saved; ``accelerate`` checks the one it has
    epsilons: dict[bool, set[float]] = {False: set(), True: set()}  # of the classifier's LayerNorm or not
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            epsilons[name.startswith("classifier.")].add(module.eps)
        activation = getattr(module, "activation_fn", None)
        if activation is not None and config["hidden_act"] in ERF_GELU and not is_erf_gelu(activation):
            config["hidden_act"] = getattr(activation, "__name__", type(activation).__name__)
    for field, found in zip(("layer_norm_eps", "head_layer_norm_eps"), epsilons.values(), strict=True):
        if len(found) > 1:
            raise CheckpointError(f"{SOURCE} has LayerNorms of different eps ({brief(sorted(found))}): give all one.")
        config.update(dict.fromkeys((field,), *found) if found else {})
    outputs = getattr(getattr(getattr(model, "classifier", None), "dense", None), "out_features", None)
    if outputs != len(config.get("id2label") or ()):  # names play no part in logits
        config["id2label"] = config["label2id"] = None
    return config


def is_erf_gelu(activation: Any) -> bool:
    """Whether a module or function is the GELU by erf, of torch or of transformers."""
    if isinstance(activation, torch.nn.GELU):
        return activation.approximate == "none"
    function = getattr(activation, "act", activation)  # of transformers' GELUActivation
    return function is torch.nn.functional.gelu or getattr(function, "__name__", "") == "_gelu_python"
