"""What a bitmap program is: its shape, and everything its PTX depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sparse_triton.config import ceil_div

TILE_ROWS = 16  # rows of a tensor-core instruction; 16 columns deep
GROUP = 32  # columns of two instructions: a lane's 8 adjacent ones serve both
RECORD_ELEMENTS = 1024  # of four instructions
FOURS = 8  # of a lane and record: its 8 elements of an instruction, four and four
RECORD_HEAD = 128  # bytes of its bitmap: one word a lane
MAX_RECORD_BYTES = RECORD_HEAD + 2 * RECORD_ELEMENTS


class BitmapShape(NamedTuple):
    """A program: rows, columns of X, pieces of K, records in flight; powers of two.

    A warp owns 16 rows and reads records of 16 x 64, or 32 and records of 32 x 32: half the X.
    """

    block_m: int
    columns: int
    Gy: int
    stages: int

    @property
    def rows(self) -> int:
        """Of a warp."""
        return min(self.block_m, 2 * TILE_ROWS)

    @property
    def width(self) -> int:
        """Columns of a record."""
        return RECORD_ELEMENTS // self.rows

    @property
    def units(self) -> int:
        """Warps side by side along M."""
        return self.block_m // self.rows

    @property
    def warps(self) -> int:
        return self.units * self.Gy

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
        return ceil_div(self.K, self.shape.width)

    @property
    def groups(self) -> int:
        """Groups of columns of a record."""
        return self.shape.width // GROUP

    @property
    def m_tiles(self) -> int:
        """Tiles of a warp along M."""
        return self.shape.rows // TILE_ROWS

    @property
    def n_tiles(self) -> int:
        return self.shape.columns // 8
