"""What libsndfile can't read, decoded by FFmpeg through PyAV (the extra ``ffmpeg``)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astfast.audio.descriptors import OpenFile
from astfast.audio.endings import end_of, lost_at, other_at
from astfast.audio.formats import Format
from astfast.audio.parts import Findings, Refused, samples_per_block

# Containers of sound. No playlists and no network formats: those make FFmpeg open other files.
CONTAINERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,matroska,webm,mlp,mov,mp4,m4a,3gp,3g2,mj2,mp3,"
    "mpc,mpc8,mpeg,mpegts,nistsphere,ogg,rm,tak,truehd,tta,voc,w64,wav,wv,xwma"
)
COUNTED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv", "wv", "tta", "ape")  # whose length is no guess
MISSING = 0.25  # seconds fewer than counted, which a codec's frames explain
MOST_BAD_PACKETS = 100  # in a row
MANY_CHANNELS = 8  # from which on PyAV reads behind a frame's table of planes
FULL_SCALE = {"i2": 32768.0, "i4": 2147483648.0, "i8": 9223372036854775808.0}

Opened = tuple[int, "float | None", Iterator[NDArray[np.float32]]]  # rate in Hz, seconds if known, blocks


class _Part(NamedTuple):
    """A part of a file that is open: all of it, or one of several files that are joined."""

    container: Any
    stream: Any  # its first of audio
    seconds: float | None  # that it lasts, as its header says
    cut: str  # what is said of a part that ends before its own sizes say
    joined: str  # what is said of another file behind it, if that can't be read
    following: Format | None  # of that file


def open_with_ffmpeg(
    file: OpenFile, form: Format, findings: Findings, per_block: float, counted: float | None = None
) -> Opened:
    """The first audio stream of a file, in blocks [samples, channels] of about ``per_block`` seconds, and
    those of files that are joined to it.

    ``counted``: seconds that another decoder found in its header.

    FFmpeg reads the descriptor itself, without a name and without another protocol, so that no file and no address
    that the file mentions is opened. Raises Refused for what it can't read, ImportError without PyAV.
    """
    part = _opened(file, form, 0, counted)
    frames = _all_frames(file, part, findings)
    first = next(frames, None)
    if first is None:
        part.container.close()
        raise Refused("nothing in it decodes")
    seconds = None if part.following else part.seconds
    return first.sample_rate, seconds, _blocks(file, first, frames, findings, per_block)


def _opened(file: OpenFile, form: Format, start: int, counted: float | None = None) -> _Part:
    """The file that begins at ``start`` in a file, without what is joined to it."""
    import av

    end = end_of(file, form)
    following = None if end is None else other_at(file, end)
    url = "fd:"
    if start or following:
        url = f"subfile,,start,{start},end,{end if following else file.size},,:fd:"
    options = {"fd": str(file.fd), "protocol_whitelist": "fd,subfile", "format_whitelist": CONTAINERS}
    lenient: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
    os.lseek(file.fd, 0, os.SEEK_SET)
    try:
        container = av.open(url, options=options, **lenient)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise Refused(_reason(error)) from error
    stream = next(iter(container.streams.audio), None)
    if stream is None or stream.codec_context is None:
        container.close()
        raise Refused("no audio stream in it")
    stream.codec_context.thread_count = 1  # files are decoded on threads already
    seconds = counted
    if container.format.name in COUNTED:
        if stream.duration is not None:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            seconds = container.duration / av.time_base
    lost = lost_at(file, form, end)
    return _Part(container, stream, seconds, "" if following else lost, lost if following else "", following)


def _all_frames(file: OpenFile, part: _Part, findings: Findings) -> Generator[Any, None, None]:
    """Decoded frames of a part and, where they are FFmpeg's too, of those that are joined to it."""
    while True:
        with contextlib.closing(part.container):
            yield from _frames(part, findings)
        if part.following is None:
            return
        try:
            if part.following.kind != "ffmpeg":
                raise Refused(part.following.name)
            following = _opened(file, part.following, part.following.start)
        except Refused:
            findings.lost(part.joined)
            return
        findings.mended("several files are joined in it: more than the first is read")
        part = following


def _frames(part: _Part, findings: Findings) -> Iterator[Any]:
    """Decoded frames of a part; bad packets are passed over, and said once, as is what its end lacks."""
    import av

    passed = in_a_row = 0  # bad packets before a good one, and since
    concealed = 0  # frames that FFmpeg marks as damaged
    done = 0.0
    reason = ""
    packets = part.container.demux(part.stream)
    while in_a_row < MOST_BAD_PACKETS:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            for frame in packet.decode():
                concealed += frame.is_corrupt
                passed, in_a_row = passed + in_a_row, 0
                done += frame.samples / frame.sample_rate
                yield frame
        except (av.error.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, av.error.EOFError):
                break
            in_a_row += 1
            reason = reason or _reason(error)
            packets = part.container.demux(part.stream)  # the one that raised has ended
    seconds = part.seconds
    if seconds is not None and seconds - done > MISSING:
        findings.lost(f"damaged or cut off: its header counts {seconds:.1f} s, {done:.1f} s decode")
    elif part.cut:
        findings.lost(part.cut)
    elif passed or (in_a_row > 1 and seconds is None):  # one at the end: where a stream was cut
        findings.lost(f"{passed + in_a_row} packets in it are damaged ({reason}): {done:.1f} s decode")
    elif concealed:
        findings.lost(f"{concealed} packets in it are damaged or cut off: {done:.1f} s decode")


def _blocks(
    file: OpenFile, first: Any, frames: Generator[Any, None, None], findings: Findings, per_block: float
) -> Iterator[NDArray[np.float32]]:
    kind = _kind(first)
    size = samples_per_block(*kind, per_block)
    held: list[NDArray[np.float32]] = []
    count = done = 0
    with contextlib.closing(file), contextlib.closing(frames):
        frame = first
        while frame is not None:
            if _kind(frame) != kind:
                at, rate, channels = done / kind[0], frame.sample_rate, frame.layout.nb_channels
                findings.lost(f"from {at:.1f} s on it has {channels} channels at {rate} Hz: that is not read")
                break
            samples = _samples(frame)
            done += len(samples)
            held.append(samples)
            count += len(samples)
            if count >= size:
                yield np.concatenate(held)
                held, count = [], 0
            frame = next(frames, None)
        if held:
            yield np.concatenate(held)


def _kind(frame: Any) -> tuple[int, int]:
    return frame.sample_rate, frame.layout.nb_channels


def _samples(frame: Any) -> NDArray[np.float32]:
    """A frame as float32 [samples, channels]."""
    channels = frame.layout.nb_channels
    if frame.format.is_planar and channels >= MANY_CHANNELS:
        import av

        (frame,) = av.AudioResampler("flt").resample(frame)
    if frame.format.name == "s64":  # which PyAV doesn't know
        whole = np.frombuffer(frame.planes[0], "i8", frame.samples * channels).reshape(-1, channels)
        return (whole / FULL_SCALE["i8"]).astype(np.float32)
    data: NDArray[Any] = frame.to_ndarray()  # planar [channels, samples], else [1, samples * channels]
    data = data.T if frame.format.is_planar else data.reshape(-1, channels)
    samples: NDArray[np.float32] = data.astype(np.float32, copy=False)
    if data.dtype == np.uint8:
        samples = (samples - np.float32(128)) / np.float32(128)
    elif data.dtype.kind != "f":
        samples = samples / np.float32(FULL_SCALE[data.dtype.str[1:]])
    return samples


def _reason(error: Exception) -> str:
    """FFmpeg's message without numbers and the name that it was given."""
    return str(getattr(error, "strerror", None) or error).split(":")[0]
