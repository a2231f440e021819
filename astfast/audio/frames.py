"""Streams of frames that each begin with a header, MPEG audio (MP3) and AAC in ADTS: where they begin and end."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from astfast.audio.descriptors import OpenFile
from astfast.audio.formats import SEARCHED

CONSISTENT = 3  # frame headers in a row: more than random bytes make
TAIL = 1 << 14  # bytes at the end of a file that are looked at first
WALKED = 1 << 20  # bytes at a time
MOST_WALKED = 1 << 25  # bytes of a file whose tail has no frames
HEADER = 7  # bytes of the longer header

# kbit/s by (whether it is MPEG-1, the layer's bits: 3 is layer I), Hz by the version's bits
KBITS = {
    (True, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


class Frame(NamedTuple):
    """What a frame's header says."""

    size: int  # bytes
    stream: tuple[int, ...]  # the same in all frames of a stream: version, layer and rate


Parse: TypeAlias = "Callable[[bytes], Frame | None]"


def mp3_frame(header: bytes) -> Frame | None:
    """A frame of MPEG audio by its four bytes; None if they are no header."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bits, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 0 or bits in (0, 15) or rate == 3:
        return None
    hz = RATES[version][rate]
    per_kbit = 12_000 if layer == 3 else 72_000 if layer == 1 and version != 3 else 144_000
    size = per_kbit * KBITS[version == 3, layer][bits - 1] // hz + (header[2] >> 1 & 1)
    return Frame(size * 4 if layer == 3 else size, (version, layer, hz))  # layer I counts words of 4 bytes


def adts_frame(header: bytes) -> Frame | None:
    """A frame of AAC by its seven bytes; None if they are no header."""
    if len(header) < HEADER or header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 15 > 12:
        return None
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    stream = (header[1] & 8, header[2] & 0xFD, header[3] >> 6)  # version; profile, rate and channels
    return Frame(size, stream) if size > HEADER else None


def begins_stream(file: OpenFile, at: int, parse: Parse, data: bytes = b"", base: int = 0) -> bool:
    """Whether frames of one stream follow each other from here: three, or two that end with the file.

    ``data``: bytes of the file from ``base`` on, which aren't read again.
    """
    found = parse(_header(file, at, data, base))
    stream = found and found.stream
    for count in range(CONSISTENT):
        if found is None or found.stream != stream:
            return False
        at += found.size
        if at >= file.size:
            return count > 0
        found = parse(_header(file, at, data, base))
    return True


def _header(file: OpenFile, at: int, data: bytes, base: int) -> bytes:
    inside = base <= at and at + HEADER <= base + len(data)
    return data[at - base : at - base + HEADER] if inside else os.pread(file.fd, HEADER, at)


def next_stream(file: OpenFile, at: int, parse: Parse) -> int | None:
    """Where frames begin in the next SEARCHED bytes; None where there are none."""
    data = os.pread(file.fd, SEARCHED + HEADER, at)
    place = data.find(b"\xff")
    while 0 <= place < SEARCHED:
        if parse(data[place : place + HEADER]) and begins_stream(file, at + place, parse, data, at):
            return at + place
        place = data.find(b"\xff", place + 1)
    return None


def end_of_frames(file: OpenFile, start: int, parse: Parse) -> int | None:
    """Where the stream of frames that begins at ``start`` ends: behind the file where the last frame is cut; None
    where no frame begins there, or in a large file whose tail has none.

    Damage is passed over. If the file's tail has frames of the stream, no others are looked at.
    """
    first = parse(os.pread(file.fd, HEADER, start))
    if first is None:
        return None
    found = _end(file, max(start, file.size - TAIL), parse, first.stream)
    if found is None and file.size - start <= MOST_WALKED:
        found = _end(file, start, parse, first.stream)
    return found


def _end(file: OpenFile, at: int, parse: Parse, stream: tuple[int, ...]) -> int | None:
    """The end of the last run of frames of a stream."""
    end: int | None = None
    begin = next_stream(file, at, parse)
    while begin is not None:
        at = _end_of_run(file, begin, parse, stream)
        end = at if at > begin else end
        begin = next_stream(file, max(at, begin + 1), parse)
    return end


def _end_of_run(file: OpenFile, at: int, parse: Parse, stream: tuple[int, ...]) -> int:
    base, data = at, b""
    while True:
        if at + HEADER > base + len(data):
            base, data = at, os.pread(file.fd, WALKED, at)
        found = parse(data[at - base : at - base + HEADER])
        if found is None or found.stream != stream:
            return at
        at += found.size
