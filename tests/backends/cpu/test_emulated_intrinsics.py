"""The emulated instructions against Intel's description of them, in numpy; the processor's own where it has them."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import DTypeLike

from astfast.backends.cpu.tiers import native
from tests.emulation import native_build

pytestmark = native_build.emulates
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-shared", "-fPIC"]
CHECK = native_build.EMULATION / "check.cpp"
SMALLEST = np.float32(2.0**-126)  # normal number


def library(folder: Path, flags: list[str], code: str) -> Path:
    (folder / "check.cpp").write_text(code)
    command = ["g++", *FLAGS, *flags, str(folder / "check.cpp"), "-o", str(folder / "check.so")]
    subprocess.run(command, check=True, timeout=120)
    return folder / "check.so"


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    code = native_build.for_avx2(CHECK.read_text())
    return library(tmp_path_factory.mktemp("emulated"), native_build.EMULATION_FLAGS, code)


@pytest.fixture(scope="module", params=["emulated"] if dict(native().tiers())["amx"] else ["emulated", "native"])
def instructions(
    request: pytest.FixtureRequest, emulated: Path, tmp_path_factory: pytest.TempPathFactory
) -> ctypes.CDLL:
    if request.param == "emulated":
        return ctypes.CDLL(str(emulated))
    return ctypes.CDLL(str(library(tmp_path_factory.mktemp("native"), [], CHECK.read_text())))


def call(
    instructions: ctypes.CDLL, name: str, *arguments: np.ndarray | int, out: DTypeLike, size: int = 0
) -> np.ndarray:
    """The result of one instruction, as an array of ``out``, of as many bytes as the first argument or of ``size``."""
    first = arguments[0]
    assert isinstance(first, np.ndarray)
    result = np.zeros((size or first.nbytes) // np.dtype(out).itemsize, out)
    raw = [x if isinstance(x, int) else x.ctypes.data_as(ctypes.c_void_p) for x in (*arguments, result)]
    instructions[name](*raw)
    return result


def integers(dtype: DTypeLike, count: int, seed: int = 0) -> np.ndarray:
    """Of the whole range, both ends among them."""
    info = np.iinfo(dtype)
    x = np.random.default_rng(seed).integers(info.min, info.max, count, dtype, endpoint=True)
    x[:: 5 + seed] = info.max
    x[1 :: 7 + seed] = info.min
    return x


def bfloat16(x: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16 bits."""
    return (x.astype(np.uint32) << 16).view(np.float32)


def bits_near_one(shape: int | tuple[int, int], seed: int) -> np.ndarray:
    """bfloat16 of either sign between 2^-4 and 2^4, so that float64 adds products of them exactly."""
    rng = np.random.default_rng(seed)
    return (rng.integers(123 << 7, 131 << 7, shape) | rng.integers(0, 2, shape) << 15).astype(np.uint16)


def test_bytes_are_multiplied_and_added(instructions: ctypes.CDLL) -> None:
    a, b, start = integers(np.uint8, 64), integers(np.int8, 64, 1), integers(np.int32, 16, 2)
    products = a.astype(np.int64) * b
    pairs = np.clip(products.reshape(-1, 2).sum(1), -(2**15), 2**15 - 1)
    assert (np.abs(products.reshape(-1, 2).sum(1)) > 2**15).any()
    np.testing.assert_array_equal(call(instructions, "maddubs_epi16", a, b, out=np.int16), pairs)
    wrapped = (products.reshape(-1, 4).sum(1) + start).astype(np.int32)
    for name in ("dpbusd_epi32", "dpbusd_avx_epi32"):
        np.testing.assert_array_equal(call(instructions, name, start, a, b, out=np.int32), wrapped)


def test_words_are_multiplied_and_shifted(instructions: ctypes.CDLL) -> None:
    a, b = integers(np.uint16, 32), integers(np.uint16, 32, 1)
    x, y = a.view(np.int16).astype(np.int64), b.view(np.int16).astype(np.int64)
    shifts = np.arange(32, dtype=np.uint16) - 4  # from 2^16 - 4 to 27
    expected = {
        "add_epi16": a.astype(np.int64) + b,
        "mulhi_epu16": (a.astype(np.int64) * b) >> 16,
        "mulhrs_epi16": (x * y + 2**14) >> 15,
        "permutexvar_epi16": b[a & 31],
        "adds_epi16": np.clip(x + y, -(2**15), 2**15 - 1),
        "avg_epu16": (a.astype(np.int64) + b + 1) >> 1,
        "max_epi16": np.maximum(x, y),
        "min_epu16": np.minimum(a, b),
        "mask_blend_epi16": np.where(0xF000A005 >> np.arange(32) & 1, b, a),
        "unpacklo_epi16": np.stack([a.reshape(4, 8)[:, :4], b.reshape(4, 8)[:, :4]], axis=2).ravel(),
        "unpackhi_epi16": np.stack([a.reshape(4, 8)[:, 4:], b.reshape(4, 8)[:, 4:]], axis=2).ravel(),
    }
    for name, words in expected.items():
        result = call(instructions, name, a, b, out=np.uint16)
        np.testing.assert_array_equal(result, words.astype(np.uint16), err_msg=name)
    for name, shift in {"srlv_epi16": np.right_shift, "sllv_epi16": np.left_shift}.items():
        shifted = np.where(shifts < 16, shift(a, np.minimum(shifts, 15)), 0).astype(np.uint16)
        np.testing.assert_array_equal(call(instructions, name, a, shifts, out=np.uint16), shifted, err_msg=name)


def test_bytes_are_blended(instructions: ctypes.CDLL) -> None:
    a, b = integers(np.uint8, 64), integers(np.uint8, 64, 1)
    blended = np.where(0xF00000000000A005 >> np.arange(64, dtype=np.uint64) & 1, b, a)
    np.testing.assert_array_equal(call(instructions, "mask_blend_epi8", a, b, out=np.uint8), blended)


def test_lanes_go_where_they_belong(instructions: ctypes.CDLL) -> None:
    a, b = integers(np.int32, 16), integers(np.int32, 16, 1)
    a[2:6], b[9:13] = [-1, 0, 65535, 65536], [32767, 32768, -32768, -32769]
    both = np.stack([a.reshape(4, 4), b.reshape(4, 4)], axis=1)  # [lane of 128 bits, operand, element]
    expected = {
        "packus_epi32": np.clip(both, 0, 65535).astype(np.uint16),
        "packs_epi32": np.clip(both, -32768, 32767).astype(np.int16),
        "unpacklo_epi32": both[:, :, :2].swapaxes(1, 2),
        "unpackhi_epi32": both[:, :, 2:].swapaxes(1, 2),
        "unpacklo_epi64": both[:, :, :2],
        "unpackhi_epi64": both[:, :, 2:],
        "shuffle_i32x4": np.stack([both[0, 0], both[3, 0], both[1, 1], both[2, 1]]),
        "shuffle_ps": np.concatenate([both[:, 0, [0, 3]], both[:, 1, [1, 2]]], axis=1),
    }
    expected["shuffle_f32x4"] = expected["shuffle_i32x4"]
    for name, lanes in expected.items():
        np.testing.assert_array_equal(call(instructions, name, a, b, out=lanes.dtype), lanes.ravel(), err_msg=name)
    np.testing.assert_array_equal(call(instructions, "permutexvar_epi32", a, b, out=np.int32), b[a & 15])
    written = call(instructions, "mask_cvtepi32_storeu_epi8", a, 0x8105, out=np.uint8)
    kept = np.where(0x8105 >> np.arange(16) & 1, a & 255, 0)
    np.testing.assert_array_equal(written, np.pad(kept, (0, 48)))


def test_conversion_to_bfloat16(instructions: ctypes.CDLL) -> None:
    upper = np.arange(2**16, dtype=np.uint32) << 16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        bits = upper | lower
        x = bits.view(np.float32)
        rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
        tiny = np.abs(x) < SMALLEST
        expected = np.where(np.isnan(x), bits >> 16 | 0x40, np.where(tiny, bits >> 16 & 0x8000, rounded))
        parts = [call(instructions, "cvtneps_pbh", part, out=np.uint16, size=32) for part in x.reshape(-1, 16)]
        np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_pairs_of_bfloat16_are_multiplied_and_added_odd_ones_first(instructions: ctypes.CDLL) -> None:
    differs = 0
    for seed in range(50):
        a, b = bits_near_one(32, 2 * seed), bits_near_one(32, 2 * seed + 1)
        start = np.random.default_rng(seed).uniform(-16, 16, 16).astype(np.float32)
        products = bfloat16(a).astype(np.float64) * bfloat16(b)
        even, odd = products[::2], products[1::2]
        expected = ((start + odd).astype(np.float32) + even).astype(np.float32)
        np.testing.assert_array_equal(call(instructions, "dpbf16_ps", start, a, b, out=np.float32), expected)
        differs += int((expected != ((start + even).astype(np.float32) + odd).astype(np.float32)).sum())
    assert differs > 20


def test_bfloat16_products_flush_denormals(instructions: ctypes.CDLL) -> None:
    one, smallest, denormal, negative = 0x3F80, 0x0080, 0x0040, 0x8040
    half = 0x3F00  # times the smallest normal number is a denormal
    a = np.array([one, 0, denormal, 0, smallest, 0, negative, 0] * 4, np.uint16)
    b = np.array([smallest, 0, one, 0, half, 0, one, 0] * 4, np.uint16)
    zeros = np.zeros(16, np.float32)
    result = call(instructions, "dpbf16_ps", zeros, a, b, out=np.float32)
    np.testing.assert_array_equal(result, np.array([SMALLEST, 0, 0, 0] * 4, np.float32))
    start = np.full(16, SMALLEST / 2, np.float32)
    np.testing.assert_array_equal(call(instructions, "dpbf16_ps", start, a, b, out=np.float32), result)


def test_scaling_by_powers_of_two(instructions: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    inf, nan = np.inf, np.nan
    a = np.concatenate([rng.uniform(-2, 2, 308), [0, -0.0, inf, -inf, nan, 1, 1e-45, 1, -1, 1.5, inf, 0]])
    n = np.concatenate([rng.uniform(-160, 140, 308), [5, 5, -9, 9, 1, nan, 280, -inf, inf, -149.5, -inf, inf]])
    a, n = a.astype(np.float32).reshape(-1, 16), n.astype(np.float32).reshape(-1, 16)
    with np.errstate(over="ignore", invalid="ignore"):
        powers = np.exp2(np.clip(np.floor(n.astype(np.float64)), -600, 600))
        expected = (a * powers).astype(np.float32)  # exact in float64, then rounded once
    expected[-1, -2:] = nan
    result = np.stack([call(instructions, "scalef_ps", x, y, out=np.float32) for x, y in zip(a, n, strict=True)])
    np.testing.assert_array_equal(result, expected)
    assert ((np.abs(result) > 0) & (np.abs(result) < SMALLEST)).any()


def test_reciprocals_and_sums(instructions: ctypes.CDLL) -> None:
    x = np.random.default_rng(0).uniform(1, 2, 16).astype(np.float32)
    inverse = call(instructions, "rcp14_ps", x, out=np.float32)
    assert np.abs(inverse.astype(np.float64) * x - 1).max() <= 2.0**-14
    x *= np.float32(10) ** np.arange(16, dtype=np.float32)
    sums = x
    for half in (8, 4, 2, 1):
        sums = sums[:half] + sums[half:]
    np.testing.assert_array_equal(call(instructions, "reduce_add_ps", x, out=np.float32, size=4), sums)


def tile_config(sizes: list[tuple[int, int]], palette: int = 1) -> np.ndarray:
    """LDTILECFG's 64 bytes for tiles of (rows, bytes of a row)."""
    rows, row_bytes = [size[0] for size in sizes], [size[1] for size in sizes]
    more = [0] * (16 - len(sizes))
    return np.frombuffer(struct.pack("<B15x16H16B", palette, *row_bytes, *more, *rows, *more), np.uint8).copy()


@pytest.mark.parametrize(("rows", "pairs", "columns"), [(16, 16, 16), (5, 3, 7)])
def test_tile_products(instructions: ctypes.CDLL, rows: int, pairs: int, columns: int) -> None:
    """On a stride that is no tile's own; what lies between the rows stays."""
    config = tile_config([(rows, 4 * columns), (rows, 4 * pairs), (pairs, 4 * columns)])
    stride = 80

    def product(name: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        places = [np.full((16, stride), 0xA5, np.uint8) for _ in range(3)]
        for place, x in zip(places, (a, b, c), strict=True):
            place[: x.shape[0], : x.shape[1] * x.itemsize] = x.view(np.uint8)
        call(instructions, name, config, *places, stride, out=np.uint8)
        assert (places[2][rows:] == 0xA5).all()
        assert (places[2][:, 4 * columns :] == 0xA5).all()
        return np.ascontiguousarray(places[2][:rows, : 4 * columns]).view(c.dtype)

    c = integers(np.int32, rows * columns).reshape(rows, columns)
    for name, kind in (("dpbssd", np.int8), ("dpbusd", np.uint8)):
        a = integers(kind, rows * pairs * 4, 1).reshape(rows, -1)
        b = integers(np.int8, pairs * columns * 4, 2).reshape(pairs, -1)
        quads = b.reshape(pairs, columns, 4).swapaxes(1, 2).reshape(-1, columns).astype(np.int64)  # [4 pairs, columns]
        np.testing.assert_array_equal(product(name, a, b, c), (a.astype(np.int64) @ quads + c).astype(np.int32))

    a, b = bits_near_one((rows, 2 * pairs), 1), bits_near_one((pairs, 2 * columns), 2)
    x = bfloat16(a).reshape(rows, pairs, 2).astype(np.float64)
    y = bfloat16(b).reshape(pairs, columns, 2).astype(np.float64)
    start = np.random.default_rng(3).uniform(-16, 16, (rows, columns)).astype(np.float32)
    sums = np.zeros((rows, columns, 2), np.float32)  # of even and of odd products
    for k in range(pairs):
        sums = (sums + x[:, k, None] * y[k]).astype(np.float32)
    np.testing.assert_array_equal(product("dpbf16ps", a, b, start), start + (sums[..., 0] + sums[..., 1]))


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("check.zero_without_a_session()", "a tile without a configuration"),
        ("check.load_unaligned()", "an aligned access that is not aligned"),
        ("product(tile_config([(16, 64)] * 2))", "a tile of no size"),
        ("product(tile_config([(16, 64)] * 3, palette=2))", "unknown palette"),
        ("product(tile_config([(17, 64)] * 3))", "impossible size"),
        ("product(tile_config([(16, 64), (16, 32), (16, 64)]))", "tiles that don't match"),
    ],
)
def test_what_faults_on_a_processor_aborts(emulated: Path, statement: str, message: str) -> None:
    script = f"""
import ctypes
from tests.backends.cpu.test_emulated_intrinsics import tile_config
check = ctypes.CDLL({str(emulated)!r})
memory = ctypes.create_string_buffer(4096)
def product(config): check.dpbssd(ctypes.c_void_p(config.ctypes.data), memory, memory, memory, ctypes.c_long(64))
{statement}
"""
    done = native_build.run_python(native_build.ROOT, script)
    assert done.returncode < 0, done.stderr
    assert message in done.stderr
