"""WAV, RF64 and BW64 files whose headers are not right, and joined ones."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from astfast.audio.descriptors import OpenFile
from astfast.audio.endings import joined_at
from astfast.audio.parts import Findings, Part, Parts

MOST_CHUNKS = 4096  # that are walked before the data
LONGEST_FMT = 1 << 16  # bytes
JOINED = (b"RIFF", b"RF64", b"BW64")
UNKNOWN_SIZE = 0x7FFF0000  # and above, for data that is cut: writers to a pipe put such sizes there


class Header(NamedTuple):
    """The chunks that matter."""

    fmt: bytes
    data: int  # where the samples begin
    size: int  # bytes of samples, as the header says

    def seconds(self, size: int) -> str:
        rate = struct.unpack_from("<I", self.fmt, 8)[0] if len(self.fmt) >= 12 else 0
        return f"{size / rate:.1f} s" if rate else f"{size} bytes"


def wav_parts(file: OpenFile, findings: Findings) -> Parts:
    """The file as it is, or its samples behind a header that says what is there; and those that were joined to it."""
    found = headers(file)
    header = next(found, None)
    if header is None:
        yield Part()
        return
    end = header.data + header.size + (header.size & 1)
    there = file.size - header.data
    following = next(found, None) if there > header.size > 0 else None
    unknown = not header.size and there > 0 and not _is_chunk(file, header.data)
    behind = joined_at(file, end) if there > header.size > 0 and following is None else ""
    more = there > header.size > 0 and following is None and not behind and _is_more_data(file, header)
    if unknown:
        findings.mended(f"its header was never finished: all {header.seconds(there)} behind it are read")
    elif more:
        findings.mended(
            f"its header counts {header.seconds(header.size)}, {header.seconds(there)} are there: all of it is read"
        )
    _say_cut(header, file.size, findings)
    renewed = with_new_header(header, there if unknown or more else min(there, header.size))
    as_it_is = not unknown and not more and os.pread(file.fd, 4, 0) != b"BW64"
    if not as_it_is or (yield Part(is_all=following is None)).refused:  # for a chunk that libsndfile can't read
        yield renewed
    while following is not None:
        if following.fmt[2:8] == header.fmt[2:8]:  # else the reader tells from where on it has other channels or rates
            findings.mended("several WAV files, or parts of one, are joined in it: all of them are read")
        _say_cut(following, file.size, findings)
        part = with_new_header(following, min(following.size, file.size - following.data))
        if (yield part._replace(is_all=False)).refused:
            findings.lost("a WAV file that is joined to it can't be read")
        end = following.data + following.size + (following.size & 1)
        following = next(found, None)
        behind = joined_at(file, end)
    if behind:
        findings.lost(behind)


def _say_cut(header: Header, size: int, findings: Findings) -> None:
    there = size - header.data
    if there < header.size < UNKNOWN_SIZE:
        counted, found = header.seconds(header.size), header.seconds(there)
        findings.lost(f"cut off: its header counts {counted}, {found} are there")


def read_header(file: OpenFile) -> Header | None:
    """The format and the place of the samples; None where chunks don't lead to them."""
    return next(headers(file), None)


def headers(file: OpenFile) -> Iterator[Header]:
    """The format and the place of the samples, for each chunk of samples that chunks lead to; of joined files too."""
    at, fmt, long_size, found = 12, b"", None, False
    for _ in range(MOST_CHUNKS):
        head = os.pread(file.fd, 12, at)
        if len(head) < 8:
            return
        name, size = struct.unpack_from("<4sI", head)
        if name in JOINED and head[8:] == b"WAVE":
            at, fmt, long_size = at + 12, b"", None
            continue
        if found and not name.strip().isalnum():
            return
        if name == b"data":
            if size == 0xFFFFFFFF and long_size is not None:
                size = long_size
            if len(fmt) < 16:
                return
            found = True
            yield Header(fmt, at + 8, size)
            if size > file.size:
                return
        elif name == b"fmt ":
            fmt = os.pread(file.fd, min(size, LONGEST_FMT), at + 8)
        elif name == b"ds64" and size >= 16:
            (long_size,) = struct.unpack("<Q", os.pread(file.fd, 8, at + 16).ljust(8, b"\0"))
        at += 8 + size + (size & 1)


def with_new_header(header: Header, size: int) -> Part:
    """``size`` bytes of samples behind a header of nothing but their format."""
    fmt = b"fmt " + struct.pack("<I", len(header.fmt)) + header.fmt + b"\0" * (len(header.fmt) & 1)
    if size < 0xFFFFFF00 - len(fmt):
        chunks = b"WAVE" + fmt + b"data" + struct.pack("<I", size)
        prefix = b"RIFF" + struct.pack("<I", len(chunks) + size) + chunks
    else:
        frames = size // max(1, struct.unpack_from("<H", header.fmt, 12)[0])
        sizes = struct.pack("<IQQQI", 28, 48 + len(fmt) + size, size, frames, 0)
        prefix = b"RF64\xff\xff\xff\xffWAVEds64" + sizes + fmt + b"data\xff\xff\xff\xff"
    return Part(header.data, header.data + size, prefix)


def _is_more_data(file: OpenFile, header: Header) -> bool:
    """Whether what is behind the data is data too: no chunk, no padding, and too much to be left over."""
    end = header.data + header.size + (header.size & 1)
    rest = file.size - end
    if rest < header.size / 4 and rest < struct.unpack_from("<I", header.fmt, 8)[0]:  # nor a second
        return False
    if (file.size - header.data - header.size) % (1 << 32) == 0:
        return True  # 32 bits have wrapped
    padding = not any(os.pread(file.fd, 4096, end)) and not any(os.pread(file.fd, 4096, file.size - 4096))
    return not padding and not _is_chunk(file, end)


def _is_chunk(file: OpenFile, at: int) -> bool:
    head = os.pread(file.fd, 8, at)
    if len(head) < 8:
        return False
    name, size = struct.unpack("<4sI", head)
    return bool(name.isascii() and name.strip().isalnum() and at + 8 + size <= file.size + 1)
