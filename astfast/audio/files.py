"""Audio files -> blocks of samples: by libsndfile, and by FFmpeg what that can't read.

soundfile is imported when the first file is opened, PyAV only when libsndfile refused one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.audio.descriptors import taken
from astfast.audio.formats import READABLE, Format, recognise
from astfast.audio.libsndfile import NO_SAMPLES, open_with_libsndfile
from astfast.audio.parts import Findings, Refused
from astfast.errors import AudioError

SECONDS_PER_PIECE = 10.0  # of an AudioDecoder


@dataclass(frozen=True)
class DecodedAudio:
    """An opened file or array of samples. ``blocks`` can be walked once; leaving or closing it closes the file."""

    rate: int  # Hz
    duration: float | None  # seconds, as the file's header says; None when it doesn't, or may be wrong
    blocks: Iterator[NDArray[np.float32]]  # [samples, channels] each, in [-1, 1]


def open_file(source: str | os.PathLike[str] | bytes | Any, findings: Findings, seconds: float) -> DecodedAudio:
    """Opens a path, the bytes of a file, a binary file object (read from its beginning; never closed), or what
    ``descriptors.taken`` made of one. The format is told from the content.

    All that decodes is kept: what is lost (the file is damaged, or shorter than its header says), and a header that
    was mended, is told to ``findings`` as it is reached. Raises AudioError for what is no audio file.
    """
    name = findings.name
    _check_soundfile(name)
    file = taken(source, name)
    form = recognise(file)
    refusal, counted = "", None
    if form.kind != "ffmpeg":
        try:
            return DecodedAudio(*open_with_libsndfile(file, form, findings, seconds))
        except Refused as reason:
            refusal, counted = f"libsndfile: {reason}", reason.seconds
            if str(reason) == NO_SAMPLES:
                raise AudioError(f"{name}: {NO_SAMPLES}", kind="empty") from None
    from astfast.audio.ffmpeg import open_with_ffmpeg  # a millisecond that most files need not

    try:
        return DecodedAudio(*open_with_ffmpeg(file, form, findings, seconds, counted))
    except ImportError:
        raise _refused(name, form, refusal) from None
    except Refused as reason:
        what = f"damaged, or no {form.name} that" if form.name else "not audio that"
        raise AudioError(
            f"{name}: {what} can be read ({'; '.join(filter(None, (refusal, f'FFmpeg: {reason}')))})",
            kind="undecodable",
        ) from None


def _refused(name: str, form: Format, refusal: str) -> AudioError:
    """The error for what libsndfile can't read, without PyAV."""
    extra = "FFmpeg: pip install 'astfast[ffmpeg]'"
    if form.kind == "ffmpeg":
        return AudioError(f"{name}: {form.name} needs {extra}", kind="unsupported")
    if form.kind == "ogg":
        return AudioError(
            f"{name}: damaged, or another codec than Vorbis and Opus, which needs {extra} ({refusal})",
            kind="undecodable",
        )
    if form.kind == "unknown":
        return AudioError(
            f"{name}: not audio that can be read here. It reads {READABLE}; for M4A, WebM, WMA, video files and more: "
            "pip install 'astfast[ffmpeg]'",
            kind="undecodable",
        )
    return AudioError(f"{name}: damaged, or a codec that needs {extra} ({refusal})", kind="undecodable")


def _check_soundfile(name: str) -> None:
    try:
        import soundfile  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: the package is there, libsndfile is not
        raise AudioError(
            f"{name}: audio files need the package soundfile ({error}): pip install soundfile", kind="unsupported"
        ) from error


def open_decoder(decoder: Any, name: str) -> DecodedAudio:
    """An AudioDecoder of torchcodec or datasets, decoded in pieces where it knows its length.

    Raises AudioError, at once or in the middle, for whatever the decoder raises.
    """
    metadata = getattr(decoder, "metadata", None)
    duration = getattr(metadata, "duration_seconds", None)
    pieces = _pieces(decoder, duration, getattr(metadata, "begin_stream_seconds", None) or 0.0)
    blocks = _decoder_blocks(pieces, name)
    rate, first = next(blocks)
    if duration is None:
        duration = len(first) / rate
    return DecodedAudio(rate, float(duration), itertools.chain([first], (block for _, block in blocks)))


def _pieces(decoder: Any, duration: float | None, start: float) -> Iterator[Any]:
    if duration is None:
        yield decoder.get_all_samples()
        return
    while start < duration:
        stop = start + SECONDS_PER_PIECE
        yield decoder.get_samples_played_in_range(start, stop if stop < duration else None)
        start = stop


def _decoder_blocks(pieces: Iterator[Any], name: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(rate, block) of each piece; at least one."""
    count = 0
    while True:
        try:
            samples = next(pieces, None)
            if samples is None:
                break
            data = np.asarray(samples.data, dtype=np.float32)  # [channels, samples]
            rate = int(samples.sample_rate)
        except Exception as error:  # whatever FFmpeg led to
            raise AudioError(
                f"{name}: can't be decoded ({str(error) or type(error).__name__})", kind="undecodable"
            ) from error
        if data.ndim != 2 or not data.shape[0] or rate < 1:
            raise AudioError(
                f"{name}: decodes to samples of shape {data.shape} at {rate} Hz: no audio in it", kind="undecodable"
            )
        if data.shape[1]:
            count += 1
            yield rate, data.T
    if not count:
        raise AudioError(f"{name}: {NO_SAMPLES}", kind="empty")
