"""config.json and preprocessor_config.json of an AST in Hugging Face layout: their fields, read and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from astfast.errors import CheckpointError, brief
from astfast.front_end import KaldiFbank
from astfast.models.fields import FORMULA, VARIANTS, refuse_null, refuse_other_classes, refuse_other_values, typed
from astfast.models.vit_config import VitConfig

OTHER_FAMILIES = ("MAESTFeatureExtractor",)  # feature extractors of ASTs that are read by another family
EXTRACTORS = ("ASTFeatureExtractor",)  # whose formula KaldiFbank is
PREPROCESSOR = "preprocessor_config.json"
# What torchaudio.compliance.kaldi.fbank is called with: fields that may say so.
OF_KALDI: dict[str, tuple[Any, ...]] = {
    "dither": (0,),
    "frame_length": (25,),
    "frame_shift": (10,),
    "window_type": ("hanning",),
    "htk_compat": (True,),
    "use_energy": (False,),
}
MODEL_TYPE = "audio-spectrogram-transformer"
CLASSES = ("ASTForAudioClassification", "ASTModel", "ASTConfig")  # of transformers
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
MELS_OF_MAEST = 96  # the only published AST-shaped models of so many are MAESTs
CONFIG_FIELDS = (*MODEL_FIELDS, *VARIANTS, "head_dim")  # all that is read of a config.json
FRONT_END_FIELDS = ("sampling_rate", "num_mel_bins", "max_length", "mean", "std", "do_normalize")
FIELDS = tuple(dict.fromkeys((*MODEL_FIELDS, *FRONT_END_FIELDS)))


def checked_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of a caller (of FIELDS), each of its field's type; one that is None is as good as not given.

    Raises CheckpointError for a value that is not of its type.
    """
    return _checked(overrides, FIELDS, "the call")


def model_fields(source: str, config_json: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The fields of a config.json, of the right types, with ASTConfig's defaults; None without a config.json.

    Raises CheckpointError for a config of another model and for what astfast can't run.
    """
    if config_json is None:
        return None
    where = f"{source}'s config.json"
    if config_json.get("model_type", MODEL_TYPE) != MODEL_TYPE:
        raise CheckpointError(
            f"{where} is of a {brief(config_json['model_type'])} model: astfast runs {MODEL_TYPE} models."
        )
    refuse_other_classes(config_json, (*CLASSES, *EXTRACTORS, *OTHER_FAMILIES), where, "an AST")
    refuse_other_values(config_json, VARIANTS, where, "an AST")
    refuse_null(
        config_json, (*GEOMETRY, "max_length", "num_mel_bins", "layer_norm_eps", "hidden_act", "qkv_bias"), where
    )
    patch = config_json.get("patch_size")
    if isinstance(patch, list) and len(patch) == 2 and patch[0] == patch[1]:
        config_json = {**config_json, "patch_size": patch[0]}
    fields = MODEL_FIELDS | {"qkv_bias": True} | _checked(config_json, MODEL_FIELDS, where)
    head_dim = typed(config_json, ["head_dim"], where).get("head_dim")
    if head_dim is not None and head_dim * fields["num_attention_heads"] != fields["hidden_size"]:
        raise CheckpointError(f"{where} has head_dim {head_dim}: astfast runs heads of hidden_size / heads only.")
    return fields


def front_end_fields(preprocessor: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a preprocessor_config.json, of the right types.

    Raises CheckpointError for a value of another type, and for a feature extractor of another formula.
    """
    refuse_other_extractors(preprocessor or {}, EXTRACTORS, elsewhere=OTHER_FAMILIES)
    foreign = [
        name
        for name, value in (preprocessor or {}).items()
        if name in FORMULA and value is not None and value not in OF_KALDI.get(name, ())
    ]
    if foreign:
        raise CheckpointError(
            f"{PREPROCESSOR} has {', '.join(foreign)}, which no {EXTRACTORS[0]} has: correct its "
            f'"feature_extractor_type" ({OTHER_FAMILIES[0]} for a MAEST), or leave the field out if it is one.'
        )
    refuse_null(preprocessor or {}, ("sampling_rate", "num_mel_bins", "max_length", "do_normalize"), PREPROCESSOR)
    return typed(preprocessor or {}, FRONT_END_FIELDS, PREPROCESSOR)


def refuse_likely_maest(preprocessor: Mapping[str, Any] | None, num_mel_bins: int) -> None:
    """Raises CheckpointError for a model of MAEST's mel bins whose files don't say whether it is one: another front end
    than an AST's would go unnoticed."""
    if num_mel_bins == MELS_OF_MAEST and (preprocessor or {}).get("feature_extractor_type") is None:
        raise CheckpointError(
            f"it is of {num_mel_bins} mel bins, as a MAEST is, and no {PREPROCESSOR} beside it names the feature "
            f'extractor: add one with "feature_extractor_type" {OTHER_FAMILIES[0]} or {EXTRACTORS[0]}.'
        )


def refuse_other_extractors(
    preprocessor: Mapping[str, Any],
    known: Iterable[str],
    published_as_code: Iterable[str] = (),
    elsewhere: Iterable[str] = (),
) -> None:
    """Raises CheckpointError for a feature extractor that isn't one of ``known``, or is code of the checkpoint but for
    a class of those ``published_as_code``. The message also names those that make a model one of ``elsewhere``."""
    extractor = preprocessor.get("feature_extractor_type")
    auto_map = preprocessor.get("auto_map")
    code = auto_map.get("AutoFeatureExtractor") if isinstance(auto_map, Mapping) else None
    if code is not None and str(code).rpartition(".")[2] not in published_as_code:
        extractor = code
    if extractor is not None and extractor not in known:
        raise CheckpointError(
            f"preprocessor_config.json has the feature extractor {brief(extractor)}: astfast runs "
            f"{', '.join((*known, *elsewhere))}. "
            "Compute the features with its own code and pass them to forward()."
        )


def config_json(config: VitConfig) -> dict[str, Any]:
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


def preprocessor_json(front_end: KaldiFbank) -> dict[str, Any]:
    """Contents of preprocessor_config.json."""
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        **{name: getattr(front_end, name) for name in FRONT_END_FIELDS},
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _checked(values: Mapping[str, Any], fields: Iterable[str], where: str) -> dict[str, Any]:
    found = typed(values, fields, where)
    activation = found.get("hidden_act", "gelu")
    if activation not in ERF_GELU:
        raise CheckpointError(f"hidden_act in {where} is {brief(activation)}: astfast runs erf-GELU ('gelu') only.")
    return found
