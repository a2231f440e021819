"""Command ``astfast models``: the published models that astfast loads by name."""

from __future__ import annotations

import argparse
import json

from astfast.catalogue import MODELS, PublishedModel
from astfast.commands.terminal import print_text, table

COLUMNS = ("name", "family", "labels", "GMACs", "mAP", "licence of weights", "hub id")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's description and arguments."""
    parser.description = (
        "List the published models that load by name: multiply-adds of a clip in billions, mean average precision on "
        "AudioSet as published, licence of the weights (check it on the model's card), hub id."
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a model, with the source of its accuracy")


def run(options: argparse.Namespace) -> bool:
    """Prints the table."""
    if options.json:
        for model in MODELS:
            print_text(json.dumps({**model._asdict(), "macs": model.macs}))
        return True
    print_text(table(COLUMNS, map(_row, MODELS)))
    return True


def _row(model: PublishedModel) -> tuple[str, ...]:
    precision, macs = model.mean_average_precision, model.macs
    return (
        model.name,
        model.family,
        str(model.labels),
        "-" if macs is None else f"{macs / 1e9:.1f}",
        "-" if precision is None else f"{100 * precision:.1f}",
        model.weights_licence,
        model.hub_id,
    )
