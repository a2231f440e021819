"""Geometry and front end of an AST checkpoint: from its JSON files, from the caller, or from the tensors' shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from astfast.checkpoints.sources import CheckpointFiles
from astfast.errors import CheckpointError
from astfast.front_end import KaldiFbank
from astfast.models.assumed import label_names, note, with_normalisation
from astfast.models.ast.config import PREFIX, AstConfig
from astfast.models.ast.hugging_face import (
    FRONT_END_FIELDS,
    GEOMETRY,
    MODEL_FIELDS,
    front_end_fields,
    refuse_likely_maest,
)
from astfast.models.ast.key_layouts import AstTensors, Layout
from astfast.models.base import LabelNames
from astfast.ops import patch_grid

# (stride along both axes, frames) of the published checkpoints, all with 128 mel bins and patches of 16 x 16.
PUBLISHED = ((10, 1024), (12, 1024), (14, 1024), (16, 1024), (10, 512), (10, 128))
PUBLISHED_FIELDS = ("frequency_stride", "time_stride", "max_length", "num_attention_heads")  # taken from them
HEAD_DIM = 64  # of every published size


class ResolvedConfig(NamedTuple):
    """The model's config, and the grid of the position embeddings in the file where that is another one."""

    config: AstConfig
    file_grid: tuple[int, int]
    notes: tuple[str, ...]  # what was assumed


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
    assumed: list[str] = []
    try:
        front_end = front_end_fields(files.preprocessor)
        if fields is None:
            values = {**_from_shapes(sizes, tensors.num_layers, overrides), **front_end, **overrides}
            values, file_grid = _published_geometry(sizes, values, overrides)
            assumed += [f"{name}={values[name]}" for name in PUBLISHED_FIELDS if name not in overrides]
        else:
            _check_agreement(fields, front_end, overrides)
            values = {**fields, **front_end, **overrides}
            file_grid = _grid({**values, "max_length": fields["max_length"]})
        _check_positions(sizes["T"] - len(PREFIX), file_grid)
        refuse_likely_maest(files.preprocessor, values["num_mel_bins"])
        names = label_names(sizes.get("L"), files.config, labels, assumed)
        values = with_normalisation(values, names, fields is not None, assumed)
        return ResolvedConfig(_model_config(values, tensors.layout, names), file_grid, note(files.source, assumed))
    except CheckpointError as error:
        raise CheckpointError(f"{files.source} (AST): {error}") from None


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


def _model_config(values: Mapping[str, Any], layout: Layout, labels: tuple[str, ...]) -> AstConfig:
    eps = values["layer_norm_eps"]
    head_eps = values["head_layer_norm_eps"]
    return AstConfig(
        **{name: values[name] for name in GEOMETRY},
        layer_norm_eps=layout.layer_norm_eps if eps is None else eps,
        head_layer_norm_eps=next(e for e in (head_eps, eps, layout.head_layer_norm_eps) if e is not None),
        labels=labels,
        problem_type=values["problem_type"],
        front_end=KaldiFbank(**{name: values[name] for name in FRONT_END_FIELDS if name in values}),
    )
