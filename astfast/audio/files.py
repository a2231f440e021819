"""Audio files -> blocks of samples: libsndfile through soundfile, torchcodec for what libsndfile can't read.

soundfile is imported when the first file is opened, torchcodec (and with it torch) only when libsndfile refused one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.audio.descriptors import OpenFile, taken
from astfast.errors import AudioError

VALUES_PER_BLOCK = 1 << 18  # samples times channels that are decoded at a time: 1 MiB of float32
READABLE = "WAV, FLAC, Ogg (Vorbis, Opus), MP3 and AIFF"


@dataclass(frozen=True)
class DecodedAudio:
    """An opened file or array of samples. ``blocks`` can be walked once; leaving or closing it closes the file."""

    rate: int  # Hz
    duration: float | None  # seconds, as the file's header says; None when it doesn't
    blocks: Iterator[NDArray[np.float32]]  # [samples, channels] each, in [-1, 1]


def open_file(source: str | os.PathLike[str] | bytes | Any, name: str) -> DecodedAudio:
    """Opens a path, the bytes of a file, a binary file object (read from its beginning; never closed), or what
    ``descriptors.taken`` made of one.

    A file that ends early is read as far as it decodes; damage that the decoder reports raises AudioError when it is
    reached. Raises AudioError for what is no audio file, naming it by ``name``.
    """
    soundfile = _import_soundfile(name)
    opened = taken(source, name)
    os.lseek(opened.fd, 0, os.SEEK_SET)
    try:
        file = soundfile.SoundFile(opened.fd, closefd=False)
    except (soundfile.SoundFileError, TypeError, ValueError, OSError) as error:
        return _decode_with_torchcodec(opened, name, _reason(error))
    if file.channels < 1 or file.samplerate < 1:
        file.close()
        raise AudioError(f"{name}: its header says {file.channels} channels at {file.samplerate} Hz: no audio in it")
    declared = file.frames if 0 <= file.frames < 1 << 62 else None  # libsndfile's "unknown" is 2^63 - 1
    return DecodedAudio(
        rate=int(file.samplerate),
        duration=None if declared is None else declared / file.samplerate,
        blocks=_soundfile_blocks(opened, file, soundfile.SoundFileError, name),
    )


def _soundfile_blocks(
    opened: OpenFile, file: Any, decoding_error: type[Exception], name: str
) -> Iterator[NDArray[np.float32]]:
    size = max(1, VALUES_PER_BLOCK // file.channels)
    done = 0
    with contextlib.closing(opened), file:
        while True:
            try:
                block = file.read(size, dtype="float32", always_2d=True)
            except decoding_error as error:
                raise AudioError(
                    f"{name}: damaged after {done / file.samplerate:.1f} s ({_reason(error)}): repair or replace it"
                ) from error
            if not len(block):
                return
            done += len(block)
            yield block


def _import_soundfile(name: str) -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package is there, libsndfile is not
        raise AudioError(f"{name}: audio files need the package soundfile ({error}): pip install soundfile") from error
    return soundfile


def _decode_with_torchcodec(opened: OpenFile, name: str, refusal: str) -> DecodedAudio:
    """What libsndfile refused, decoded whole by torchcodec."""
    if importlib.util.find_spec("torchcodec") is None:
        raise AudioError(
            f"{name}: not audio that can be read here (libsndfile: {refusal}). It reads {READABLE}; for AAC and video "
            "files: pip install torchcodec"
        )
    try:
        from torchcodec.decoders import AudioDecoder

        return open_decoder(AudioDecoder(os.pread(opened.fd, opened.size, 0)), name)
    except AudioError:
        raise
    except Exception as error:  # torchcodec's import and its decoders raise whatever FFmpeg led to
        raise AudioError(
            f"{name}: not audio that can be read (libsndfile: {refusal}; torchcodec: {_reason(error)})"
        ) from error


def open_decoder(decoder: Any, name: str) -> DecodedAudio:
    """An AudioDecoder of torchcodec or datasets; it decodes the whole clip."""
    try:
        samples = decoder.get_all_samples()
        data = np.asarray(samples.data, dtype=np.float32)  # [channels, samples]
        rate = int(samples.sample_rate)
    except Exception as error:  # whatever FFmpeg led to
        raise AudioError(f"{name}: can't be decoded ({_reason(error)})") from error
    if data.ndim != 2 or 0 in data.shape or rate < 1:
        raise AudioError(f"{name}: decodes to samples of shape {data.shape} at {rate} Hz: no audio in it")
    return DecodedAudio(rate=rate, duration=data.shape[1] / rate, blocks=iter([data.T]))


def _reason(error: Exception) -> str:
    """The message without the repr of the stream that soundfile puts before it."""
    return str(getattr(error, "error_string", None) or error).rstrip(".") or type(error).__name__
