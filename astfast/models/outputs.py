"""Names of a checkpoint's outputs, for the families whose published models are of one data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from astfast import labels as label_tables
from astfast.errors import CheckpointError
from astfast.models.base import LabelNames

AUDIOSET = 527


def label_names(
    count: int | None, config_json: Mapping[str, Any] | None, given: LabelNames, source: str
) -> tuple[str, ...]:
    """Display names: given, of config.json, of AudioSet's table for 527 outputs, or numbered; none without a head."""
    if count is None:
        if given is not None:
            raise CheckpointError(f"{source}: it has no classifier: labels= has nothing to name.")
        return ()
    id2label = (config_json or {}).get("id2label")
    if given is not None:
        names = label_tables.read(given)
    elif id2label:
        names = label_tables.from_id2label(id2label, f"{source}'s config.json")
    else:
        packaged = label_tables.packaged(count) if count == AUDIOSET else None
        names = packaged or label_tables.numbered(count)
    if len(names) != count:
        origin = "config.json" if given is None else "labels="
        raise CheckpointError(
            f"{source}: it has {count} outputs, but {origin} names {len(names)} labels. Pass labels= for all."
        )
    return names
