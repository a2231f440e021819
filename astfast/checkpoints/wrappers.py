"""Names of tensors without what training code puts before them: DataParallel, torch.compile, Lightning, averages."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from astfast.checkpoints.lazy_tensor import LazyTensor
from astfast.errors import CheckpointError, brief_name, counted, listed

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")  # of DataParallel, torch.compile and Lightning modules
AVERAGES = (  # copies of the weights, averaged in training
    *("net_swa.", "swa_model.", "model_ema.", "ema_model.", "ema."),
    *("state_dict_ema.", "ema_state_dict.", "model_ema_state_dict."),
)
ADAPTERS = ("base_model.model.", ".lora_A.", ".lora_B.", ".base_layer.", ".modules_to_save.")  # of peft
DEEPEST = 8  # prefixes of one name
SMALL = 16  # elements: a tensor beside the model's that has no more is a counter, a metric or a loss's constant


class Unwrapped:
    """The tensors of the model itself, the prefix that they had, and warnings about what stood beside them."""

    def __init__(self, tensors: Mapping[str, LazyTensor], prefix: str = "", notes: tuple[str, ...] = ()) -> None:
        self.tensors, self.prefix, self.notes = tensors, prefix, notes


def unwrapped(source: str, tensors: Mapping[str, LazyTensor]) -> Unwrapped:
    """The tensors without the prefixes that all of the model's have, nested ones too.

    Beside them may stand small tensors, such as a metric's counters, and a copy of the weights averaged in training:
    they are left out, which a note says. Raises CheckpointError for adapters, and for other tensors beside the model.
    """
    if any(name.startswith(ADAPTERS[0]) or mark in name for name in tensors for mark in ADAPTERS[1:]):
        raise CheckpointError(
            f"{source} is a model with adapters that are not merged: merge them with peft, "
            "model.merge_and_unload().save_pretrained(folder), and pass that folder."
        )
    result = Unwrapped(tensors)
    for _ in range(DEEPEST):
        prefix = _wrapper(result.tensors)
        if prefix is None:
            break
        inside = {name.removeprefix(prefix): x for name, x in result.tensors.items() if name.startswith(prefix)}
        beside = {name: x for name, x in result.tensors.items() if not name.startswith(prefix)}
        notes = _notes(f"{source} under {brief_name(result.prefix + prefix)}", beside) if beside else ()
        result = Unwrapped(inside, result.prefix + prefix, (*result.notes, *notes))
    averaged = {name: x for name, x in result.tensors.items() if name.startswith(AVERAGES)}
    if averaged and len(averaged) < len(result.tensors):
        trained = {name: x for name, x in result.tensors.items() if name not in averaged}
        result = Unwrapped(trained, result.prefix, (*result.notes, *_notes(source, averaged)))
    return result


def _wrapper(tensors: Mapping[str, LazyTensor]) -> str | None:
    """The prefix of most names, if it is a wrapper's; an average's only where nothing else is there."""
    averaged = {name for name in tensors if name.startswith(AVERAGES)}
    for prefix in WRAPPERS:
        inside = sum(name.startswith(prefix) for name in tensors)
        if inside and 2 * inside > len(tensors) - len(averaged):
            return prefix
    alone = (p for p in AVERAGES if all(name.startswith(p) or not _is_matrix(x) for name, x in tensors.items()))
    return next((prefix for prefix in alone if any(name.startswith(prefix) for name in tensors)), None)


def _notes(where: str, beside: Mapping[str, LazyTensor]) -> tuple[str, ...]:
    averaged = next((prefix for prefix in AVERAGES if any(name.startswith(prefix) for name in beside)), None)
    rest = [name for name in beside if averaged is None or not name.startswith(averaged)]
    matrices = [name for name in rest if _is_matrix(beside[name])]
    if matrices:
        raise CheckpointError(
            f"{where} has a model, and beside it {counted(matrices, 'tensor')} that may belong to it: "
            f"{listed(matrices)}. Save the state dict of the model alone."
        )
    notes = []
    if averaged is not None:
        notes.append(
            f"{where} has the weights that are used; the copy averaged in training, {averaged}*, is left out: to use "
            "it, save it to a file of its own"
        )
    if rest:
        notes.append(f"{where} has the weights that are used; beside them {listed(rest)} are left out")
    return tuple(notes)


def _is_matrix(tensor: LazyTensor) -> bool:
    """Whether it may belong to a model, and is no counter, metric or statistic."""
    return len(tensor.shape) > 1 and prod(tensor.shape) > SMALL
