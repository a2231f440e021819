"""Audio files -> blocks of samples, by libsndfile through soundfile, part by part."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast.audio import memory
from astfast.audio.descriptors import OpenFile
from astfast.audio.endings import end_of, lost_at
from astfast.audio.flac import flac_parts
from astfast.audio.formats import Format
from astfast.audio.mp3 import find_frames, mp3_parts
from astfast.audio.ogg import ogg_parts
from astfast.audio.parts import Ended, Findings, Part, Parts, Refused, Source, samples_per_block
from astfast.audio.wav import wav_parts

FORMATS = {"WAV", "WAVEX", "RF64", "W64", "AIFF", "FLAC", "OGG", "MP3", "CAF", "AU", "NIST"}  # libsndfile has 17 more
UNKNOWN_LENGTH = 1 << 62  # and above
NO_SAMPLES = "no samples in it"

Block = NDArray[np.float32]  # [samples, channels]


def open_with_libsndfile(
    file: OpenFile, form: Format, findings: Findings, seconds: float
) -> tuple[int, float | None, Iterator[Block]]:
    """(rate in Hz, seconds if they are known, blocks of ``seconds`` at most) of a file whose format was recognised.

    The first block is decoded at once. Raises Refused if there is none.
    """
    reading = _Reading(file, form, findings, seconds)
    blocks = reading.blocks()
    first = next(blocks, None)
    if first is None:
        raise Refused(reading.reason or NO_SAMPLES, reading.duration)
    return reading.rate, reading.duration, itertools.chain([first], blocks)


class _Reading:
    """A file that is being decoded. Its rate and duration are known once there is a block."""

    def __init__(self, file: OpenFile, form: Format, findings: Findings, seconds: float) -> None:
        self.rate = 0  # Hz
        self.duration: float | None = None  # seconds
        self.reason = ""  # why the last part can't be opened, or not be read on
        self._channels = self._done = 0
        self._file, self._form, self._findings, self._seconds = file, form, findings, seconds

    def blocks(self) -> Generator[Block, None, None]:
        """All blocks of all parts, and silence in the place of what is lost between them."""
        parts = _parts(self._file, self._form, self._findings)
        part = next(parts, None)
        if part is None:
            self.reason = "format not recognised"
        while part is not None:
            with contextlib.closing(Source(self._file, part)) as source:
                ended = yield from self._part(part, source)
            if ended is None:
                return
            try:
                part = parts.send(ended)
            except StopIteration:
                return

    def _part(self, part: Part, source: Source) -> Generator[Block, None, Ended | None]:
        """The blocks of a part, and how it ended; None where it is sound of another kind."""
        import soundfile

        if self._form.kind in ("mp3", "unknown"):
            from astfast.audio.silence import silence_decoders

            silence_decoders()
        try:
            sound = soundfile.SoundFile(source.stream, closefd=False)
        except (soundfile.SoundFileError, TypeError, ValueError, OSError) as error:
            self.reason = _reason(error)
            return Ended(source.position(), 0, None, 0, refused=True)
        with sound:
            kind = f"{sound.channels} channels at {sound.samplerate} Hz"
            if sound.format not in FORMATS or sound.channels < 1 or sound.samplerate < 1:
                self.reason = f"its header says {sound.format}, {kind}"
                return Ended(source.position(), 0, None, 0, refused=True)
            counted = sound.frames if 0 <= sound.frames < UNKNOWN_LENGTH else None
            if not self.rate:
                self.rate, self._channels = sound.samplerate, sound.channels
                self.duration = counted / self.rate if counted is not None and part.is_all else None
            elif (sound.samplerate, sound.channels) != (self.rate, self._channels):
                self._findings.lost(f"from {self._done / self.rate:.1f} s on it has {kind}: that is not read")
                return None
            yield from self._silence(part.gap)
            done, why = yield from self._decoded(sound, counted, part.skip)
            if why:
                self.reason = why
                if self._done and self._form.kind != "flac":  # which goes on behind damage
                    self._findings.lost(f"damaged after {self._done / self.rate:.1f} s ({why}): the rest is missing")
            return Ended(source.position(), done, counted, self.rate, why)

    def _decoded(self, sound: Any, counted: int | None, skip: int) -> Generator[Block, None, tuple[int, str]]:
        """The blocks of an open part but for its first ``skip`` samples; (samples with those, why it stopped early)."""
        import soundfile

        sound._info.seekable = 0  # else soundfile seeks after each block, and fails where libsndfile can't seek
        size = samples_per_block(self.rate, self._channels, self._seconds)
        done, why = 0, ""
        while not why and (counted is None or done < counted):
            samples = size if counted is None else min(size, counted - done)
            block = memory.empty(samples * self._channels).reshape(samples, self._channels)
            try:
                got = sound.buffer_read_into(block, "float32")
            except soundfile.SoundFileError as error:
                got = min(len(block), sound.tell() - done)
                if (
                    got <= 0 or self._form.kind != "ogg"
                ):  # whose next packets may be good: ogg.py counts what is missing
                    why = _reason(error)
            if got <= 0:  # below 0 in a damaged Ogg
                break
            kept = block[max(0, skip - done) : got]
            done += got
            if len(kept):
                self._done += len(kept)
                yield kept
        return done, why

    def _silence(self, samples: int) -> Iterator[Block]:
        size = samples_per_block(self.rate, self._channels, self._seconds)
        for start in range(0, samples, size):
            count = min(size, samples - start)
            self._done += count
            yield np.zeros((count, self._channels), np.float32)


def _parts(file: OpenFile, form: Format, findings: Findings) -> Parts:
    """The parts of a file in the order of decoding."""
    if form.kind == "wav":
        return wav_parts(file, findings)
    if form.kind == "flac":
        return flac_parts(file, form.start, findings)
    if form.kind == "mp3" or (form.kind == "unknown" and find_frames(file, form.start) is not None):
        return mp3_parts(file, form.start, findings)
    if form.kind in ("ogg", "unknown"):
        return ogg_parts(file, form.start, findings)
    return _whole(file, form, findings)


def _whole(file: OpenFile, form: Format, findings: Findings) -> Parts:
    end = end_of(file, form)
    lost = lost_at(file, form, end)
    yield Part(end=end if lost and end is not None and end < file.size else None)
    if lost:
        findings.lost(lost)


def _reason(error: Exception) -> str:
    """The message without the name of the descriptor that soundfile puts before it."""
    return str(getattr(error, "error_string", None) or error).rstrip(".") or type(error).__name__
