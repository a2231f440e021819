"""Geometry and front end of an AST checkpoint: from its JSON files, from the caller, or from the tensors' shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from astfast import labels as label_tables
from astfast.checkpoints.sources import CheckpointFiles
from astfast.errors import CheckpointError
from astfast.front_end import KaldiFbank
from astfast.models.ast.config import PREFIX, AstConfig
from astfast.models.ast.hugging_face import FRONT_END_FIELDS, GEOMETRY, MODEL_FIELDS, front_end_fields
from astfast.models.ast.key_layouts import AstTensors, Layout
from astfast.models.base import LabelNames
from astfast.ops import patch_grid

# Number of labels -> mean and std of log-mel energies over AudioSet, Speech Commands V2, ESC-50 (the authors' recipes).
NORMALISATION = {527: (-4.2677393, 4.5689974), 35: (-6.845978, 5.5654526), 50: (-6.6268077, 5.358466)}
# (stride along both axes, frames) of the published checkpoints, all with 128 mel bins and patches of 16 x 16.
PUBLISHED = ((10, 1024), (12, 1024), (14, 1024), (16, 1024), (10, 512), (10, 128))
HEAD_DIM = 64  # of every published size


class ResolvedConfig(NamedTuple):
    """The model's config, and the grid of the position embeddings in the file where that is another one."""

    config: AstConfig
    file_grid: tuple[int, int]


def resolve(
    files: CheckpointFiles,
    fields: Mapping[str, Any] | None,
    tensors: AstTensors,
    overrides: Mapping[str, Any],
    labels: LabelNames,
) -> ResolvedConfig:
    """Config of a checkpoint: from ``overrides``, else from the JSON files, else from the tensors' own shapes.

    ``fields`` is what ``model_fields`` found. Raises CheckpointError, with the keyword to pass, for what can't be told
    and for what contradicts itself.
    """
    sizes = tensors.sizes()
    try:
        front_end = front_end_fields(files.preprocessor)
        if fields is None:
            values = {**_from_shapes(sizes, tensors.num_layers, overrides), **front_end, **overrides}
            values, file_grid = _published_geometry(sizes, values, overrides)
        else:
            _check_agreement(fields, front_end, overrides)
            values = {**fields, **front_end, **overrides}
            file_grid = _grid({**values, "max_length": fields["max_length"]})
        _check_positions(sizes["T"] - len(PREFIX), file_grid)
        names = label_names(sizes.get("L"), files.config, labels)
        return ResolvedConfig(_model_config(values, tensors.layout, names), file_grid)
    except CheckpointError as error:
        raise CheckpointError(f"{files.source}: {error}") from None


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
    patches = sizes["T"] - len(PREFIX)
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
    """Patch grid of these fields, as ``AstConfig.grid``."""
    names = ("max_length", "num_mel_bins", "patch_size", "frequency_stride", "time_stride")
    return patch_grid(*(values[name] for name in names))


def label_names(count: int | None, config_json: Mapping[str, Any] | None, given: LabelNames) -> tuple[str, ...]:
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
        names = label_tables.numbered(count)  # transformers leaves out id2label of unnamed labels
    else:
        names = label_tables.packaged(count) or label_tables.numbered(count)
    if len(names) != count:
        origin = "config.json" if given is None else "labels="
        raise CheckpointError(f"it has {count} outputs, but {origin} names {len(names)} labels. Pass labels= for all.")
    return names


def kaldi_front_end(values: Mapping[str, Any], num_labels: int) -> KaldiFbank:
    """The front end of these fields; mean and std that they lack are those of the data set with so many labels."""
    if ("mean" not in values or "std" not in values) and values.get("do_normalize", True):
        if num_labels not in NORMALISATION:
            raise CheckpointError(
                "mean and std of the log-mel energies that it was trained on can't be told (no "
                f"preprocessor_config.json, and {num_labels} labels are of no known data set): pass mean= and std= "
                "(AudioSet's are -4.2677393 and 4.5689974)."
            )
        mean, std = NORMALISATION[num_labels]
        values = {"mean": mean, "std": std, **values}
    return KaldiFbank(**{name: values[name] for name in FRONT_END_FIELDS if name in values})


def _model_config(values: Mapping[str, Any], layout: Layout, labels: tuple[str, ...]) -> AstConfig:
    front_end = kaldi_front_end(values, len(labels))
    eps = values["layer_norm_eps"]
    head_eps = values["head_layer_norm_eps"]
    return AstConfig(
        **{name: values[name] for name in GEOMETRY},
        layer_norm_eps=layout.layer_norm_eps if eps is None else eps,
        head_layer_norm_eps=next(e for e in (head_eps, eps, layout.head_layer_norm_eps) if e is not None),
        labels=labels,
        problem_type=values["problem_type"],
        front_end=front_end,
    )
