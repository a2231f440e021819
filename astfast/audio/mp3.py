"""MP3 files as they are found: joined, behind junk, with or without a count of their bytes, and cut."""

from __future__ import annotations

import os
import struct

from astfast.audio.descriptors import OpenFile
from astfast.audio.endings import joined_at, other_at
from astfast.audio.formats import SEARCHED, behind_id3
from astfast.audio.frames import end_of_frames, mp3_frame, next_stream
from astfast.audio.parts import Findings, Part, Parts

MOST_TAGS = 16  # ID3 tags that are skipped on the way to a frame
OFF = 0.01  # share by which a count of bytes may be wrong before libmpg123 writes to stderr
MISSING = 0.2  # seconds fewer than counted: what encoders and a damaged frame take


def mp3_parts(file: OpenFile, start: int, findings: Findings) -> Parts:
    """Every MP3 stream of a file: the first, wherever it begins, and those that were joined to it.

    A stream with an Info frame is decoded as far as that counts, so that the silence which its encoder added is left
    out. Without one libsndfile guesses the length: where it stops, the next part goes on.
    """
    at = find_frames(file, start)
    while at is not None:
        counted = counted_bytes(file, at)
        if counted is None:
            end = end_of_frames(file, at, mp3_frame) or file.size
            other = other_at(file, end)
            bound = end if other and other.kind != "mp3" else None  # at what libmpg123 would take for damage
            ended = yield Part(at, bound, embeds=True, is_all=False)
            at = find_frames(file, ended.position) if ended.samples else None
            if at is None or (bound and at >= bound):
                at = None
                _say_end(file, end, findings)
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
        first, at = at, find_frames(file, at + count) if done else None
        if at is None and first + count < file.size:
            _say_end(file, first + count, findings)
        elif at is None:
            _say_end(file, end_of_frames(file, first, mp3_frame) or file.size, findings)


def _say_end(file: OpenFile, end: int, findings: Findings) -> None:
    """Tells of a file whose last frame ends at ``end`` what is missing of it, or joined to it."""
    if end > file.size:
        findings.lost("cut off in the middle of a frame: what is before it is read")
    elif joined := joined_at(file, end):
        findings.lost(joined)


def find_frames(file: OpenFile, at: int) -> int | None:
    """Where the next frames begin, behind tags and junk; None where there are none."""
    for _ in range(MOST_TAGS):
        at = behind_id3(file, at)
        found = next_stream(file, at, mp3_frame)
        if found is not None:
            return found
        tag = os.pread(file.fd, SEARCHED, at).find(b"ID3")
        if tag < 0:
            return None
        at = max(at + tag + 1, behind_id3(file, at + tag))
    return None


def counted_bytes(file: OpenFile, at: int) -> tuple[int, int] | None:
    """(place in the file, value) of the count of bytes in the Info or Xing frame that a stream begins with."""
    data = os.pread(file.fd, 64, at)
    first = mp3_frame(data)
    tag = max(data.find(b"Info", 4), data.find(b"Xing", 4))
    if tag < 0 or first is None or len(data) < tag + 16:
        return None
    flags, _, count = struct.unpack_from(">III", data, tag + 4)
    return (at + tag + 12, count) if flags & 3 == 3 and count >= first.size else None
