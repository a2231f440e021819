"""Tile sizes of every kernel by GPU, chosen on paper (registers, shared memory, waves); none has been timed yet.

Tiles are ordered from large to small; a
product takes the largest one that still gives every multiprocessor a tile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

Arch = int | str  # compute capability (80, 90, ..) or "gfx942"


@dataclass(frozen=True)
class Tile:
    """Tile sizes of a launch: an output tile of m x n, k elements of the sum at a time; warps, pipeline stages.

    ``early``: linear_residual loads the stream's tile before its main loop, into registers that would be idle.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    early: bool = False

    def __str__(self) -> str:
        return f"{self.m}x{self.n}x{self.k}/{self.warps}w{self.stages}s{'e' * self.early}"


@dataclass(frozen=True)
class Tiles:
    """Tiles of one GPU for one element size. In attention, m is queries and n keys at a time; k is unused."""

    norm_linear: tuple[Tile, ...]
    residual: tuple[Tile, ...]  # tiles of linear_residual: its epilogue needs registers for the stream as well
    attention: Tile
    few_queries: Tile
    patch_embed: Tile
    log_mel: Tile = Tile(32, 32, 16, 4, 2)
    tf32_log_mel: Tile = Tile(32, 64, 16, 8, 2)  # its products as three of TF32, on tensor cores
    head: Tile = Tile(16, 64, 64, 4, 2)
    narrow: tuple[Tile, ...] = (Tile(128, 64, 32, 8, 3), Tile(64, 64, 32, 4, 3))  # convolutions, float32 results
    depthwise: Tile = Tile(32, 64, 0, 4, 1)  # positions, channels
    quantise_rows: Tile = Tile(16, 256, 0, 4, 1)  # rows, columns
    scan: Tile = Tile(4, 4, 64, 8, 1)  # rows and columns of an image, and its channels, as many as a partial sum has
    persistent_norm_linear: Tile | None = None
    persistent_residual: Tile | None = None


FLOAT32 = Tiles(
    norm_linear=(Tile(64, 64, 32, 4, 3),),
    residual=(Tile(64, 64, 32, 4, 3),),
    attention=Tile(64, 16, 0, 4, 2),
    few_queries=Tile(16, 32, 0, 4, 2),
    patch_embed=Tile(64, 64, 32, 8, 2),
    narrow=(Tile(64, 64, 32, 4, 3),),
)

# A frame is folded once for 64 bins instead of 32. Compute capability 8.0 would spill registers.
WIDE_LOG_MEL = Tile(32, 64, 16, 4, 2)

SIXTEEN_BIT: dict[Arch, Tiles] = {
    80: Tiles(
        norm_linear=(
            Tile(128, 256, 32, 8, 3),
            Tile(128, 128, 32, 8, 4),
            Tile(64, 128, 32, 4, 4),
            Tile(64, 64, 64, 4, 4),
        ),
        residual=(Tile(128, 128, 32, 8, 4), Tile(64, 128, 32, 4, 4), Tile(64, 64, 64, 4, 4)),
        attention=Tile(128, 64, 0, 4, 3),
        few_queries=Tile(16, 128, 0, 4, 2),
        patch_embed=Tile(64, 128, 32, 4, 3),
    ),
    86: Tiles(
        norm_linear=(Tile(128, 128, 32, 8, 3), Tile(64, 128, 32, 4, 4), Tile(64, 64, 32, 4, 4)),
        residual=(Tile(128, 128, 32, 8, 3), Tile(64, 128, 32, 4, 4), Tile(64, 64, 32, 4, 4)),
        attention=Tile(128, 64, 0, 4, 2),
        few_queries=Tile(16, 128, 0, 4, 2),
        patch_embed=Tile(64, 128, 32, 4, 3),
        log_mel=WIDE_LOG_MEL,
    ),
    90: Tiles(
        norm_linear=(
            Tile(128, 256, 64, 8, 3),
            Tile(128, 128, 64, 8, 4),
            Tile(64, 128, 64, 4, 4),
            Tile(64, 64, 64, 4, 4),
        ),
        residual=(
            Tile(128, 256, 64, 8, 3),  # has no registers left
            Tile(128, 128, 64, 8, 4, early=True),
            Tile(64, 128, 64, 4, 4, early=True),
            Tile(64, 64, 64, 4, 4, early=True),
        ),
        attention=Tile(128, 128, 0, 8, 2),
        few_queries=Tile(16, 128, 0, 4, 2),
        patch_embed=Tile(64, 128, 32, 4, 3),
        log_mel=WIDE_LOG_MEL,
        persistent_norm_linear=Tile(128, 128, 64, 4, 6),
        persistent_residual=Tile(64, 256, 64, 4, 3),
    ),
    100: Tiles(
        norm_linear=(
            Tile(128, 256, 64, 8, 3),  # 255 registers without spills; 16 warps would spill, and multiply by mma.sync
            Tile(128, 128, 64, 8, 4),
            Tile(64, 128, 64, 4, 4),
            Tile(64, 64, 64, 4, 4),
        ),
        residual=(Tile(128, 128, 64, 8, 4, early=True), Tile(64, 128, 64, 4, 4, early=True)),
        attention=Tile(128, 128, 0, 8, 2),
        few_queries=Tile(16, 128, 0, 4, 2),
        patch_embed=Tile(64, 128, 32, 8, 3),
        log_mel=WIDE_LOG_MEL,
    ),
    "gfx942": Tiles(
        norm_linear=(Tile(128, 128, 32, 4, 2), Tile(64, 128, 32, 4, 2), Tile(64, 64, 32, 4, 2)),
        residual=(Tile(128, 128, 32, 4, 2), Tile(64, 128, 32, 4, 2), Tile(64, 64, 32, 4, 2)),
        attention=Tile(128, 64, 0, 4, 1),
        few_queries=Tile(16, 64, 0, 4, 1),
        patch_embed=Tile(64, 128, 32, 4, 2),
        log_mel=WIDE_LOG_MEL,
    ),
}
# Like 86: 99 KB of shared memory and mma.sync; attention needs more registers on 120.
SIXTEEN_BIT[89] = SIXTEEN_BIT[86]
SIXTEEN_BIT[120] = replace(SIXTEEN_BIT[86], attention=Tile(128, 64, 0, 8, 2))


def of_float8(tiles: Tiles, widest: int = 128) -> Tiles:
    """Tiles of products of float8 operands: rows of as many bytes, without those for which there are no registers."""
    norm_linear, residual = (
        tuple(replace(tile, k=2 * tile.k) for tile in table if tile.n <= columns)
        for table, columns in ((tiles.norm_linear, widest), (tiles.residual, 128))
    )
    return replace(
        tiles, norm_linear=norm_linear, residual=residual, persistent_norm_linear=None, persistent_residual=None
    )


EIGHT_BIT: dict[Arch, Tiles] = {arch: of_float8(SIXTEEN_BIT[arch]) for arch in (89, 100, 120)}
EIGHT_BIT[90] = of_float8(SIXTEEN_BIT[90], widest=256)


def tiles_for(arch: Arch, element_size: int) -> Tiles:
    """Tiles of a GPU, or of the nearest older one in the table, for operands of ``element_size`` bytes."""
    if element_size == 4:
        return FLOAT32
    if isinstance(arch, str):
        return SIXTEEN_BIT["gfx942"]
    table = SIXTEEN_BIT if element_size == 2 else EIGHT_BIT
    return table[max((a for a in table if isinstance(a, int) and a <= arch), default=80)]


def larger_tiles(table: tuple[Tile, ...], tile: Tile, rows: int) -> tuple[Tile, ...]:
    """The next two larger tiles of a table that so many rows fill: they leave multiprocessors idle and read less from
    L2, by which batches of a few clips may gain (docs/gpu.md)."""
    at = table.index(tile)
    return tuple(larger for larger in reversed(table[max(at - 2, 0) : at]) if larger.m <= rows)


def linear_tile(table: tuple[Tile, ...], rows: int, n: int, multiprocessors: int) -> Tile:
    """Largest tile of a table of which every multiprocessor gets one and n fills more than half, else the smallest."""
    for tile in table:
        if tile.n < 2 * n and -(-rows // tile.m) * -(-n // tile.n) >= multiprocessors:
            return tile
    return table[-1]
