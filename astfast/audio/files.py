"""Audio files -> blocks of samples: libsndfile through soundfile, torchcodec for what libsndfile can't read.

soundfile is imported when the first file is opened, torchcodec (and with it torch) only when libsndfile refused one.
"""

from __future__ import annotations

import importlib.util
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """Opens a path, the bytes of a file, or a binary file object (read from its beginning; never closed).

    A file that ends early is read as far as it decodes; damage that the decoder reports raises AudioError when it is
    reached. Raises AudioError for what is no audio file, naming it by ``name``.
    """
    soundfile = _import_soundfile(name)
    stream = _regular_file(source, name) if isinstance(source, str | os.PathLike) else _byte_stream(source, name)
    try:
        file = soundfile.SoundFile(stream)
    except (soundfile.SoundFileError, TypeError, ValueError, OSError) as error:  # TypeError: headerless (.raw)
        return _decode_with_torchcodec(stream, name, _reason(error))
    if file.channels < 1 or file.samplerate < 1:
        file.close()
        raise AudioError(f"{name}: its header says {file.channels} channels at {file.samplerate} Hz: no audio in it")
    declared = file.frames if 0 <= file.frames < 1 << 62 else None  # libsndfile's "unknown" is 2^63 - 1
    return DecodedAudio(
        rate=int(file.samplerate),
        duration=None if declared is None else declared / file.samplerate,
        blocks=_soundfile_blocks(file, soundfile.SoundFileError, name),
    )


def _soundfile_blocks(file: Any, decoding_error: type[Exception], name: str) -> Iterator[NDArray[np.float32]]:
    size = max(1, VALUES_PER_BLOCK // file.channels)
    done = 0
    with file:
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


def _regular_file(path: str | os.PathLike[str], name: str) -> str:
    """The path, once it is known to lead to a file with something in it."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        raise AudioError(f"{name}: there is no such file: check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise AudioError(f"{name}: can't be opened ({error})") from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{name}: is a folder: give the audio files in it")
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{name}: is not a regular file: give its bytes")
    if status.st_size == 0:
        raise AudioError(f"{name}: the file is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{name}: no permission to read it")
    return os.fspath(path)


def _byte_stream(source: Any, name: str) -> Any:
    """Bytes or a file object as a binary file object that can seek."""
    if isinstance(source, bytes | bytearray | memoryview):
        stream: Any = io.BytesIO(source)
    else:
        try:
            if isinstance(source.read(0), str):
                raise AudioError(f"{name}: a text file object: open it in binary mode, open(path, 'rb')")
            seekable = source.seekable() if hasattr(source, "seekable") else hasattr(source, "seek")
            stream = source if seekable else io.BytesIO(source.read())
        except (OSError, ValueError, TypeError) as error:
            if isinstance(error, AudioError):
                raise
            raise AudioError(f"{name}: can't be read ({error})") from error
    if stream.seek(0, io.SEEK_END) == 0:
        raise AudioError(f"{name}: empty (0 bytes)")
    stream.seek(0)
    return stream


def _decode_with_torchcodec(stream: Any, name: str, refusal: str) -> DecodedAudio:
    """What libsndfile refused, decoded whole by torchcodec."""
    if importlib.util.find_spec("torchcodec") is None:
        raise AudioError(
            f"{name}: not audio that can be read here (libsndfile: {refusal}). It reads {READABLE}; for AAC and video "
            "files: pip install torchcodec"
        )
    try:
        from torchcodec.decoders import AudioDecoder

        if not isinstance(stream, str):
            stream.seek(0)
        decoder = AudioDecoder(stream if isinstance(stream, str) else stream.read())
        return open_decoder(decoder, name)
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
