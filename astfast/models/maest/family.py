"""The MAEST family (https://arxiv.org/abs/2309.16418): hub folders, and the checkpoints of the authors' releases.

An AST over MAEST's spectrogram. A hub folder is an AST in all but its front end, and says so by its feature extractor;
clips are padded with silence to the model's length. The authors' .ckpt has positions along time and along frequency
apart, and runs shorter clips as long as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from astfast.checkpoints.sources import CheckpointFiles
from astfast.errors import CheckpointError, brief
from astfast.models.base import Checkpoint, Exported, LabelNames
from astfast.models.fields import FORMULA, refuse_other_values, unknown_fields
from astfast.models.vit_family import VitFamily

EXTRACTOR = "MAESTFeatureExtractor"
LAYOUT = "MAEST, the authors' .ckpt"
FREQUENCY, STRIDE = 9, 10  # positions along 96 mel bins, and between patches
FRAMES = {31: 312, 62: 625, 125: 1250, 187: 1875}  # positions along time -> frames of the published models
LABELS = (400, 519)  # styles of Discogs
PASST_COLUMNS, PASST_LABELS = 71, 527  # of the PaSST of stride 14, which has nine positions along frequency as well
# Field of preprocessor_config.json -> the values that it may have; absent or null is as good.
KNOWN: dict[str, tuple[Any, ...]] = {
    "sampling_rate": (16_000,),
    "num_mel_bins": (96,),
    "n_fft": (512,),
    "hop_length": (256,),
    "log_compression": ("logC",),
    "do_normalize": (True,),
    "padding_value": (0,),
}
OTHER_FORMULAS = dict.fromkeys(FORMULA - {*KNOWN}, ()) | {"pad_mode": ("constant",), "center": (True,), "power": (2,)}


def families_by_size(outputs: Collection[int | None], columns: int | None) -> set[str]:
    """The families that published files of nine positions along frequency with so many labels, or so many positions
    along time, are of: one, none, or both where the two contradict each other."""
    found = {"MAEST"} if columns in FRAMES or not {*LABELS}.isdisjoint(outputs) else set()
    return found | ({"PaSST"} if columns == PASST_COLUMNS or PASST_LABELS in outputs else set())


class MaestFamily(VitFamily):
    """Implements ``models.base.Family``."""

    name = "MAEST"
    layouts = ("MAEST, hub", LAYOUT)
    fields = frozenset({"max_length", "mean", "problem_type", "std"})

    def recognises(self, files: CheckpointFiles) -> bool:
        """A folder by its feature extractor; a file by its positions along frequency, with the published models' labels
        or lengths."""
        if files.config is not None:
            return (files.preprocessor or {}).get("feature_extractor_type") == EXTRACTOR
        ends = {name.rpartition(".")[2]: tensor.shape for name, tensor in files.tensors.items() if "pos_embed" in name}
        if not {"freq_new_pos_embed", "time_new_pos_embed"} & ends.keys():
            return False
        rows, columns = (  # None where a tensor is missing or misshapen
            shape[axis] if len(shape := ends.get(name, ())) == 4 else None
            for name, axis in (("freq_new_pos_embed", 2), ("time_new_pos_embed", 3))
        )
        outputs = {x.shape[0] for name, x in files.tensors.items() if "head.1." in name and x.shape}
        return rows in (FREQUENCY, 0, None) and families_by_size(outputs, columns) == {"MAEST"}

    def read(self, files: CheckpointFiles, overrides: Mapping[str, Any], labels: LabelNames) -> Checkpoint:
        return (self._file if files.config is None else self._folder)(files, overrides, labels)

    def _folder(self, files: CheckpointFiles, overrides: Mapping[str, Any], labels: LabelNames) -> Checkpoint:
        """The AST that the folder is, with MAEST's front end."""
        from astfast.models.ast.family import AST
        from astfast.models.ast.hugging_face import EXTRACTORS, refuse_other_extractors
        from astfast.models.maest.front_end import MEAN, STD, front_end

        said = files.preprocessor or {}
        try:
            refuse_other_extractors(said, (EXTRACTOR,), (EXTRACTOR,))
        except CheckpointError as error:
            raise CheckpointError(f"{files.source} (MAEST): {error}") from None
        for name, values in KNOWN.items():
            if name in said and said[name] not in values:  # null is none of them: transformers would take it
                raise CheckpointError(
                    f"{name} in {files.source}'s preprocessor_config.json is {brief(said[name])}: astfast runs MAEST "
                    f"with {' or '.join(map(brief, values))} only."
                )
        refuse_other_values(said, OTHER_FORMULAS, f"{files.source}'s preprocessor_config.json", "MAEST")
        fields = {name: said.get(name) for name in ("max_length", "num_mel_bins")} | {
            "feature_extractor_type": EXTRACTORS[0]  # its formula is replaced below
        }
        normalisation = {"mean": MEAN, "std": STD} | {n: said[n] for n in ("mean", "std") if said.get(n) is not None}
        unknown = unknown_fields(
            files._replace(config=None), (), (*KNOWN, *OTHER_FORMULAS, "mean", "std", "max_length")
        )
        named = files._replace(source=f"{files.source} (MAEST)", preprocessor=fields | normalisation)
        ast = AST.read(named, overrides, labels)
        config = ast.config
        kaldi: Any = config.front_end  # its type has the numbers that both formulas need
        if config.num_mel_bins != KNOWN["num_mel_bins"][0]:
            raise CheckpointError(f"{files.source} (MAEST) is of {config.num_mel_bins} mel bins: astfast runs 96.")
        config = replace(
            config,
            front_end=front_end(config.max_length, True, kaldi.mean, kaldi.std),
            problem_type=config.problem_type or "multi_label_classification",
        )
        return replace(
            ast,
            family=self,
            config=config,
            source=files.source,
            layout=f"MAEST, {ast.layout}",
            notes=(*unknown, *ast.notes),
        )

    def _file(self, files: CheckpointFiles, overrides: Mapping[str, Any], labels: LabelNames) -> Checkpoint:
        from astfast.models import timm_layout
        from astfast.models.fields import typed
        from astfast.models.maest.front_end import MEAN, STD, front_end
        from astfast.models.passt import key_layouts
        from astfast.models.vit_config import VitConfig

        if "hop_length" in overrides:  # of PaSST, by whose family a MAEST of other labels and length is recognised
            raise CheckpointError(f"{files.source} (MAEST): leave out hop_length=, which is 256 samples.")
        given = typed(overrides, self.fields, "the call")
        found = timm_layout.map_tensors(files.tensors, files.source, key_layouts.layout(self.name, LAYOUT))
        sizes = found.sizes
        usual = FRAMES.get(sizes["T"], sizes["T"] * STRIDE)
        max_length = timm_layout.max_length(given.get("max_length"), usual, found, STRIDE, files.source)
        notes = [*files.notes]
        return Checkpoint(
            family=self,
            config=VitConfig(
                labels=timm_layout.label_names(found, files, labels, notes),
                problem_type=timm_layout.problem_type(found, files, given, LABELS, notes),
                front_end=front_end(max_length, False, given.get("mean", MEAN), given.get("std", STD)),
                hidden_size=sizes["D"],
                num_hidden_layers=found.num_layers,
                num_attention_heads=timm_layout.num_heads(sizes["D"], files.source),
                intermediate_size=sizes["M"],
                patch_size=sizes["P"],
                frequency_stride=STRIDE,
                time_stride=STRIDE,
                layer_norm_eps=timm_layout.LAYER_NORM_EPS,
                head_layer_norm_eps=timm_layout.HEAD_LAYER_NORM_EPS,
            ),
            weights=timm_layout.weights(found, STRIDE, STRIDE),
            source=files.source,
            layout=LAYOUT,
            paths=files.paths,
            notes=tuple(notes),
        )

    def export(self, config: Any, weights: Any) -> Exported:
        """The hub's layout: that of an AST, with MAEST's feature extractor."""
        from astfast.models.maest import export

        return export.exported(config, weights)


MAEST = MaestFamily()
