"""config.json and preprocessor_config.json of a DASS on the hub: their fields, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from astfast.errors import CheckpointError, brief
from astfast.models.ast.hugging_face import FRONT_END_FIELDS, OF_KALDI, refuse_other_extractors
from astfast.models.dass.config import DassConfig
from astfast.models.fields import FORMULA, VARIANTS, refuse_null, refuse_other_classes, refuse_other_values, typed

MODEL_TYPE = "dass"
PATCH_SIZE = 4  # of the stem: two convolutions of stride 2
CLASSES = ("DASSForAudioClassification", "DASSModel", "DASSConfig")
# Field -> the values that it may have, under the names of VMamba's options too; absent or null is as good.
KNOWN: dict[str, tuple[Any, ...]] = VARIANTS | {
    "patch_size": (PATCH_SIZE,),
    "in_chans": (1,),
    "num_channels": (1,),
    "hidden_act": ("gelu",),
    "mlp_act_layer": ("gelu",),
    "ssm_act_layer": ("silu",),
    "ssm_d_state": (1,),
    "ssm_dt_rank": ("auto",),
    "ssm_ratio": (1,),
    "ssm_conv": (3,),
    "ssm_conv_bias": (False,),
    "forward_type": ("v05_noz",),
    "gmlp": (False,),
    "norm_layer": ("ln2d", "LN2D"),
    "layer_norm_eps": (1e-5,),
    "patch_norm": (True,),
    "posembed": (False,),
    "patchembed_version": ("v2",),
    "downsample_version": ("v3",),
    "init_bn": (False,),
}
# All that its config.json may have.
CONFIG_FIELDS = (*KNOWN, "max_length", "num_mel_bins", "depths", "dims", "embed_dim", "num_classes", "mlp_ratio")
EXTRACTORS = ("DASSFeatureExtractor", "ASTFeatureExtractor")  # one formula under two names
LENGTH, MELS = 1024, 128  # DASSConfig's defaults


def model_fields(source: str, config_json: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a config.json that it has, of the right types; none without a config.json.

    Raises CheckpointError for what astfast can't run.
    """
    if config_json is None:
        return {}
    where = f"{source}'s config.json"
    refuse_other_classes(config_json, (*CLASSES, *EXTRACTORS), where, "a DASS")
    refuse_other_values(config_json, KNOWN, where, "a DASS")
    refuse_null(config_json, ("max_length", "num_mel_bins"), where)
    fields = typed(config_json, ("max_length", "num_mel_bins", "problem_type"), where)
    for name in ("depths", "dims"):
        sizes = config_json.get(name)
        if sizes is None:
            continue
        if not isinstance(sizes, list) or not sizes or not all(type(size) is int and size > 0 for size in sizes):
            raise CheckpointError(f"{name} in {where} is {brief(sizes)}: it must be a list of integers above 0.")
        fields[name] = tuple(sizes)
    if "depths" in fields and len(fields.get("dims", fields["depths"])) != len(fields["depths"]):
        raise CheckpointError(f"{where} has {len(fields['depths'])} depths and {len(fields['dims'])} dims: as many.")
    return fields


def check_sizes(config_json: Mapping[str, Any] | None, config: DassConfig) -> None:
    """Raises CheckpointError where the tensors, whose sizes ``config`` has, are of others than config.json says."""
    sizes = {
        "embed_dim": config.dims[0],
        "num_classes": config.num_labels,
        "mlp_ratio": config.mlp_dims[0] / config.dims[0],
    }
    for name, size in sizes.items():
        said = (config_json or {}).get(name)
        if said is not None and said != size and not (name == "num_classes" and not config.num_labels):
            raise CheckpointError(
                f"{name} in config.json is {brief(said)}, that of its tensors {size:g}. Check that the file is whole "
                "and its config.json its own."
            )


def front_end_fields(
    fields: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The front end's fields: given by a caller, else of the JSON files, else the defaults of length and mel bins.

    Raises CheckpointError for a feature extractor of another formula and for files that contradict each other.
    """
    refuse_other_extractors(preprocessor or {}, EXTRACTORS, EXTRACTORS[:1])
    refuse_other_values(preprocessor, dict.fromkeys(FORMULA, ()) | OF_KALDI, "preprocessor_config.json", "a DASS")
    front_end = typed(preprocessor or {}, FRONT_END_FIELDS, "preprocessor_config.json")
    for name, default in (("max_length", LENGTH), ("num_mel_bins", MELS)):
        if name not in given and name in front_end and front_end[name] != fields.get(name, front_end[name]):
            raise CheckpointError(
                f"{name} is {fields[name]} in config.json and {front_end[name]} in preprocessor_config.json. Pass "
                f"{name}=."
            )
        front_end.setdefault(name, fields.get(name, default))
    return {**front_end, **{name: value for name, value in given.items() if name in FRONT_END_FIELDS}}


def config_json(config: DassConfig) -> dict[str, Any]:
    """Contents of config.json, without the type of the weights; a config without labels is that of a bare DASSModel."""
    has_head = config.num_labels > 0
    content: dict[str, Any] = {
        "architectures": ["DASSForAudioClassification" if has_head else "DASSModel"],
        "model_type": MODEL_TYPE,
        "patch_size": PATCH_SIZE,
        "embed_dim": config.dims[0],
        "depths": list(config.depths),
        "dims": list(config.dims),
        "num_classes": config.num_labels,
        "max_length": config.max_length,
        "num_mel_bins": config.num_mel_bins,
    }
    if has_head:
        content["id2label"] = {str(index): name for index, name in enumerate(config.labels)}
        content["label2id"] = {name: index for index, name in enumerate(config.labels)}
    if config.problem_type is not None:
        content["problem_type"] = config.problem_type
    return content
