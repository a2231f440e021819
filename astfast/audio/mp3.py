"""MP3 files as they are found: joined, behind junk, with or without a count of their bytes, and cut."""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from astfast.audio.descriptors import OpenFile
from astfast.audio.formats import SEARCHED, behind_id3, file_at
from astfast.audio.parts import Findings, Part, Parts

CONSISTENT = 3  # frame headers in a row: more than random bytes make
MOST_TAGS = 16  # ID3 tags that are skipped on the way to a frame
OFF = 0.01  # share by which a count of bytes may be wrong before libmpg123 writes to stderr
MISSING = 0.2  # seconds fewer than counted: what encoders and a damaged frame take

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
    stream: tuple[int, int, int]  # version, layer and rate: the same in all frames of a stream


def mp3_parts(file: OpenFile, start: int, findings: Findings) -> Parts:
    """Every MP3 stream of a file: the first, wherever it begins, and those that were joined to it.

    A stream with an Info frame is decoded as far as that counts, so that the silence which its encoder added is left
    out. Without one libsndfile guesses the length: where it stops, the next part goes on.
    """
    at = find_frames(file, start)
    while at is not None:
        counted = counted_bytes(file, at)
        if counted is None:
            ended = yield Part(at, embeds=True, is_all=False)
            at = find_frames(file, ended.position) if ended.samples else None
            continue
        place, count = counted
        there = file.size - at
        if count > there * (1 + OFF):
            prefix = os.pread(file.fd, place - at, at) + struct.pack(">I", there)
            ended = yield Part(place + 4, None, prefix, is_all=False)
        else:
            whole = count >= there * (1 - OFF)
            ended = yield Part(at, None if whole else at + count, embeds=True, is_all=whole)
        declared, rate, done = ended.declared or 0, ended.rate, ended.samples
        while declared - done > MISSING * rate and ended.samples:  # libmpg123 may give up at damage
            behind = find_frames(file, ended.position)
            if behind is None or behind >= at + count:
                break
            ended = yield Part(behind, None if at + count >= file.size else at + count, embeds=True, is_all=False)
            done += ended.samples
        if done and declared - done > MISSING * rate:
            counts, found = declared / rate, done / rate
            findings.lost(f"damaged or cut off: its header counts {counts:.1f} s, {found:.1f} s decode")
        end, at = at + count, find_frames(file, at + count) if done else None
        other = file_at(file, end) if at is None else None
        if other:
            findings.lost(
                f"{file.size - end:,} bytes behind its end are not read: another {other} file is joined to it"
            )


def find_frames(file: OpenFile, at: int) -> int | None:
    """Where the next frames begin, behind tags and junk; None where there are none."""
    for _ in range(MOST_TAGS):
        at = behind_id3(file, at)
        data = os.pread(file.fd, SEARCHED, at)
        place = data.find(b"\xff")
        while place >= 0:
            if begins_stream(file, at + place, data[place : place + 4]):
                return at + place
            place = data.find(b"\xff", place + 1)
        tag = data.find(b"ID3")
        if tag < 0:
            return None
        at = max(at + tag + 1, behind_id3(file, at + tag))
    return None


def frame(header: bytes) -> Frame | None:
    """A frame's size and stream by its four bytes; None if they are no header."""
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


def begins_stream(file: OpenFile, at: int, header: bytes) -> bool:
    """Whether frames of one stream follow each other from here: three, or two that end with the file."""
    found = frame(header)
    stream = found and found.stream
    for count in range(CONSISTENT):
        if found is None or found.stream != stream:
            return False
        at += found.size
        header = os.pread(file.fd, 4, at)
        if len(header) < 4:
            return count > 0
        found = frame(header)
    return True


def counted_bytes(file: OpenFile, at: int) -> tuple[int, int] | None:
    """(place in the file, value) of the count of bytes in the Info or Xing frame that a stream begins with."""
    data = os.pread(file.fd, 64, at)
    first = frame(data[:4])
    tag = max(data.find(b"Info", 4), data.find(b"Xing", 4))
    if tag < 0 or first is None or len(data) < tag + 16:
        return None
    flags, _, count = struct.unpack_from(">III", data, tag + 4)
    return (at + tag + 12, count) if flags & 3 == 3 and count >= first.size else None
