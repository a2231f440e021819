"""Fields of config.json, preprocessor_config.json and of callers: their types and the range of each number.

A number within its range costs no absurd time or memory; the bounds are far beyond any published model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from astfast.errors import CheckpointError, brief, listed

if TYPE_CHECKING:
    from astfast.checkpoints.sources import CheckpointFiles

INTEGERS = {
    "hidden_size": (1, 16_384),
    "num_hidden_layers": (1, 1_000),
    "num_attention_heads": (1, 16_384),
    "head_dim": (1, 16_384),
    "intermediate_size": (1, 131_072),
    "patch_size": (1, 1_024),
    "frequency_stride": (1, 1_024),
    "time_stride": (1, 30_000),
    "max_length": (1, 30_000),  # frames
    "num_mel_bins": (1, 4_096),
    "hop_length": (1, 100_000),  # samples
    "sampling_rate": (1_000, 1_000_000),  # Hz, as of audio
}
NUMBERS = {
    "mean": (-1e6, 1e6),
    "std": (1e-6, 1e6),
    "layer_norm_eps": (0.0, 1.0),
    "head_layer_norm_eps": (0.0, 1.0),
}
FLAGS = ("qkv_bias", "do_normalize")
STRINGS = ("hidden_act",)
CHOICES = {"problem_type": ("single_label_classification", "multi_label_classification", "regression")}
# Fields of variants of a model, which no published config of these families has -> the values that change nothing.
VARIANTS: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute",),
    "pooling": (),
    "pooling_type": (),
    "pooling_mode": (),
    "act_layer": ("gelu",),
    "norm_layer": (),
    "norm_type": ("layer_norm", "layernorm"),
    "pruned_heads": ({},),
    "is_decoder": (False,),
    "is_causal": (False,),
    "causal": (False,),
    "attention_type": (),
    "use_relative_position_bias": (False,),
    "quantization_config": (),
}
# Fields of feature extractors, of whichever family, that say how features are computed: refused where a family's own
# table doesn't have them.
_FORMULA = """
n_fft fft_length fft_size win_length win_size window_length window_size frame_length frame_shift hop_length hop_size
window_fn window_type window_function periodic center pad_mode power dither preemphasis pre_emphasis
preemphasis_coefficient preemph_coeff remove_dc_offset f_min f_max fmin fmax low_freq high_freq min_frequency
max_frequency frequency_min frequency_max n_mels feature_bins mel_scale mel_norm norm htk_compat use_log_fbank
use_energy log_compression log_mel mel_floor top_db ref
"""
# Fields of preprocessor_config.json that change no result of these families.
_HARMLESS_OF_EXTRACTORS = """
feature_extractor_type auto_map processor_class feature_size padding_side padding_value return_attention_mask
return_tensors
"""
# Arrays that extractors store, and compute anew; anything else under these names may be of another formula.
_ARRAYS = ("window", "mel_fb", "mel_filters")
# Fields that change no result: those that transformers writes into every config, and those of training.
_HARMLESS = """
model_type architectures auto_map name_or_path transformers_version torch_dtype dtype id2label label2id num_labels
problem_type finetuning_task task_specific_params custom_pipelines return_dict output_hidden_states
output_attentions torchscript use_bfloat16 tf_legacy_loss use_cache attn_implementation chunk_size_feed_forward
is_encoder_decoder cross_attention_hidden_size add_cross_attention tie_word_embeddings tie_encoder_decoder
tokenizer_class prefix bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id
max_length min_length do_sample
early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id
remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
hidden_dropout_prob attention_probs_dropout_prob classifier_dropout initializer_range gradient_checkpointing
use_checkpoint drop_rate attn_drop_rate drop_path_rate
"""
FORMULA = frozenset(_FORMULA.split())
HARMLESS_OF_EXTRACTORS = frozenset(_HARMLESS_OF_EXTRACTORS.split())
HARMLESS = frozenset(_HARMLESS.split())
MAX_TOKENS = 32_768  # of a clip: attention takes their square
MAX_SPECTROGRAM = 4_000_000  # frames x mel bins of a clip: 16 MB; 10,000 frames of 128 bins are a third


def typed(values: Mapping[str, Any], fields: Iterable[str], where: str) -> dict[str, Any]:
    """Those of ``fields`` that ``values`` has (null is as good as absent), each of its type and in its range.

    ``where``: what messages call the source of the values. Raises CheckpointError that names the field and its range.
    """
    found: dict[str, Any] = {}
    for name in fields:
        value = values.get(name)
        if value is None:
            continue
        converted, words = _converted(name, value)
        if converted is None:
            raise CheckpointError(f"{name} in {where} is {brief(value)}: it must be {words}.")
        found[name] = converted
    return found


def refuse_null(values: Mapping[str, Any], fields: Iterable[str], where: str) -> None:
    """Raises CheckpointError for one of ``fields`` that is there and null, which transformers refuses as well."""
    for name in fields:
        if name in values and values[name] is None:
            raise CheckpointError(f"{name} in {where} is null: it must be {_converted(name, None)[1]}.")


def refuse_other_values(
    values: Mapping[str, Any] | None, known: Mapping[str, tuple[Any, ...]], where: str, family: str
) -> None:
    """Raises CheckpointError for a field of another value than those ``known``, naming it; absent or null is as good as
    the first."""
    for name, allowed in known.items():
        value = (values or {}).get(name)
        if value is not None and value not in allowed:
            words = f"with {' or '.join(map(brief, allowed))} only" if allowed else "without it"
            raise CheckpointError(f"{name} in {where} is {brief(value)}: astfast runs {family} {words}.")


def refuse_other_classes(config_json: Mapping[str, Any] | None, known: Sequence[str], where: str, family: str) -> None:
    """Raises CheckpointError for a class in ``architectures`` or ``auto_map`` that isn't one of those ``known``: code
    of somebody's own may compute anything."""
    config = config_json or {}
    code = config.get("auto_map")
    named = {
        "architectures": config.get("architectures"),
        "auto_map": [*code.values()] if isinstance(code, dict) else code,
    }
    for field, classes in named.items():
        for name in classes if isinstance(classes, list) else [classes]:
            if name and str(name).rpartition(".")[2] not in known:
                raise CheckpointError(
                    f"{field} in {where} names the class {brief(name)}: astfast runs {family} as "
                    f"{next(iter(known))} computes it. If that class computes the same, remove its name."
                )


def unknown_fields(files: CheckpointFiles, known: Iterable[str], of_extractor: Iterable[str]) -> tuple[str, ...]:
    """The warnings about fields of config.json and of preprocessor_config.json that are neither ``known`` to a family,
    or to its ``of_extractor``, nor harmless; none for one that is null or private to transformers."""
    notes = []
    for name, content, harmless in (
        ("config.json", files.config, HARMLESS.union(known)),
        ("preprocessor_config.json", files.preprocessor, HARMLESS_OF_EXTRACTORS.union(FORMULA, of_extractor)),
    ):
        given = {
            field
            for field, value in (content or {}).items()
            if not (value is None or field.startswith("_") or (field in _ARRAYS and isinstance(value, list)))
        }
        unknown = sorted(given - harmless)
        if unknown:
            fields = listed(unknown)
            notes.append(f"{files.source}'s {name} has fields that astfast doesn't know, and ignores: {fields}")
    return tuple(notes)


def check_spectrogram(frames: int, mel_bins: int) -> None:
    """Raises CheckpointError for a spectrogram that is larger than any model reads."""
    if frames * mel_bins > MAX_SPECTROGRAM:
        raise CheckpointError(
            f"a spectrogram of {frames} frames x {mel_bins} mel bins has more than {MAX_SPECTROGRAM:,} values. Check "
            "max_length and num_mel_bins."
        )


def _converted(name: str, value: Any) -> tuple[Any, str]:
    """The value in Python's own type, None for one that is not of the field's type and range; and these in words."""
    flag = isinstance(value, bool)
    if name in INTEGERS:
        low, high = INTEGERS[name]
        fits = isinstance(value, Integral) and not flag and low <= int(value) <= high
        return int(value) if fits else None, f"an integer from {low} to {high}"
    if name in NUMBERS:
        lowest, highest = NUMBERS[name]
        fits = isinstance(value, Real) and not flag and bool(lowest <= value <= highest)  # type: ignore[operator]
        return float(value) if fits else None, f"a number from {lowest:g} to {highest:g}"
    if name in FLAGS:
        return value if flag else None, "true or false"
    if name in STRINGS:
        return value if isinstance(value, str) else None, "a string"
    if name in CHOICES:
        return value if value in CHOICES[name] else None, " or ".join(CHOICES[name])
    raise KeyError(name)
