"""config.json and preprocessor_config.json of an AST in Hugging Face layout: their fields, read and written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

from astfast.errors import CheckpointError
from astfast.models.ast.config import AstConfig

MODEL_TYPE = "audio-spectrogram-transformer"
ERF_GELU = ("gelu", "gelu_python")  # the two names that transformers has for it
# Defaults under the names of ASTConfig and ASTFeatureExtractor. None: the layout's default, or none.
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
FIELDS = tuple(dict.fromkeys((*MODEL_FIELDS, *FRONT_END_FIELDS)))


class FieldType(NamedTuple):
    """Type of a field of a JSON file or of a keyword."""

    words: str
    valid: Callable[[Any], bool]
    convert: Callable[[Any], Any]


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))


COUNT = FieldType(
    "an integer above 0", lambda x: isinstance(x, Integral) and not isinstance(x, bool) and int(x) >= 1, int
)
FLAG = FieldType("true or false", lambda x: isinstance(x, bool), bool)
STRING = FieldType("a string", lambda x: isinstance(x, str), str)
EPSILON = FieldType("a finite number, 0 or more", lambda x: _number(x) and x >= 0, float)
TYPES = {
    "mean": FieldType("a finite number", _number, float),
    "std": FieldType("a finite number above 0", lambda x: _number(x) and x > 0, float),
    "layer_norm_eps": EPSILON,
    "head_layer_norm_eps": EPSILON,
    "qkv_bias": FLAG,
    "do_normalize": FLAG,
    "hidden_act": STRING,
    "problem_type": STRING,
}  # every other field is a COUNT


def checked_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of a caller (of FIELDS), each of its field's type; one that is None is as good as not given.

    Raises CheckpointError for a value that is not of its type.
    """
    return _typed(overrides, FIELDS, "the call")


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


def front_end_fields(preprocessor: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a preprocessor_config.json, of the right types; CheckpointError for a value of another."""
    return _typed(preprocessor or {}, FRONT_END_FIELDS, "preprocessor_config.json")


def config_json(config: AstConfig) -> dict[str, Any]:
    """Contents of config.json, without the type of the weights; a config without labels is that of a bare ASTModel."""
    has_head = config.num_labels > 0
    content: dict[str, Any] = {
        "architectures": ["ASTForAudioClassification" if has_head else "ASTModel"],
        "model_type": MODEL_TYPE,
        **{name: getattr(config, name) for name in GEOMETRY},
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": config.layer_norm_eps,
        "head_layer_norm_eps": config.head_layer_norm_eps,
        "max_length": config.max_length,
        "num_mel_bins": config.num_mel_bins,
    }
    if has_head:
        content["id2label"] = {str(index): name for index, name in enumerate(config.labels)}
        content["label2id"] = {name: index for index, name in enumerate(config.labels)}
    if config.problem_type is not None:
        content["problem_type"] = config.problem_type
    return content


def preprocessor_json(config: AstConfig) -> dict[str, Any]:
    """Contents of preprocessor_config.json."""
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        **{name: getattr(config.front_end, name) for name in FRONT_END_FIELDS},
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _typed(values: Mapping[str, Any], fields: Iterable[str], where: str) -> dict[str, Any]:
    """Those of ``fields`` that ``values`` has (null is as good as absent), each of its type."""
    typed: dict[str, Any] = {}
    for name in fields:
        value = values.get(name)
        if value is None:
            continue
        field_type = TYPES.get(name, COUNT)
        if not field_type.valid(value):
            raise CheckpointError(f"{name} in {where} is {value!r}: it must be {field_type.words}.")
        typed[name] = field_type.convert(value)
    activation = typed.get("hidden_act", "gelu")
    if activation not in ERF_GELU:
        raise CheckpointError(f"hidden_act in {where} is {activation!r}: astfast runs erf-GELU ('gelu') only.")
    return typed
