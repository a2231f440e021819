"""Where a file ends by its own sizes: before its last byte, where another file was joined to it, or behind it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from astfast.audio.descriptors import OpenFile
from astfast.audio.formats import Format, behind_id3, file_at
from astfast.audio.frames import adts_frame, begins_stream, end_of_frames, mp3_frame

MOST_BOXES = 1 << 16  # that are walked
SAMPLES_IN_BOXES = (b"mdat", b"moof", b"moov")  # others at the end are no loss
PACKET = 188  # bytes of a transport stream
SEGMENT = b"\x18\x53\x80\x67"  # of Matroska
PARTS_OF_SEGMENT = [  # its elements, and Void and CRC-32
    *(b"\x11\x4d\x9b\x74", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75", b"\x1c\x53\xbb\x6b"),
    *(b"\x12\x54\xc3\x67", b"\x10\x43\xa7\x70", b"\x19\x41\xa4\x69", b"\xec", b"\xbf"),
]
TTA_FRAME = 256 / 245  # seconds
WAVPACK_BLOCK = struct.Struct("<4sIHBBIIII")


def end_of(file: OpenFile, form: Format) -> int | None:
    """Where a file of this format ends by its own sizes; None where they don't say.

    Formats whose decoders read joined files, or tell of a cut, are not looked at.
    """
    find = ENDS.get(form.kind if form.kind != "ffmpeg" else form.name)
    return find(file, form.start) if find else None


def lost_at(file: OpenFile, form: Format, end: int | None) -> str:
    """What is said of a file that is cut before this end, or behind which another file is; empty if neither is so."""
    if end is None:
        return ""
    if end > file.size:
        if form.kind == "ffmpeg":
            return f"cut off: {end - file.size:,} bytes of its last part are missing"
        return f"cut off: {(end - file.size) / end:.0%} of the bytes that its header counts are missing"
    return joined_at(file, end)


def joined_at(file: OpenFile, end: int) -> str:
    """What is said of another audio file that begins at ``end``; empty if none does."""
    other = other_at(file, end)
    if other is None:
        return ""
    return f"{file.size - end:,} bytes behind its end are not read: another {other.name} file is joined to it"


def other_at(file: OpenFile, end: int) -> Format | None:
    """The format of another audio file that begins at ``end``, tags aside; None if none does."""
    if end >= file.size:
        return None
    frames = behind_id3(file, end)
    for kind, name, parse in (("mp3", "MP3", mp3_frame), ("ffmpeg", "AAC", adts_frame)):
        if begins_stream(file, frames, parse):
            return Format(kind, name, frames)
    return file_at(file, end)


def _aiff(file: OpenFile, start: int) -> int:
    return start + 8 + int(struct.unpack(">I", _read(file, start + 4, 4))[0])


def _w64(file: OpenFile, start: int) -> int:
    return start + int(struct.unpack("<Q", _read(file, start + 16, 8))[0])


def _au(file: OpenFile, start: int) -> int | None:
    head = _read(file, start, 12)
    begin, size = struct.unpack_from(">II" if head[:1] == b"." else "<II", head, 4)
    return None if size == 0xFFFFFFFF else int(start + begin + size)


def _caf(file: OpenFile, start: int) -> int | None:
    at = start + 8
    for _ in range(MOST_BOXES):
        name, size = struct.unpack(">4sq", _read(file, at, 12))
        if not name.isalnum() or name == b"caff" or size < 0:
            break
        if at + 12 + size > file.size:
            return at + 12 + size if name == b"data" else at
        at += 12 + size
    return None if name == b"data" else at  # whose length is unknown


def _mp4(file: OpenFile, start: int) -> int | None:
    at = start
    for _ in range(MOST_BOXES):
        size, name, long_size = struct.unpack(">I4sQ", _read(file, at, 16))
        size = long_size if size == 1 else size
        if size < 8 or not name.isalnum() or (name == b"ftyp" and at > start):
            return at
        if at + size > file.size:
            return at + size if name in SAMPLES_IN_BOXES else at
        at += size
    return None


def _adts(file: OpenFile, start: int) -> int | None:
    return end_of_frames(file, start, adts_frame)


def _transport_stream(file: OpenFile, start: int) -> int:
    whole = (file.size - start) // PACKET
    if all(os.pread(file.fd, 1, start + PACKET * i) == b"G" for i in range(max(0, whole - 5), whole)):
        return start + PACKET * -(-(file.size - start) // PACKET)
    at = start
    while data := os.pread(file.fd, 4096 * PACKET, at)[::PACKET]:
        packets = len(data) - len(data.lstrip(b"G"))
        at += PACKET * packets
        if packets < len(data):
            break
    return at


def _matroska(file: OpenFile, start: int) -> int | None:
    _, begin, size = _element(file, start)
    name, begin, size = _element(file, begin + (size or 0))
    if name != SEGMENT or size is not None:
        return begin + size if name == SEGMENT and size is not None else None
    at = begin  # of a live stream, whose length was not known
    for _ in range(MOST_BOXES):
        name, begin, size = _element(file, at)
        if name not in PARTS_OF_SEGMENT:
            return at
        if size is None:
            return None
        at = begin + size
    return None


def _element(file: OpenFile, at: int) -> tuple[bytes, int, int | None]:
    """(identifier, place of the content, its size if that is known) of an EBML element; no identifier without one."""
    head = _read(file, at, 12)
    of_name = 9 - head[0].bit_length()
    of_size = 9 - head[of_name].bit_length() if of_name <= 4 else 9
    if of_size > 8:
        return b"", at, None
    unknown = (1 << 7 * of_size) - 1
    size = int.from_bytes(head[of_name : of_name + of_size], "big") & unknown
    return head[:of_name], at + of_name + of_size, None if size == unknown else size


def _tta(file: OpenFile, start: int) -> int | None:
    rate, samples = struct.unpack("<II", _read(file, start + 10, 8))
    length = rate * 256 // 245
    frames = -(-samples // length) if length else 0
    if not 0 < frames < file.size // 4:
        return None
    sizes = _read(file, start + 22, 4 * frames)
    return start + 22 + len(sizes) + 4 + int(sum(struct.unpack(f"<{frames}I", sizes)))


def _wavpack(file: OpenFile, start: int) -> int | None:
    at = start
    for _ in range(MOST_BOXES):
        name, size, _, _, _, _, first, samples, _ = WAVPACK_BLOCK.unpack(_read(file, at, WAVPACK_BLOCK.size))
        if name != b"wvpk" or (at > start and not first and samples):
            return at
        at += 8 + size
    return None


def _read(file: OpenFile, at: int, count: int) -> bytes:
    return os.pread(file.fd, count, at).ljust(count, b"\0")


ENDS: dict[str, Callable[[OpenFile, int], int | None]] = {
    "aiff": _aiff,
    "rifx": _aiff,
    "w64": _w64,
    "au": _au,
    "caf": _caf,
    "M4A or MP4": _mp4,
    "AAC": _adts,
    "MPEG transport stream": _transport_stream,
    "WebM or Matroska": _matroska,
    "True Audio": _tta,
    "WavPack": _wavpack,
}
