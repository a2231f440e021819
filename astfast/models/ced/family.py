"""The CED family (https://arxiv.org/abs/2308.11957): its checkpoints as the authors and the hub publish them.

A vision transformer over 64 mel bins in patches of 16 x 16 without overlap, no prefix token, whose embedding is the
mean of all tokens. A clip shorter than the model's 10.1 s has fewer tokens, of the first positions along time. A window
that is longer is scored by the rule of the authors' model: its spectrogram is cut, the last piece continued with zeros,
and the pieces' probabilities are averaged. (Theirs forgets the last piece if it is full, and makes a piece of zeros of
the 10 ms that only the last frame of the first one reads.) A window of 10 s gives what their script prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from astfast.checkpoints.sources import CheckpointFiles
from astfast.errors import CheckpointError
from astfast.models.base import Checkpoint, Exported, LabelNames
from astfast.models.fields import refuse_other_classes, refuse_other_values, typed, unknown_fields
from astfast.models.vit_family import VitFamily

if TYPE_CHECKING:
    from astfast.centred_log_mel import CentredLogMel
    from astfast.models.timm_layout import TimmTensors

BATCH_NORM_EPS = 1e-5
PATCH = 16


class CedFamily(VitFamily):
    """Implements ``models.base.Family``."""

    name = "CED"
    layouts = ("CED, hub", "CED, the authors' .pt")
    fields = frozenset({"max_length", "problem_type"})

    def recognises(self, files: CheckpointFiles) -> bool:
        """By the model type of config.json; without one, by the names of the positions."""
        model_type = (files.config or {}).get("model_type")
        if model_type is not None:
            return bool(model_type == "ced")
        return any(name.endswith(("time_pos_embed", "freq_pos_embed")) for name in files.tensors)

    def read(self, files: CheckpointFiles, overrides: Mapping[str, Any], labels: LabelNames) -> Checkpoint:
        from astfast.models import timm_layout
        from astfast.models.ced import config_json, key_layouts
        from astfast.models.ced.front_end import FRAMES
        from astfast.models.vit_config import VitConfig

        source, config = files.source, files.config or {}
        refuse_other_classes(config, (*config_json.CLASSES, config_json.EXTRACTOR), f"{source}'s config.json", "CED")
        refuse_other_values(config, config_json.KNOWN, f"{source}'s config.json", "CED")
        config_json.check_extractor(files.preprocessor or {}, source)
        layout = next((one for one in key_layouts.LAYOUTS if timm_layout.fits(files.tensors, one)), key_layouts.HUB)
        found = timm_layout.map_tensors(files.tensors, source, layout)
        sizes = found.sizes
        config_json.check_sizes(config, found, source)
        if sizes["P"] != PATCH or sizes["C"] != PATCH * sizes["F"]:
            raise CheckpointError(
                f"{source} (CED): {sizes['F']} positions along frequency and patches of {sizes['P']} are not those of "
                f"{sizes['C']} mel bins. Check that the file is whole."
            )
        given = typed(overrides, self.fields, "the call") | typed(
            {"max_length": config.get("target_length")} if "max_length" not in overrides else {}, self.fields, source
        )
        usual = FRAMES if sizes["T"] == FRAMES // PATCH else sizes["T"] * PATCH
        max_length = timm_layout.max_length(given.get("max_length"), usual, found, PATCH, source)
        known = (*config_json.KNOWN, *config_json.SIZES)
        notes = [*files.notes, *unknown_fields(files, known, config_json.KNOWN_OF_EXTRACTOR)]
        heads = config_json.heads(config, source) or timm_layout.num_heads(sizes["D"], source)
        return Checkpoint(
            family=self,
            config=VitConfig(
                labels=timm_layout.label_names(found, files, labels, notes),
                problem_type=timm_layout.problem_type(found, files, given, (527,), notes),
                cuts_spectrogram=True,
                front_end=_front_end(found, key_layouts.BATCH_NORM[layout.name], max_length, source),
                hidden_size=sizes["D"],
                num_hidden_layers=found.num_layers,
                num_attention_heads=heads,
                intermediate_size=sizes["M"],
                patch_size=PATCH,
                frequency_stride=PATCH,
                time_stride=PATCH,
                layer_norm_eps=timm_layout.LAYER_NORM_EPS,
                head_layer_norm_eps=timm_layout.HEAD_LAYER_NORM_EPS,
                prefix_tokens=0,
            ),
            weights=timm_layout.weights(found, PATCH, PATCH),
            source=source,
            layout=layout.name,
            paths=files.paths,
            notes=tuple(notes),
        )

    def export(self, config: Any, weights: Any) -> Exported:  # noqa: ARG002
        raise CheckpointError(
            "CED has no model class in transformers that a folder could be written for: keep the checkpoint as it is."
        )


def _front_end(found: TimmTensors, batch_norm: str, max_length: int, source: str) -> CentredLogMel:
    """Decibels and the model's BatchNorm: (x - mean) / sqrt(var + eps) * weight + bias of each mel bin."""
    import numpy as np

    from astfast.models.ced.front_end import MELS, front_end

    if found.sizes["C"] != MELS:
        raise CheckpointError(f"{source} (CED) is of {found.sizes['C']} mel bins: astfast runs those of {MELS}.")
    weight, bias, mean, variance = (
        np.asarray(found.tensors[f"{batch_norm}.{part}"], np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    if not (variance >= 0).all():
        raise CheckpointError(f"{source} (CED): {batch_norm}.running_var has negative or no numbers. Check the file.")
    scale = weight / np.sqrt(variance + BATCH_NORM_EPS)
    return front_end(scale.tolist(), (bias - mean * scale).tolist(), max_length)


CED = CedFamily()
