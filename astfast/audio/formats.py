"""Audio formats by their first bytes. The name of a file plays no part."""

from __future__ import annotations

import os
from typing import NamedTuple

from astfast.audio.descriptors import OpenFile

HEAD = 4096  # bytes that tell the format
SEARCHED = 1 << 16  # bytes of junk before the first frame or page
READABLE = "WAV, FLAC, Ogg (Vorbis, Opus), MP3, AIFF, AU, CAF, W64 and NIST SPHERE"

# Formats that libsndfile reads here: bytes at the file's beginning, and at 8
SOUNDFILE = (
    ("wav", b"RIFF", b"WAVE"),
    ("wav", b"RF64", b"WAVE"),
    ("wav", b"BW64", b"WAVE"),
    ("rifx", b"RIFX", b"WAVE"),
    ("w64", b"riff\x2e\x91\xcf\x11", b""),
    ("aiff", b"FORM", b"AIFF"),
    ("aiff", b"FORM", b"AIFC"),
    ("caf", b"caff", b""),
    ("au", b".snd", b""),
    ("au", b"dns.", b""),
    ("nist", b"NIST_1A", b""),
    ("flac", b"fLaC", b""),
    ("ogg", b"OggS", b""),
)
# Formats that only FFmpeg reads: what people call them, bytes, and where those are
FFMPEG = (
    ("M4A or MP4", b"ftyp", 4),
    ("QuickTime", b"moov", 4),
    ("QuickTime", b"mdat", 4),
    ("QuickTime", b"wide", 4),
    ("QuickTime", b"free", 4),
    ("WebM or Matroska", b"\x1a\x45\xdf\xa3", 0),
    ("WMA or ASF", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", 0),
    ("AMR", b"#!AMR", 0),
    ("AVI", b"AVI ", 8),
    ("FLV", b"FLV\x01", 0),
    ("WavPack", b"wvpk", 0),
    ("True Audio", b"TTA1", 0),
    ("Monkey's Audio", b"MAC ", 0),
    ("Musepack", b"MPCK", 0),
    ("Musepack", b"MP+", 0),
    ("TAK", b"tBaK", 0),
    ("RealMedia", b".RMF", 0),
    ("MPEG programme stream", b"\x00\x00\x01\xba", 0),
    ("AC-3", b"\x0b\x77", 0),
    ("DTS", b"\x7f\xfe\x80\x01", 0),
)
UNSURE = ("AAC", "AC-3", "Musepack", "QuickTime")  # by what little they are told


class Format(NamedTuple):
    """What a file looks like."""

    kind: str  # of SOUNDFILE, "mp3", "ffmpeg" or "unknown"
    name: str  # as people call it
    start: int  # of its first byte, behind ID3 tags


def recognise(file: OpenFile, at: int = 0) -> Format:
    """The format of the file that begins at ``at`` by its first bytes, ID3 tags aside."""
    start = behind_id3(file, at)
    head = os.pread(file.fd, HEAD, start)
    for kind, magic, form in SOUNDFILE:
        if head.startswith(magic) and head[8 : 8 + len(form)] == form:
            return Format(kind, kind.upper(), start)
    if len(head) > 4 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return Format("ffmpeg", "AAC", start)
    if len(head) > 4 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06:
        return Format("mp3", "MP3", start)
    if head[:1] == b"G" and len(head) > 3 * 188 and head[188 : 3 * 188 : 188] == b"GG":
        return Format("ffmpeg", "MPEG transport stream", start)
    for name, magic, place in FFMPEG:
        if head[place : place + len(magic)] == magic:
            return Format("ffmpeg", name, start)
    return Format("unknown", "", start)


def file_at(file: OpenFile, at: int) -> Format | None:
    """The format of an audio file that certainly begins at ``at``, tags aside; None without one.

    Formats that are told by fewer than four bytes, or by what may be padding, are not told of.
    """
    while head := os.pread(file.fd, 16, at):
        if head[:8] == b"APETAGEX":
            at += 32 + int.from_bytes(head[12:], "little")
        elif head[:3] == b"TAG":
            at += 128
        else:
            break
    form = recognise(file, at)
    return form if form.kind not in ("mp3", "unknown") and form.name not in UNSURE else None


def behind_id3(file: OpenFile, at: int) -> int:
    """Where the ID3v2 tags at ``at`` end: ``at`` itself if there are none."""
    while True:
        head = os.pread(file.fd, 10, at)
        if len(head) < 10 or head[:3] != b"ID3" or max(head[6:]) > 127:
            return at
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        at += 10 + size + (10 if head[5] & 0x10 else 0)
