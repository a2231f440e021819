"""A MAEST in the hub's layout: an AST's folder with MAEST's feature extractor."""

from __future__ import annotations

from astfast.centred_log_mel import CentredLogMel
from astfast.models.ast.export import v4_tensors
from astfast.models.ast.hugging_face import config_json
from astfast.models.base import Exported
from astfast.models.maest.front_end import MELS, RATE
from astfast.models.vit import Weights
from astfast.models.vit_config import VitConfig


def exported(config: VitConfig, weights: Weights) -> Exported:
    """See ``Family.export``; leaves of ``weights`` are anything that ``np.asarray`` takes."""
    front_end = config.front_end
    assert isinstance(front_end, CentredLogMel)
    rows = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    columns = (weights.embed.position.shape[0] - config.prefix_tokens) // rows
    max_length = (columns - 1) * config.time_stride + config.patch_size  # that has a patch for every position
    notes: tuple[str, ...] = ()
    if not front_end.fixed_length:
        notes += (
            "the hub's feature extractor continues a clip with zeros and pads it to the model's length, where the "
            "authors' code mirrors it and takes it as long as it is",
        )
    if config.head_layer_norm_eps != config.layer_norm_eps:
        notes += (
            f"config.json has layer_norm_eps {config.layer_norm_eps:g} and head_layer_norm_eps "
            f"{config.head_layer_norm_eps:g}: transformers uses the first for the classifier too",
        )
    std = 0.5 / front_end.scale[0]
    preprocessor = {
        "feature_extractor_type": "MAESTFeatureExtractor",
        "sampling_rate": RATE,
        "num_mel_bins": MELS,
        "feature_size": 1,
        "max_length": max_length,
        "n_fft": front_end.fft_length,
        "hop_length": front_end.hop_length,
        "log_compression": "logC",
        "do_normalize": True,
        "mean": -2.0 * std * front_end.offset[0],
        "std": std,
        "padding_value": 0.0,
        "return_attention_mask": False,
    }
    return Exported(v4_tensors(weights), config_json(config) | {"max_length": max_length}, preprocessor, notes)
