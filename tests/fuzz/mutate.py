"""Mutations of bytes: what a disk, a download or an attacker would make of a good file."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

LONGEST = 1 << 20  # bytes of an input
INTEGERS = [0, 1, 2, 3, 16, 100, 127, 128, 255, 256, 1000, 4096, 32767, 65535, 1 << 24, (1 << 31) - 1, 1 << 31, 1 << 63]
NUMBERS = [b"0", b"-1", b"1", b"1e400", b"-1e400", b"NaN", b"1e-320", b"65536", b"4294967296", b"9" * 30, b"9" * 400]


def mutated(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random) -> bytes:
    """``data`` after 1 to 8 mutations; ``others`` are inputs to splice in, ``tokens`` words of the format."""
    for _ in range(1 << rng.randrange(4)):
        data = rng.choice(MUTATIONS)(data, others, tokens, rng)[:LONGEST]
    return data


def _range(data: bytes, rng: random.Random) -> tuple[int, int]:
    """Start and stop of a part, mostly a short one."""
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.randrange(1, 1 << rng.randrange(1, 14)))


def flip_bit(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random) -> bytes:
    if not data:
        return b"\0"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def set_integer(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random) -> bytes:
    size = rng.choice((1, 2, 4, 8))
    value = (rng.choice(INTEGERS) * rng.choice((1, -1))) % (1 << 8 * size)
    at = rng.randrange(len(data) + 1)
    return data[:at] + value.to_bytes(size, rng.choice(("little", "big"))) + data[at + size :]


def set_random(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random) -> bytes:
    start, stop = _range(data, rng)
    return data[:start] + rng.randbytes(stop - start) + data[stop:]


def delete(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random) -> bytes:
    start, stop = _range(data, rng)
    return data[:start] + data[stop:]


def truncate(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def repeat(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random) -> bytes:
    start, stop = _range(data, rng)
    times = min(1 << rng.randrange(1, 12), LONGEST // max(1, stop - start))
    return data[:stop] + data[start:stop] * times + data[stop:]


def move(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random) -> bytes:
    start, stop = _range(data, rng)
    rest = data[:start] + data[stop:]
    at = rng.randrange(len(rest) + 1)
    return rest[:at] + data[start:stop] + rest[at:]


def splice(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    start, stop = _range(other, rng)
    at = rng.randrange(len(data) + 1)
    kept = at + (stop - start) * rng.randrange(2)  # written over, or inserted
    return data[:at] + other[start:stop] + data[kept:]


def insert_token(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random) -> bytes:
    token = rng.choice(tokens)
    at = rng.randrange(len(data) + 1)
    return data[:at] + token + data[at + len(token) * rng.randrange(2) :]


def set_number(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random) -> bytes:
    """Another decimal number in the place of one, as JSON has them."""
    numbers = list(re.finditer(rb"\d+", data[:100_000]))
    if not numbers:
        return data
    found = rng.choice(numbers)
    return data[: found.start()] + rng.choice(NUMBERS) + data[found.end() :]


MUTATIONS: tuple[Callable[[bytes, Sequence[bytes], Sequence[bytes], random.Random], bytes], ...] = (
    flip_bit,
    flip_bit,
    set_integer,
    set_integer,
    set_random,
    delete,
    truncate,
    repeat,
    move,
    splice,
    insert_token,
    set_number,
)
