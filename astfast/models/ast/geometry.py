"""The geometry and front end of a checkpoint: from its JSON files, from the caller, or from the tensors' shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from astfast import labels as label_tables
from astfast.checkpoints.sources import CheckpointFiles
from astfast.errors import CheckpointError
from astfast.front_end import FrontEnd
from astfast.models.ast.config import ModelConfig
from astfast.models.ast.key_layouts import AstTensors, Layout

MODEL_TYPE = "audio-spectrogram-transformer"
ERF_GELU = ("gelu", "gelu_python")  # the two names that transformers has for it
# Under the names of ASTConfig and ASTFeatureExtractor. None as a default: told by the layout, or by nothing.
GEOMETRY = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "patch_size": 16,
    "frequency_stride": 10,
    "time_stride": 10,
}
MODEL_FIELDS: dict[str, Any] = {
    **GEOMETRY,
    "max_length": 1024,
    "num_mel_bins": 128,
    "layer_norm_eps": None,
    "head_layer_norm_eps": None,  # astfast's own: transformers has one epsilon for all
    "hidden_act": "gelu",
    "qkv_bias": None,
    "problem_type": None,
}
FRONT_END_FIELDS = ("sampling_rate", "num_mel_bins", "max_length", "mean", "std", "do_normalize")
KNOWN = tuple(dict.fromkeys((*MODEL_FIELDS, *FRONT_END_FIELDS)))


@dataclass(frozen=True)
class Kind:
    """What the value of a field must be."""

    words: str
    valid: Callable[[Any], bool]
    convert: Callable[[Any], Any]


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))


COUNT = Kind("an integer above 0", lambda x: isinstance(x, Integral) and not isinstance(x, bool) and int(x) >= 1, int)
FLAG = Kind("true or false", lambda x: isinstance(x, bool), bool)
STRING = Kind("a string", lambda x: isinstance(x, str), str)
EPSILON = Kind("a finite number, 0 or more", lambda x: _number(x) and x >= 0, float)
KINDS = {
    "mean": Kind("a finite number", _number, float),
    "std": Kind("a finite number above 0", lambda x: _number(x) and x > 0, float),
    "layer_norm_eps": EPSILON,
    "head_layer_norm_eps": EPSILON,
    "qkv_bias": FLAG,
    "do_normalize": FLAG,
    "hidden_act": STRING,
    "problem_type": STRING,
}  # every other field is a COUNT

# Number of labels -> mean and std of log-mel energies over AudioSet, Speech Commands V2, ESC-50 (the authors' recipes).
NORMALISATION = {527: (-4.2677393, 4.5689974), 35: (-6.845978, 5.5654526), 50: (-6.6268077, 5.358466)}
# (stride along both axes, frames) of the published checkpoints, all with 128 mel bins and patches of 16 x 16.
PUBLISHED = ((10, 1024), (12, 1024), (14, 1024), (16, 1024), (10, 512), (10, 128))
HEAD_DIM = 64  # of every published size


@dataclass(frozen=True)
class ResolvedConfig:
    """The model's config, and the grid of the position embeddings in the file where that is another one."""

    config: ModelConfig
    file_grid: tuple[int, int]


def checked_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's keywords, each of its field's type; one that is None is as good as not given.

    Raises TypeError for a keyword that is no field, CheckpointError for a value that is not of its type.
    """
    for name in overrides:
        if name not in KNOWN:
            raise TypeError(f"unknown keyword {name}=: the fields of a checkpoint are {', '.join(sorted(KNOWN))}")
    return _typed(overrides, KNOWN, "the call")


def model_fields(source: str, config_json: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The fields of a config.json, of the right types, with ASTConfig's defaults; None without a config.json.

    Raises CheckpointError for a config of another model and for what astfast can't run.
    """
    if config_json is None:
        return None
    where = f"{source}'s config.json"
    if config_json.get("model_type", MODEL_TYPE) != MODEL_TYPE:
        raise CheckpointError(f"{where} is of a {config_json['model_type']} model: astfast runs {MODEL_TYPE} models.")
    patch = config_json.get("patch_size")
    if isinstance(patch, list) and len(patch) == 2 and patch[0] == patch[1]:
        config_json = {**config_json, "patch_size": patch[0]}
    fields = MODEL_FIELDS | {"qkv_bias": True} | _typed(config_json, MODEL_FIELDS, where)
    head_dim = config_json.get("head_dim")
    if head_dim is not None and head_dim * fields["num_attention_heads"] != fields["hidden_size"]:
        raise CheckpointError(f"{where} has head_dim {head_dim!r}: astfast runs heads of hidden_size / heads only.")
    return fields


def resolve(
    files: CheckpointFiles,
    fields: Mapping[str, Any] | None,
    tensors: AstTensors,
    overrides: Mapping[str, Any],
    labels: Any,
) -> ResolvedConfig:
    """Everything that the tensors don't say, in this order: ``overrides``, the JSON files, the tensors' own shapes.

    ``fields`` is what ``model_fields`` found. Raises CheckpointError, with the keyword to pass, for what can't be told
    and for what contradicts itself.
    """
    sizes = tensors.sizes()
    try:
        front_end = _typed(files.preprocessor or {}, FRONT_END_FIELDS, "preprocessor_config.json")
        if fields is None:
            values = {**_from_shapes(sizes, tensors.num_layers, overrides), **front_end, **overrides}
            values, file_grid = _published_geometry(sizes, values, overrides)
        else:
            _check_agreement(fields, front_end, overrides)
            values = {**fields, **front_end, **overrides}
            file_grid = _grid({**values, "max_length": fields["max_length"]})
        _check_positions(sizes["T"] - 2, file_grid)
        names = _labels(sizes.get("L"), files.config, labels)
        return ResolvedConfig(_model_config(values, tensors.layout, names), file_grid)
    except CheckpointError as error:
        raise CheckpointError(f"{files.source}: {error}") from None


def _typed(values: Mapping[str, Any], fields: Iterable[str], where: str) -> dict[str, Any]:
    """Those of ``fields`` that ``values`` has (null is as good as absent), each of its type."""
    typed: dict[str, Any] = {}
    for name in fields:
        value = values.get(name)
        if value is None:
            continue
        kind = KINDS.get(name, COUNT)
        if not kind.valid(value):
            raise CheckpointError(f"{name} in {where} is {value!r}: it must be {kind.words}.")
        typed[name] = kind.convert(value)
    activation = typed.get("hidden_act", "gelu")
    if activation not in ERF_GELU:
        raise CheckpointError(f"hidden_act in {where} is {activation!r}: astfast runs erf-GELU ('gelu') only.")
    return typed


def _check_agreement(model: Mapping[str, Any], front_end: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    for name in ("max_length", "num_mel_bins"):
        if name not in overrides and front_end.get(name, model[name]) != model[name]:
            raise CheckpointError(
                f"{name} is {model[name]} in config.json and {front_end[name]} in preprocessor_config.json. "
                f"Pass {name}=."
            )


def _check_positions(patches: int, file_grid: tuple[int, int]) -> None:
    if math.prod(file_grid) != patches:
        raise CheckpointError(
            f"it has position embeddings for {patches} patches, but its geometry makes {file_grid[0]} x "
            f"{file_grid[1]}. Check max_length, num_mel_bins, frequency_stride, time_stride and patch_size."
        )


def _from_shapes(sizes: Mapping[str, int], num_layers: int, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a checkpoint without config.json has in its shapes, and the head size of all published ones."""
    hidden = sizes["D"]
    if "num_attention_heads" not in overrides and hidden % HEAD_DIM:
        raise CheckpointError(f"hidden size {hidden} makes no whole heads of {HEAD_DIM}: pass num_attention_heads=.")
    return MODEL_FIELDS | {
        "hidden_size": hidden,
        "num_hidden_layers": num_layers,
        "num_attention_heads": max(1, hidden // HEAD_DIM),
        "intermediate_size": sizes["M"],
        "patch_size": sizes["P"],
    }


def _published_geometry(
    sizes: Mapping[str, int], values: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Strides and length of a checkpoint without config.json, from what is given and the number of positions.

    Where strides, or a length, aren't given, they are those of the one published geometry that has as many patches.
    """
    patches = sizes["T"] - 2
    asked = {name: overrides[name] for name in ("frequency_stride", "time_stride", "max_length") if name in overrides}
    candidates = [
        {"frequency_stride": stride, "time_stride": stride, "max_length": frames} for stride, frames in PUBLISHED
    ]
    if len(asked) == 3:
        candidates = [asked]
    for keys in (asked, [name for name in asked if name != "max_length"]):  # a published length may be asked to change
        fitting = [
            candidate
            for candidate in candidates
            if all(candidate[name] == overrides[name] for name in keys)
            and math.prod(_grid({**values, **candidate})) == patches
        ]
        if len(fitting) == 1:
            return {**values, **fitting[0], **asked}, _grid({**values, **fitting[0]})
    if {"frequency_stride", "time_stride"} <= asked.keys():  # the length alone can't be told, or is to be changed
        rows = _grid({**values, **asked})[0]
        if "max_length" in asked and patches % rows == 0:
            return {**values, **asked}, (rows, patches // rows)
    known = ", ".join(f"{stride}/{frames}" for stride, frames in PUBLISHED)
    raise CheckpointError(
        f"{patches} position embeddings of patches fit none of the published geometries (stride/frames: {known}) as "
        "asked for: pass frequency_stride=, time_stride=, max_length= and, if it isn't 128, num_mel_bins=."
    )


def _grid(values: Mapping[str, Any]) -> tuple[int, int]:
    """(patches along mel, patches along time), as ModelConfig.grid, before there is a ModelConfig."""
    patch = values["patch_size"]
    return (
        (values["num_mel_bins"] - patch) // values["frequency_stride"] + 1,
        (values["max_length"] - patch) // values["time_stride"] + 1,
    )


def _labels(count: int | None, config_json: Mapping[str, Any] | None, given: Any) -> tuple[str, ...]:
    """Display names: given, of config.json, of the packaged table of that many, or numbered; none without a head."""
    if count is None:
        if given is not None:
            raise CheckpointError("it has no classifier: labels= has nothing to name.")
        return ()
    id2label = (config_json or {}).get("id2label")
    if given is not None:
        names = label_tables.read(given)
    elif id2label:
        names = label_tables.from_id2label(id2label, "config.json")
    elif config_json is not None:
        names = label_tables.numbered(count)  # transformers leaves out id2label where nobody named the labels
    else:
        names = label_tables.packaged(count) or label_tables.numbered(count)
    if len(names) != count:
        origin = "config.json" if given is None else "labels="
        raise CheckpointError(f"it has {count} outputs, but {origin} names {len(names)} labels. Pass labels= for all.")
    return names


def _model_config(values: Mapping[str, Any], layout: Layout, labels: tuple[str, ...]) -> ModelConfig:
    if ("mean" not in values or "std" not in values) and values.get("do_normalize", True):
        if len(labels) not in NORMALISATION:
            raise CheckpointError(
                "mean and std of the log-mel energies that it was trained on can't be told (no "
                f"preprocessor_config.json, and {len(labels)} labels are of no known data set): pass mean= and std= "
                "(AudioSet's are -4.2677393 and 4.5689974)."
            )
        mean, std = NORMALISATION[len(labels)]
        values = {"mean": mean, "std": std, **values}
    front_end = FrontEnd(**{name: values[name] for name in FRONT_END_FIELDS if name in values})
    eps = values["layer_norm_eps"]
    head_eps = values["head_layer_norm_eps"]
    return ModelConfig(
        **{name: values[name] for name in GEOMETRY},
        layer_norm_eps=layout.layer_norm_eps if eps is None else eps,
        head_layer_norm_eps=next(e for e in (head_eps, eps, layout.head_layer_norm_eps) if e is not None),
        labels=labels,
        problem_type=values["problem_type"],
        front_end=front_end,
    )
