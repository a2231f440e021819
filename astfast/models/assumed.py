"""What a checkpoint's files don't say: labels and normalisation by the number of outputs, and the warning about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from astfast import labels as label_tables
from astfast.errors import CheckpointError
from astfast.models.base import LabelNames

AUDIOSET = (-4.2677393, 4.5689974)  # mean and std of log-mel energies; ASTFeatureExtractor's defaults
# By number of labels: data set, mean and std over it (the AST authors' recipes).
DATA_SETS = {
    527: ("AudioSet", AUDIOSET),
    35: ("Speech Commands", (-6.845978, 5.5654526)),
    50: ("ESC-50", (-6.6268077, 5.358466)),
}


def label_names(
    count: int | None, config_json: Mapping[str, Any] | None, given: LabelNames, assumed: list[str]
) -> tuple[str, ...]:
    """Display names: given, of config.json, of the packaged table of that many, or numbered; none without a head.

    A packaged table is added to ``assumed``. Raises CheckpointError for another number of names than ``count``.
    """
    if count is None:
        if given is not None:
            raise CheckpointError("it has no classifier: labels= has nothing to name.")
        return ()
    if given is not None:
        names = label_tables.read(given)
    elif (named := label_tables.of_config(config_json)) is not None:
        names = named
    elif config_json is None and (packaged := label_tables.packaged(count)):
        assumed.append(f"the {count} labels of {DATA_SETS[count][0]}")
        names = packaged
    else:
        names = label_tables.numbered(count)  # transformers leaves out id2label of unnamed labels
    if len(names) != count:
        origin = "config.json" if given is None else "labels="
        raise CheckpointError(f"it has {count} outputs, but {origin} names {len(names)} labels. Pass labels= for all.")
    return names


def with_normalisation(
    values: Mapping[str, Any], labels: Sequence[str], has_config: bool, assumed: list[str]
) -> dict[str, Any]:
    """The fields with mean and std: AudioSet's beside a config.json, as ASTFeatureExtractor has them, else those of the
    data set with so many labels.

    They are added to ``assumed`` unless the labels themselves are those of the data set. Raises CheckpointError where
    they can't be told.
    """
    if {"mean", "std"} <= values.keys() or not values.get("do_normalize", True):
        return dict(values)
    if not has_config and len(labels) not in DATA_SETS:
        raise CheckpointError(
            "mean and std of the log-mel energies that it was trained on can't be told (no preprocessor_config.json, "
            f"and {len(labels)} labels are of no known data set): pass mean= and std= "
            f"(AudioSet's are {AUDIOSET[0]} and {AUDIOSET[1]})."
        )
    name, (mean, std) = DATA_SETS[527 if has_config else len(labels)]
    if not has_config or tuple(labels) != label_tables.packaged(527):
        assumed.append(f"mean={mean} and std={std} of {name}")
    return {"mean": mean, "std": std, **values}


def note(source: str, assumed: Sequence[str]) -> tuple[str, ...]:
    """The warning about what was assumed, if anything was."""
    if not assumed:
        return ()
    return (
        f"{source} doesn't say all of what it was trained with; taken are {', '.join(assumed)}: pass to load() what is "
        "different",
    )
