"""Ogg files of several streams one behind the other (chained), behind junk, and cut."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from astfast.audio.descriptors import OpenFile
from astfast.audio.endings import joined_at
from astfast.audio.formats import SEARCHED
from astfast.audio.parts import Ended, Findings, Part, Parts

CAPTURE = b"OggS\0"
LARGEST_HEADER = 27 + 255  # bytes of a page
READ_AT_ONCE = 1 << 16  # bytes, the headers of some pages: each read waits for the interpreter's lock
FIRST_PAGE = 2  # flag of a page
OPUS_RATE = 48_000  # Hz, of the times of its pages
FURTHEST = 1 << 62  # samples; more are no time
MISSING = 0.2  # seconds fewer than the pages count


class Page(NamedTuple):
    """A page's header."""

    start: int
    end: int
    first: bool  # whether a stream begins with it
    serial: int  # of its stream
    time: int  # samples up to its end; none or a huge number where no packet ends in it
    packets: int = 0  # that end in it


def ogg_parts(file: OpenFile, start: int, findings: Findings) -> Parts:
    """Every link of a chain."""
    at = start if os.pread(file.fd, 5, start) == CAPTURE else _capture(file, start, start + SEARCHED)
    while at is not None:
        ended = yield Part(at, is_all=_ends_as_it_begins(file, at))
        at = _next_link(file, at, ended, findings) if ended.samples else None


def _next_link(file: OpenFile, start: int, ended: Ended, findings: Findings) -> int | None:
    """Where the link behind the one at ``start`` begins, None behind the last; says what was lost of that one."""
    opus = b"OpusHead" in os.pread(file.fd, 64, start)
    following, last, time = None, start, 0
    timed: list[Page] = []  # the first two pages with a time
    for page in pages(file, start):
        if page.first and time:
            following = page.start
            break
        last = page.end
        if 0 < page.time < FURTHEST and last <= file.size:
            time = page.time
            if len(timed) < 2:
                timed.append(page)
    rate = OPUS_RATE if opus else ended.rate
    decoded = ended.samples / ended.rate
    missing = (time - _began(timed)) / rate - decoded
    if missing > MISSING:
        findings.lost(f"damaged in the middle: about {missing:.1f} s are missing, {decoded:.1f} s decode")
    elif last > file.size:
        findings.lost("cut off in the middle of an Ogg page: what is before it is read")
    elif following is None and (joined := joined_at(file, last)):
        findings.lost(joined)
    return following


def _began(timed: list[Page]) -> float:
    """The time at which a stream begins, in samples: not 0 for one that was tapped late, or cut out of another.

    ``timed``: its first two pages with a time; packets of the first are taken to be as long as those of the second.
    """
    if len(timed) < 2 or not timed[1].packets:
        return timed[0].time if timed else 0
    first, second = timed
    return max(0.0, first.time - first.packets * (second.time - first.time) / second.packets)


def _ends_as_it_begins(file: OpenFile, start: int) -> bool:
    """Whether the last page belongs to a stream that begins at ``start``: of a chain it doesn't, as a rule."""
    first: set[int] = set()
    for page in pages(file, start):
        if not page.first:
            break
        first.add(page.serial)
    tail = max(start, file.size - SEARCHED)
    data = os.pread(file.fd, SEARCHED, tail)
    last = data.rfind(CAPTURE)
    return last >= 0 and int.from_bytes(data[last + 14 : last + 18], "little") in first


def pages(file: OpenFile, at: int) -> Iterator[Page]:
    """The headers of all pages; damaged ones are passed over."""
    data, begin = b"", 0  # a piece of the file, and where it begins
    while True:
        if not begin <= at <= begin + len(data) - LARGEST_HEADER:
            data, begin = os.pread(file.fd, READ_AT_ONCE, at), at
        head = data[at - begin : at - begin + LARGEST_HEADER]
        if head[:5] != CAPTURE:
            found = _capture(file, at, file.size) if len(head) > 4 else None
            if found is None:
                return
            at = found
            continue
        if len(head) < 27 or len(head) < 27 + head[26]:
            yield Page(at, file.size + 1, first=False, serial=0, time=0)  # cut
            return
        sizes = head[27 : 27 + head[26]]
        end = at + 27 + len(sizes) + sum(sizes)
        time, serial = struct.unpack_from("<QI", head, 6)
        yield Page(at, end, bool(head[5] & FIRST_PAGE), serial, time, len(sizes) - sizes.count(255))
        at = end


def _capture(file: OpenFile, at: int, end: int) -> int | None:
    """The place of the next capture pattern."""
    while at < end:
        data = os.pread(file.fd, SEARCHED + len(CAPTURE) - 1, at)
        found = data.find(CAPTURE)
        if found >= 0:
            return at + found
        at += SEARCHED
    return None
