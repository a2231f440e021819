"""Command ``astfast convert``: any checkpoint, or the average of several, written as a Hugging Face folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from astfast.commands.terminal import print_text, print_warning
from astfast.errors import CheckpointError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's description and arguments."""
    parser.description = (
        "Write a checkpoint as a folder that transformers and astfast load: config.json, preprocessor_config.json, "
        "model.safetensors. Prints the folder."
    )
    parser.add_argument(
        "source", nargs="+", metavar="SOURCE", help="an author's .pth, or anything else that astfast loads"
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder to write; must be new or empty")
    parser.add_argument(
        "--average", action="store_true", help="write the mean of the weights of several SOURCEs, such as of epochs"
    )
    parser.add_argument("--force", action="store_true", help="write into a folder that is not empty")


def run(options: argparse.Namespace) -> bool:
    """Converts the checkpoint; what the layout can't express is a warning."""
    from astfast.models.export import convert

    if len(options.source) > 1 and not options.average:
        raise CheckpointError(f"{len(options.source)} checkpoints for one folder: pass --average for their mean")
    for note in convert(options.source, options.folder, force=options.force):
        print_warning(note)
    print_text(str(options.folder))
    return True
