"""What a bitmap program is: its shape, and everything its PTX depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sparse_triton.config import ceil_div

TILE_ROWS = 16  # rows of a tensor-core instruction
STRIP = 64  # columns of a record: four tensor-core instructions deep
TILES = 4
FOURS = 2 * TILES  # of a lane: its 8 elements of a tile, four and four
GROUP = 32  # columns of two tiles: a lane's 8 adjacent ones serve both
RECORD_HEAD = 128  # bytes of its bitmap: one word a lane
MAX_RECORD_BYTES = RECORD_HEAD + 2 * TILE_ROWS * STRIP


class BitmapShape(NamedTuple):
    """A program: row tiles of 16, columns of X, pieces of K, records in flight; powers of two."""

    row_tiles: int
    columns: int
    Gy: int
    stages: int

    @property
    def block_m(self) -> int:
        return TILE_ROWS * self.row_tiles

    @property
    def warps(self) -> int:
        return self.row_tiles * self.Gy

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def outputs(self) -> int:
        """Sums of a thread."""
        return ceil_div(self.block_m * self.columns, self.threads)

    def window_bytes(self, record_bytes: int) -> int:
        """Records of all warps, and later their sums, in one place; a load may look one value past
        the last record."""
        sums = 4 * self.Gy * self.block_m * self.columns
        return max(self.warps * self.stages * record_bytes + 16, sums)


@dataclass(frozen=True)
class Bitmap:
    """Everything the PTX depends on.

    K            columns of W
    dtype        of W and X, which must be the same
    all_columns  whether every program has all its columns
    vector_x     whether 8 values of X along K can be read as 16 aligned bytes
    """

    K: int
    dtype: str
    shape: BitmapShape
    all_columns: bool
    vector_x: bool
    dependent_launch: bool

    @property
    def strips(self) -> int:
        return ceil_div(self.K, STRIP)

    @property
    def n_tiles(self) -> int:
        return self.shape.columns // 8
