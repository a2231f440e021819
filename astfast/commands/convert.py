"""Command ``astfast convert``: any checkpoint that astfast reads, written as a Hugging Face folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from astfast.commands.terminal import print_text, print_warning


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's description and arguments."""
    parser.description = (
        "Write a checkpoint as a folder that transformers and astfast load: config.json, preprocessor_config.json, "
        "model.safetensors. Prints the folder."
    )
    parser.add_argument("source", metavar="SOURCE", help="an author's .pth, or anything else that astfast loads")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder to write; must be new or empty")
    parser.add_argument("--force", action="store_true", help="write into a folder that is not empty")


def run(options: argparse.Namespace) -> bool:
    """Converts the checkpoint; what the layout can't express is a warning."""
    from astfast.models.export import convert

    for note in convert(options.source, options.folder, force=options.force):
        print_warning(note)
    print_text(str(options.folder))
    return True
