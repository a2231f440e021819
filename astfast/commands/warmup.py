"""Command ``astfast warmup``: what the first use of a model costs on a machine, paid beforehand."""

from __future__ import annotations

import argparse
import time

from astfast.commands import arguments
from astfast.commands.terminal import print_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's description and arguments."""
    parser.description = (
        "Load a model and run it on silence at every batch size, so that it is downloaded, its precision is checked, "
        "and on a GPU its kernels are compiled and timed: a minute or more, which later processes of this user on "
        "this machine save."
    )
    parser.add_argument("--model", help=arguments.MODEL_HELP)
    arguments.add_device_and_precision(parser)


def run(options: argparse.Namespace) -> bool:
    """Warms the model up and prints what it runs on."""
    import astfast

    start = time.perf_counter()
    tagger = astfast.load(options.model, device=options.device, precision=options.precision).warmup()
    seconds = time.perf_counter() - start
    print_text(f"{tagger.backend} on {tagger.hardware}: ready after {seconds:.1f} s")
    return True
