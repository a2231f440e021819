"""Command ``astfast models``: the published models that astfast runs, with what is known of each."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping

from astfast.benchmarking import speeds
from astfast.catalogue import MODELS, PublishedModel
from astfast.commands.terminal import print_text, table

COLUMNS = ("name", "family", "labels", "GMACs", "mAP", "clips/s here", "licence of weights", "hub id or file")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's description and arguments."""
    parser.description = (
        "List the published models, which load by name: multiply-adds of a clip of 10 s in billions (cut or "
        "padded where the model has one length), mean average precision on "
        "AudioSet as published, clips per second on this machine where `astfast bench --model NAME` measured them (the "
        "fastest precision), licence of the weights (check it on the model's card), hub id. PaSST is not on the hub: "
        "download the file and pass it."
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a model, with revision, and the source of its accuracy"
    )


def run(options: argparse.Namespace) -> bool:
    """Prints the table."""
    measured = speeds.measured()
    if options.json:
        for model in MODELS:
            here = measured.get(model.name)
            print_text(json.dumps({**model._asdict(), "macs": model.macs, "clips_per_second": here}))
        return True
    print_text(table(COLUMNS, (_row(model, measured.get(model.name, {})) for model in MODELS)))
    return True


def _row(model: PublishedModel, measured: Mapping[str, float]) -> tuple[str, ...]:
    """``measured``: clips per second by precision."""
    precision, macs = model.mean_average_precision, model.macs
    fastest = max(measured, key=measured.__getitem__, default=None)
    return (
        model.name,
        model.family,
        str(model.labels),
        "-" if macs is None else f"{macs / 1e9:.1f}",
        "-" if precision is None else f"{100 * precision:.1f}",
        "-" if fastest is None else f"{measured[fastest]:.3g} {fastest}",
        model.weights_licence,
        model.hub_id or str(model.url),
    )
