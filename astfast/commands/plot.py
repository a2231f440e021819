"""Command ``astfast plot``: a recording's spectrogram with its tags below, as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from astfast.commands import arguments
from astfast.commands.terminal import escaped, library_messages_hidden, print_text

FORMATS = (".png", ".svg", ".pdf")
ROWS = 8
TAGS = 20  # of a window that are looked at; others count as 0
CELLS = 50  # about, on the time axis of a recording of few windows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's description and arguments."""
    parser.description = (
        "Draw the spectrogram of an audio file, and below it when which tags have which scores. Needs matplotlib: pip "
        "install 'astfast[plot]'."
    )
    parser.add_argument("file", metavar="FILE", help="audio file")
    parser.add_argument(
        "--out", type=Path, metavar="PICTURE", help=f"file to write, {', '.join(FORMATS)} (default: FILE.png, here)"
    )
    parser.add_argument("--model", help=arguments.MODEL_HELP)
    parser.add_argument(
        "--tags", type=arguments.count, default=ROWS, metavar="N", help=f"labels that are shown (default: {ROWS})"
    )
    parser.add_argument(
        "--window", type=arguments.number, metavar="SECONDS", help="that are tagged at a time (default: the model's)"
    )
    parser.add_argument(
        "--hop",
        type=arguments.number,
        metavar="SECONDS",
        help="from a window to the next (default: a quarter of it, up to all of it for a long file)",
    )
    arguments.add_device_and_precision(parser)
    parser.set_defaults(usage_error=parser.error)


def run(options: argparse.Namespace) -> bool:
    """Writes the picture and prints its name."""
    out = options.out or Path(Path(options.file).name + ".png")
    if out.suffix.lower() not in FORMATS:
        options.usage_error(f"--out {out}: its ending must be one of {', '.join(FORMATS)}")
    with library_messages_hidden():
        _plot(options, out)
    print_text(escaped(str(out)))
    return True


def _plot(options: argparse.Namespace, out: Path) -> None:
    import astfast
    from astfast.audio.inputs import only_audio_errors, open_audio
    from astfast.plotting import figure
    from astfast.plotting.spectrogram import Spectrogram
    from astfast.plotting.timeline import timeline
    from astfast.tagging.tagger import opened

    tagger = astfast.load(options.model, device=options.device, precision=options.precision)
    engine, _ = opened(tagger)
    audio = open_audio(options.file, None, engine.sampling_rate)
    with only_audio_errors(audio.name):
        spectrogram = Spectrogram(engine.sampling_rate).add(audio.blocks)
    duration = spectrogram.samples / engine.sampling_rate
    window = options.window or engine.input_samples / engine.sampling_rate
    hop = options.hop or min(window, max(window / 4, duration / CELLS))
    try:
        found = tagger.stream_segments([options.file], window=window, hop=hop, top_k=TAGS)
        segments: Any = (segment for _, segment in found)
        tags = timeline(segments, duration, hop, options.tags)
    except ValueError as error:
        if isinstance(error, astfast.AudioError):
            raise
        raise astfast.AstfastError(str(error)) from error  # a window that is too short
    figure.draw(out, escaped(options.file), spectrogram, tags)
