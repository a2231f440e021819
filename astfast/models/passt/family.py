"""The PaSST family (https://arxiv.org/abs/2110.05069): its checkpoints as the authors publish them.

An AST at 32 kHz with positions along time and along frequency apart. A clip shorter than the model's input has fewer
tokens, of the first positions along time; of a longer one, the beginning counts, as in the authors' repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astfast.checkpoints.sources import CheckpointFiles
from astfast.errors import CheckpointError
from astfast.models.base import Checkpoint, Exported, LabelNames
from astfast.models.vit_family import VitFamily

LAYOUT = "PaSST, the authors' .pt"
STRIDES = {12: 10, 10: 12, 9: 14, 8: 16}  # positions along 128 mel bins -> stride
HOPS = {"stfthop100": 100, "stfthop160": 160, "20sec": 320}  # in names of published files -> hop_length, samples
AMBIGUOUS = (200, 320)  # positions along time: files of several hops have as many


class PasstFamily(VitFamily):
    """Implements ``models.base.Family``."""

    name = "PaSST"
    layouts = (LAYOUT,)
    fields = frozenset({"hop_length", "max_length", "problem_type", "time_stride"})

    def recognises(self, files: CheckpointFiles) -> bool:
        """By the names of the positions; files with a config.json are of no PaSST that its authors published."""
        ends = ("time_new_pos_embed", "freq_new_pos_embed")
        return files.config is None and any(name.endswith(ends) for name in files.tensors)

    def read(self, files: CheckpointFiles, overrides: Mapping[str, Any], labels: LabelNames) -> Checkpoint:
        from astfast.models import timm_layout
        from astfast.models.fields import typed
        from astfast.models.maest import family as maest
        from astfast.models.passt import key_layouts
        from astfast.models.passt.front_end import MELS, front_end
        from astfast.models.vit_config import VitConfig

        source = files.source
        given = typed(overrides, self.fields, "the call")
        found = timm_layout.map_tensors(files.tensors, source, key_layouts.layout(self.name, LAYOUT))
        sizes = found.sizes
        stride = given.get("time_stride", STRIDES.get(sizes["F"]))
        if (sizes["F"], stride) == (maest.FREQUENCY, maest.STRIDE):
            return maest.MAEST.read(files, {name: x for name, x in given.items() if name != "time_stride"}, labels)
        if stride is None or MELS // stride != sizes["F"]:
            which = "no known stride" if stride is None else f"another stride than {stride}"
            raise CheckpointError(
                f"{source} (PaSST): {sizes['F']} positions along frequency are of {which} over {MELS} mel bins: pass "
                "their time_stride=."
            )
        kinds = maest.families_by_size([sizes.get("L")], sizes["T"])
        if stride == 14 and kinds != {self.name} and "time_stride" not in given:
            raise CheckpointError(
                f"{source} has 9 positions along frequency, as PaSST of stride 14 and MAEST have, and its number of "
                f"labels and length are {'one of each' if kinds else 'those of neither'}: pass time_stride=14 if it is "
                "a PaSST, time_stride=10 if it is a MAEST."
            )
        hop = given.get("hop_length") or _hop(source, sizes["T"])
        usual = sizes["T"] * stride + sizes["P"] - 1
        notes = [*files.notes]
        return Checkpoint(
            family=self,
            config=VitConfig(
                labels=timm_layout.label_names(found, files, labels, notes),
                problem_type=timm_layout.problem_type(found, files, given, (20, 200, 527), notes),
                front_end=front_end(timm_layout.max_length(given.get("max_length"), usual, found, stride, source), hop),
                hidden_size=sizes["D"],
                num_hidden_layers=found.num_layers,
                num_attention_heads=timm_layout.num_heads(sizes["D"], source),
                intermediate_size=sizes["M"],
                patch_size=sizes["P"],
                frequency_stride=stride,
                time_stride=stride,
                layer_norm_eps=timm_layout.LAYER_NORM_EPS,
                head_layer_norm_eps=timm_layout.HEAD_LAYER_NORM_EPS,
            ),
            weights=timm_layout.weights(found, stride, stride),
            source=source,
            layout=LAYOUT,
            paths=files.paths,
            notes=tuple(notes),
        )

    def export(self, config: Any, weights: Any) -> Exported:  # noqa: ARG002
        raise CheckpointError(
            "PaSST has no model class in transformers that a folder could be written for: keep the checkpoint as it is."
        )


def _hop(source: str, positions: int) -> int:
    """Samples between two frames: by the published file's name, whatever its folder's; 320 where no published file of
    another hop has as many positions."""
    for part, hop in HOPS.items():
        if part in Path(source).name:
            return hop
    if positions in AMBIGUOUS:
        raise CheckpointError(
            f"{source} (PaSST) has {positions} positions along time, as published files of several hops have: pass "
            "hop_length= (320, 160 or 100 samples)."
        )
    return 320


PASST = PasstFamily()
