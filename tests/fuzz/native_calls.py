"""Calls of the native module with arguments made of bytes: odd shapes, types, strides, values and counts."""

from __future__ import annotations

import math
import random
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from astfast.backends.cpu.tiers import native

DTYPES = ("<f4", "<f4", "<f4", "<u2", "<f8", "<f2", "<i4", "|u1", ">f4", "|O", "<c8", "|b1")
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 100, 128)
ODD_COUNTS = (-1, 0, 1, 2, 3, 2**31 - 1, 2**31, 2**32 + 1, 2**40, 2**62, 2**63 - 1)
VALUES = (0.0, -0.0, 1.0, -1.0, 1e-40, 1e-30, 3e38, -3e38, np.inf, -np.inf, np.nan, 1000.0)
LARGEST = 1 << 22  # values of an array: making more takes the time that a hang is told by
PRECISIONS = ("float32", "bfloat16", "int8")


class Reader:
    """Choices read off a row of bytes; zeros after its end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def choice(self, options: Any) -> Any:
        return options[self.byte() % len(options)]

    def rarely(self) -> bool:
        return self.byte() >= 252


@cache
def tiers() -> list[str]:
    return [name for name, lacks in native().tiers() if not lacks]


def array(r: Reader, *shape: int, dtype: str = "<f4") -> Any:
    """An array of this shape and type, or now and then of another, strided, read-only, misaligned or of odd values."""
    sizes = [r.choice(SIZES) if r.rarely() else size for size in shape]
    if r.rarely():
        sizes = sizes[1:] if r.byte() % 2 and len(sizes) > 1 else [*sizes, r.choice(SIZES)]
    while math.prod(sizes) > LARGEST:
        sizes[sizes.index(max(sizes))] //= 2
    if r.rarely():
        dtype = r.choice(DTYPES)
    rng = np.random.default_rng(r.byte())
    values = rng.standard_normal(sizes)
    if r.rarely():
        values[..., : 1 + r.byte() % 8] = r.choice(VALUES)
    if dtype == "<u2":
        made = (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    else:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            made = values.astype(dtype)
    how = r.byte()
    if how >= 254:
        made = np.repeat(made, 2, axis=-1)[..., ::2]
    elif how >= 253:
        made = made[..., ::-1]
    elif how >= 252 and made.size:
        made = np.broadcast_to(made[..., :1], made.shape)
    elif how >= 251:
        made.flags.writeable = False
    elif how >= 250 and made.dtype.kind in "fu":
        raw = np.empty(made.nbytes + 1, np.uint8)[1:]
        raw[:] = np.frombuffer(made.tobytes(), np.uint8)
        made = raw.view(made.dtype).reshape(made.shape)
    return made


def count(r: Reader, value: int) -> int:
    return r.choice(ODD_COUNTS) if r.rarely() else value


def run(data: bytes, folder: Path) -> None:
    """One sequence of packing and computing; ``folder`` is not used."""
    r = Reader(data)
    tier, precision, threads = r.choice(tiers()), r.choice(PRECISIONS), 1 + r.byte() % 3
    operation = r.byte() % 7
    if operation == 6:
        log_mel(r, tier, threads)
        return
    context = native().ComputeContext(tier, precision, threads)
    b, t, k, n = 1 + r.byte() % 3, r.choice(SIZES), r.choice(SIZES), r.choice(SIZES)
    activation = "<f4" if precision == "float32" else "<u2"

    def linear(exact: bool = False) -> Any:
        return context.pack_linear(array(r, n, k), array(r, n), exact)

    def norm(width: int) -> Any:
        return native().PackedNorm(array(r, width), array(r, width), r.choice((1e-12, 1e-5, 0.0, -1.0, np.nan, 1e30)))

    if operation == 0:
        context.norm_linear(
            array(r, b, t, k), norm(k), linear(), array(r, b, t, n, dtype=activation), r.byte() % 2 == 0
        )
    elif operation == 1:
        context.linear_residual(array(r, b, t, k, dtype=activation), linear(), array(r, b, t, n))
    elif operation == 2:
        q, kv = (array(r, b, rows, d, dtype=activation) for rows, d in ((r.choice(SIZES), k), (t, 2 * k)))
        heads = count(r, r.choice((1, 2, 3, 4, 8)))
        context.attention(q, kv, heads, array(r, *np.shape(q), dtype=activation))
    elif operation == 3:
        context.pool(array(r, b, t, k), norm(k), array(r, b, k))
    elif operation == 4:
        context.head(array(r, b, k), norm(k), linear(r.byte() < 200), array(r, b, n))
    else:
        patch_embed(r, context, b)


def patch_embed(r: Reader, context: Any, b: int) -> None:
    patch, d, prefix = r.choice((1, 2, 3, 4, 8, 16)), r.choice(SIZES), r.choice((0, 1, 2, 5))
    mels, frames = patch + r.byte() % 40, patch + r.byte() % 60
    strides = 1 + r.byte() % 20, 1 + r.byte() % 20
    rows = prefix + ((mels - patch) // strides[0] + 1) * ((frames - patch) // strides[1] + 1)
    embed = context.pack_embed(
        array(r, d, patch * patch),
        array(r, d),
        array(r, prefix, d),
        array(r, rows, d),
        count(r, patch),
        *(count(r, stride) for stride in strides),
    )
    context.patch_embed(array(r, b, frames, mels), embed, array(r, b, rows, d))


def log_mel(r: Reader, tier: str, threads: int) -> None:
    length = r.choice((1, 2, 25, 200, 400, 441, 1103))
    fft = 1 << max(1, (length - 1).bit_length())
    mels = r.choice((1, 2, 48, 96, 128))
    made = native().LogMel(
        tier,
        count(r, length),
        count(r, max(1, length * 2 // 5)),
        count(r, fft),
        count(r, mels),
        0.97,
        r.choice((1.2e-7, 0.0, -1.0, np.nan)),
        -4.0,
        0.1,
        array(r, length, dtype="<f8"),
        array(r, mels, fft // 2 + 1, dtype="<f8"),
    )
    waves = [array(r, r.choice((0, 1, 399, 400, 401, 1000, 5000))) for _ in range(r.byte() % 4)]
    made.run(waves, array(r, len(waves), r.choice((1, 2, 10, 30)), mels), count(r, threads))


def seeds() -> list[bytes]:
    rng = random.Random(0)
    return [rng.randbytes(200) for _ in range(100)]
