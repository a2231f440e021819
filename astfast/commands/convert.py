"""Command ``astfast convert``: any checkpoint that astfast reads, written as a Hugging Face folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from astfast.commands.terminal import print_text, print_warning


def add_parser(commands: Any) -> None:
    """Adds ``convert`` to the commands (argparse's sub-parsers)."""
    parser = commands.add_parser(
        "convert",
        help="write a checkpoint as a Hugging Face folder",
        description="Write a checkpoint as a folder that transformers and astfast load: config.json, "
        "preprocessor_config.json, model.safetensors. Prints the folder.",
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SOURCE", help="an author's .pth, or anything else that astfast loads")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder to write; must be new or empty")
    parser.add_argument("--force", action="store_true", help="write into a folder that is not empty")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> bool:
    """Converts the checkpoint; what the layout can't express is a warning."""
    from astfast.models.export import convert

    for note in convert(options.source, options.folder, force=options.force):
        print_warning(note)
    print_text(str(options.folder))
    return True
