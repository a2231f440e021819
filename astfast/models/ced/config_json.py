"""config.json and preprocessor_config.json of CED's hub folders: what they may say; all else is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from astfast.errors import CheckpointError, brief
from astfast.models.ced.front_end import MELS, RATE
from astfast.models.fields import FORMULA, VARIANTS, refuse_other_values
from astfast.models.timm_layout import HEAD_DIM

if TYPE_CHECKING:
    from astfast.models.timm_layout import TimmTensors

CLASSES = ("CedForAudioClassification", "CedModel", "CedConfig")
# Field -> the values that it may have; absent or null is as good. What has one value is a constant of the published
# models, from which no tensor would tell a difference.
KNOWN: dict[str, tuple[Any, ...]] = dict.fromkeys(FORMULA, ()) | VARIANTS
KNOWN |= {
    "problem_type": ("multi_label_classification",),  # the authors' class ends with a sigmoid
    "pooling": ("mean",),
    "eval_avg": ("mean",),
    "pad_last": (True,),
    "qkv_bias": (True,),
    "hidden_act": ("gelu",),
    "center": (True,),
    "patch_size": (16, [16, 16]),
    "patch_stride": (16, [16, 16]),
    "n_mels": (MELS,),
    "n_fft": (512,),
    "win_size": (512,),
    "hop_size": (160,),
    "f_min": (0,),
    "f_max": (8000,),
    "top_db": (120,),
    "layer_norm_eps": (1e-6,),
    "init_bn": (True,),
}
SIZES = ("name", "depth", "embed_dim", "num_heads", "mlp_ratio", "outputdim", "target_length")
EXTRACTOR = "CedFeatureExtractor"
KNOWN_OF_EXTRACTOR: dict[str, tuple[Any, ...]] = dict.fromkeys(FORMULA, ()) | {
    "sampling_rate": (RATE,),
    "feature_size": (MELS,),
    "n_fft": (512,),
    "win_size": (512,),
    "hop_size": (160,),
    "f_min": (0,),
    "f_max": (8000,),
    "center": (True,),
    "n_mels": (MELS,),
    "hop_length": (160,),
    "win_length": (512,),
    "top_db": (120,),
    "mel_scale": ("htk",),
    "pad_mode": ("reflect",),
    "power": (2,),
}
HEADS = {"ced-tiny": 3, "ced-mini": 4, "ced-small": 6, "ced-base": 12}  # the authors' class goes by the name


def check_extractor(preprocessor: Mapping[str, Any], source: str) -> None:
    """Raises CheckpointError for another feature extractor than CED's, and for another value of its fields."""
    from astfast.models.ast.hugging_face import refuse_other_extractors

    try:
        refuse_other_extractors(preprocessor, (EXTRACTOR,), (EXTRACTOR,))
    except CheckpointError as error:
        raise CheckpointError(f"{source} (CED): {error}") from None
    refuse_other_values(preprocessor, KNOWN_OF_EXTRACTOR, f"{source}'s preprocessor_config.json", "CED")


def check_sizes(config: Mapping[str, Any], found: TimmTensors, source: str) -> None:
    """Raises CheckpointError where the tensors are of other sizes than config.json says, as when the last layers are
    missing. A published name stands for a width and its heads, whatever ``embed_dim`` and ``num_heads`` say."""
    sizes: dict[str, float | None] = {"depth": found.num_layers, "outputdim": found.sizes.get("L")}
    sizes["mlp_ratio"] = found.sizes["M"] / found.sizes["D"]
    named = HEADS.get(str(config.get("name")))
    if named is None:
        sizes["embed_dim"] = found.sizes["D"]
    elif found.sizes["D"] != HEAD_DIM * named:
        raise CheckpointError(
            f"{source} (CED): name in config.json is {config['name']}, a model of width {HEAD_DIM * named}, and its "
            f"tensors are {found.sizes['D']} wide: give it a name of its own, with num_heads."
        )
    for name, size in sizes.items():
        if size is not None and config.get(name) not in (None, size):
            raise CheckpointError(
                f"{source} (CED): {name} in config.json is {brief(config[name])}, that of its tensors {size:g}. Check "
                "that the file is whole and its config.json its own."
            )


def heads(config: Mapping[str, Any], source: str) -> int | None:
    """Attention heads by the model's name, else as config.json counts them; None where it says neither.

    Raises CheckpointError for a count that is none.
    """
    named = HEADS.get(str(config.get("name")))
    count = config.get("num_heads") if named is None else named
    if count is None:
        return None
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise CheckpointError(
            f"{source} (CED): num_heads in config.json is {brief(count)}: it must be an integer above 0."
        )
    return count
