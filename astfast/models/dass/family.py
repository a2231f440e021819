"""The DASS family: distilled audio state-space models, in the authors' layout and in that of the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from astfast.checkpoints.sources import CheckpointFiles
from astfast.errors import CheckpointError
from astfast.front_end import KaldiFbank
from astfast.models.assumed import label_names, note, with_normalisation
from astfast.models.ast.hugging_face import FRONT_END_FIELDS
from astfast.models.base import Checkpoint, Exported, LabelNames
from astfast.models.dass import forward, hugging_face, key_layouts
from astfast.models.dass.config import DassConfig
from astfast.models.dass.forward import DassWeights
from astfast.models.fields import typed, unknown_fields
from astfast.ops import Ops


class DassFamily:
    """Implements ``models.base.Family``."""

    name = "DASS"
    layouts = tuple(layout.name for layout in key_layouts.LAYOUTS)
    fields = frozenset((*FRONT_END_FIELDS, "problem_type"))

    def recognises(self, files: CheckpointFiles) -> bool:
        """By the model type of config.json; without one, if most names of tensors are those of one of the layouts."""
        model_type = (files.config or {}).get("model_type")
        if model_type is not None:
            return bool(model_type == hugging_face.MODEL_TYPE)
        return key_layouts.fit(files.tensors)

    def read(self, files: CheckpointFiles, overrides: Mapping[str, Any], labels: LabelNames) -> Checkpoint:
        given = typed(overrides, self.fields, "the call")
        fields = hugging_face.model_fields(files.source, files.config)
        tensors = key_layouts.map_tensors(files.tensors, files.source, fields.get("depths"))
        assumed: list[str] = []
        try:
            config = self._config(files, fields, tensors, given, labels, assumed)
            hugging_face.check_sizes(files.config, config)
        except CheckpointError as error:
            prefix = "" if files.source in str(error) else f"{files.source} (DASS): "
            raise CheckpointError(f"{prefix}{error}") from None
        weights = key_layouts.canonical_weights(tensors, config)
        unknown = unknown_fields(files, hugging_face.CONFIG_FIELDS, FRONT_END_FIELDS)
        notes = (*files.notes, *unknown, *note(files.source, assumed))
        return Checkpoint(self, config, weights, files.source, tensors.layout.name, files.paths, notes)

    @staticmethod
    def _config(
        files: CheckpointFiles,
        fields: Mapping[str, Any],
        tensors: key_layouts.DassTensors,
        given: Mapping[str, Any],
        labels: LabelNames,
        assumed: list[str],
    ) -> DassConfig:
        count = tensors.size("head.weight") if tensors.has_head else None
        names = label_names(count, files.config, labels, assumed)
        values = hugging_face.front_end_fields(fields, files.preprocessor, given)
        values = with_normalisation(values, names, files.config is not None, assumed)
        stages = range(len(tensors.depths))

        def width(convolution: str) -> int:
            return tensors.agreed(*((f"{convolution}.{part}", 0) for part in ("norm.weight", "norm.bias", "conv.bias")))

        return DassConfig(
            depths=tensors.depths,
            dims=fields.get("dims") or tuple(width(f"{i}") for i in stages),
            ranks=tuple(tensors.rank(i) for i in stages),
            mlp_dims=tuple(
                tensors.agreed((f"{i}.0.mlp.fc1.weight", 0), (f"{i}.0.mlp.fc1.bias", 0), (f"{i}.0.mlp.fc2.weight", 1))
                for i in stages
            ),
            stem_dim=width("stem"),
            labels=names,
            problem_type=given.get("problem_type", fields.get("problem_type")),
            front_end=KaldiFbank(**{name: values[name] for name in FRONT_END_FIELDS if name in values}),
        )

    def pack(self, ops: Ops, weights: DassWeights) -> DassWeights:
        return forward.pack(ops, weights)

    def workspace(self, config: DassConfig) -> dict[str, tuple[tuple[int, ...], str]]:
        return forward.workspace(config)

    def shared(self, config: DassConfig) -> tuple[tuple[str, ...], ...]:  # noqa: ARG002
        return ()

    def forward(self, ops: Ops, w: DassWeights, spectrogram: Any, ws: Mapping[str, Any]) -> Any:
        return forward.forward(ops, w, spectrogram, ws)

    def embed(self, ops: Ops, w: DassWeights, spectrogram: Any, ws: Mapping[str, Any]) -> Any:
        return forward.embed(ops, w, spectrogram, ws)

    def export(self, config: DassConfig, weights: DassWeights) -> Exported:
        from astfast.models.dass import export  # for convert only

        return export.exported(config, weights)


DASS = DassFamily()
