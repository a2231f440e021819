"""FLAC files whose count of samples is not right, joined ones, and damaged ones."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from astfast.audio.descriptors import OpenFile
from astfast.audio.endings import joined_at
from astfast.audio.frames import TAIL, adts_frame, mp3_frame
from astfast.audio.frames import next_stream as next_frames
from astfast.audio.parts import Ended, Findings, Part, Parts

READ_AHEAD = 1 << 16  # bytes, at most, that the decoder may have read behind the frame that it stopped at
SCANNED = 1 << 20  # bytes at a time
LONGEST_HEADER = 16  # bytes of a frame
SMALLEST_FRAME = 9  # bytes
LONGEST_GAP = 60.0  # seconds of silence that stand for lost frames
MOST_HOLES = 100
STREAM = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # and STREAMINFO, always the first block
OTHER = re.compile(  # what files of other formats may begin with
    rb"ID3[\x02-\x04]|RIFF(?=....WAVE)|FORM(?=....AIF)|OggS\0\x02|\0\0\0[\x10-\x40]ftyp|\x1aE\xdf\xa3"
    rb"|G(?=.{187}G.{187}G)|\xff(?=[\xe0-\xff])",
    re.DOTALL,
)
SYNC = b"\xff"  # which OTHER finds of a frame of MP3 or AAC
FRAME = re.compile(rb"\xff[\xf8\xf9]")


def _crc8_of_byte(value: int) -> int:
    for _ in range(8):
        value = (value << 1 ^ 0x07 if value & 0x80 else value << 1) & 0xFF
    return value


CRC8 = bytes(map(_crc8_of_byte, range(256)))


class StreamInfo(NamedTuple):
    """The block of metadata that a stream begins with."""

    head: bytes  # a header without any other block, and with an unknown length
    block: int  # samples of a frame
    rate: int  # Hz
    total: int  # samples; 0 if it is unknown, or more than the file can hold


def flac_parts(file: OpenFile, start: int, findings: Findings) -> Parts:
    """Every FLAC stream of a file. Each goes on behind damage, and behind the samples that its header counts."""
    at: int | None = start
    while at is not None:
        info = stream_info(file, at)
        ended = yield Part(at, embeds=True, is_all=info is not None and info.total > 0)
        if info is None or ended.refused:
            return
        near = max(at, ended.position - READ_AHEAD)
        following = next_stream(file, max(near, at + 1))
        if following is not None:
            findings.mended("several FLAC files are joined in it: all of them are read")
        yield from _rest_of_stream(file, info, ended, near, following, findings)
        if following is None and not ended.error and ended.samples >= info.total:
            _say_joined(file, near, findings)
        at = following


def _say_joined(file: OpenFile, at: int, findings: Findings) -> None:
    """Tells of a file of another format behind the stream, whose end is some way behind ``at``."""
    data = os.pread(file.fd, 2 * READ_AHEAD, at)
    near_end = max(at, at + len(data) - TAIL)
    has_frames = any(next_frames(file, near_end, parse) is not None for parse in (mp3_frame, adts_frame))
    for found in OTHER.finditer(data):
        if found[0] == SYNC and not has_frames:
            continue  # as there are hundreds of in a FLAC
        if said := joined_at(file, at + found.start()):
            findings.lost(said)
            return


def _rest_of_stream(
    file: OpenFile, info: StreamInfo, ended: Ended, near: int, following: int | None, findings: Findings
) -> Parts:
    """What is behind the place where the decoder stopped, if there is more."""
    end = file.size if following is None else following
    done, error = ended.samples, ended.error
    later: tuple[int, int] | None = None
    for _ in range(MOST_HOLES):
        if not error and done >= info.total > 0 and ended.position >= end:
            break
        found = next_frame(file, near, end, info, done, adjacent=not error and done >= info.total)
        if found is None:
            break
        near, sample = found[0] + 1, found[1]
        if error and not (later and later[0] >= near and _follows(later[1], sample + info.block, info)):
            later = next_frame(file, near, end, info, sample + info.block)  # far away, it serves many holes
            if later is None:
                break  # the last frame, cut
        if error or sample > done:
            reason = error or "lost frames"
            findings.lost(f"damaged at {done / info.rate:.2f} s ({reason}): what decodes behind it is kept")
        ended = yield Part(found[0], end, info.head, skip=max(0, done - sample), gap=max(0, sample - done))
        if not error and 0 < info.total < sample + ended.samples:
            findings.mended(f"its header counts {info.total / info.rate:.1f} s, more is there: all of it is read")
        done, error = max(done, sample + ended.samples), ended.error
    if done < info.total:
        missing = (info.total - done) / info.rate
        findings.lost(f"damaged or cut off after {done / info.rate:.2f} s: {missing:.2f} s are missing")


def stream_info(file: OpenFile, at: int) -> StreamInfo | None:
    """The STREAMINFO of the stream at ``at``; None if it has none."""
    head = bytearray(os.pread(file.fd, 42, at))
    if len(head) < 42 or not STREAM.match(head):
        return None
    block = int.from_bytes(head[10:12], "big")
    rate = int.from_bytes(head[18:21], "big") >> 4
    total = int.from_bytes(head[21:26], "big") & ((1 << 36) - 1)
    if block < 16 or rate == 0:
        return None
    if total > (file.size - at) // SMALLEST_FRAME * block:
        total = 0
    head[4] = 0x80  # the last block of metadata
    head[21] &= 0xF0
    head[22:] = bytes(20)  # no length, no MD5
    return StreamInfo(bytes(head), block, rate, total)


def next_stream(file: OpenFile, at: int) -> int | None:
    """Where another FLAC begins."""
    while data := os.pread(file.fd, SCANNED + 8, at):
        found = STREAM.search(data)
        if found:
            return at + found.start()
        at += SCANNED
    return None


def next_frame(
    file: OpenFile, at: int, end: int, info: StreamInfo, done: int, adjacent: bool = False
) -> tuple[int, int] | None:
    """(place, first sample) of the next frame with samples behind ``done``; with ``adjacent`` without a gap."""
    while at < end and (data := os.pread(file.fd, min(SCANNED, end - at) + LONGEST_HEADER, at)):
        for found in FRAME.finditer(data, 0, SCANNED + 1):
            sample = first_sample(data[found.start() : found.start() + LONGEST_HEADER], info.block)
            if sample is not None and _follows(sample, done, info, adjacent):
                return at + found.start(), sample
        at += SCANNED
    return None


def _follows(sample: int, done: int, info: StreamInfo, adjacent: bool = False) -> bool:
    """Whether a frame that begins at ``sample`` can go on behind ``done`` samples."""
    return done - info.block < sample <= (done if adjacent else done + LONGEST_GAP * info.rate)


def first_sample(header: bytes, block: int) -> int | None:
    """The number of the first sample of a frame with this header; None if it is none."""
    if len(header) < LONGEST_HEADER or header[3] & 1 or header[2] & 15 == 15 or header[3] >> 4 > 10:
        return None
    ones = 8 - (~header[4] & 0xFF).bit_length()  # as in UTF-8, up to 36 bits
    if ones in (1, 8):
        return None
    size = max(1, ones)
    number = header[4] & (0x7F >> ones)
    for byte in header[5 : 4 + size]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    blocks, rates = header[2] >> 4, header[2] & 15
    end = 4 + size + {6: 1, 7: 2}.get(blocks, 0) + {12: 1, 13: 2, 14: 2}.get(rates, 0)
    if blocks == 0 or end >= len(header) or crc8(header[:end]) != header[end]:
        return None
    return number if header[1] & 1 else number * block  # blocks of any size, or of one


def crc8(data: bytes) -> int:
    """The checksum of a frame's header: x^8 + x^2 + x + 1."""
    value = 0
    for byte in data:
        value = CRC8[value ^ byte]
    return value
