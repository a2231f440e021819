"""The AST family: Audio Spectrogram Transformers in the authors' layout and in those of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from astfast.checkpoints.sources import CheckpointFiles
from astfast.models import vit
from astfast.models.ast import hugging_face, key_layouts
from astfast.models.ast.config import AstConfig
from astfast.models.ast.geometry import resolve
from astfast.models.base import Checkpoint, Exported, LabelNames
from astfast.models.fields import unknown_fields
from astfast.models.vit_family import VitFamily


class AstFamily(VitFamily):
    """Implements ``models.base.Family``."""

    name = "AST"
    layouts = tuple(layout.name for layout in key_layouts.LAYOUTS)
    fields = frozenset(hugging_face.FIELDS)

    def recognises(self, files: CheckpointFiles) -> bool:
        """By the model type of config.json; without one, if most names of tensors are those of one of the layouts."""
        model_type = (files.config or {}).get("model_type")
        if model_type is not None:
            extractor = (files.preprocessor or {}).get("feature_extractor_type")
            return model_type == hugging_face.MODEL_TYPE and extractor not in hugging_face.OTHER_FAMILIES
        return key_layouts.fit(files.tensors)

    def read(self, files: CheckpointFiles, overrides: Mapping[str, Any], labels: LabelNames) -> Checkpoint:
        overrides = hugging_face.checked_overrides(overrides)
        fields = hugging_face.model_fields(files.source, files.config)
        known = {**(fields or {}), **overrides}
        tensors = key_layouts.map_tensors(
            files.tensors, files.source, known.get("num_hidden_layers"), known.get("qkv_bias")
        )
        resolved = resolve(files, fields, tensors, overrides, labels)
        config, native = resolved.config, resolved.file_grid[1]
        approximate = None
        if config.grid[1] != native:
            how = "cropped" if config.grid[1] < native else "interpolated"
            approximate = (
                f"{files.source} was trained on {native} patches along time and runs on {config.grid[1]} (max_length="
                f"{config.max_length}): its position embeddings are {how}, its scores an approximation."
            )
        return Checkpoint(
            family=self,
            config=config,
            weights=key_layouts.canonical_weights(tensors, config, resolved.file_grid),
            source=files.source,
            layout=tensors.layout.name,
            paths=files.paths,
            approximate=approximate,
            notes=(
                *files.notes,
                *unknown_fields(files, hugging_face.CONFIG_FIELDS, hugging_face.FRONT_END_FIELDS),
                *resolved.notes,
            ),
        )

    def export(self, config: AstConfig, weights: vit.Weights) -> Exported:
        from astfast.models.ast import export  # for convert only

        return export.exported(config, weights)


AST = AstFamily()
