"""What an expanding program is: everything the PTX of ``expand`` depends on."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_triton.kernels.decode.limits import ExpandShape

GROUP = 32  # columns of two tensor-core instructions


@dataclass(frozen=True)
class Expand:
    """Everything the PTX depends on.

    K            columns of W
    dtype        of W and X, which must be the same
    shape        of the program
    depth        steps a thread holds; a piece with more fetches the rest when it gets there
    vector_x     whether 8 values of X along K can be read as 16 aligned bytes
    """

    K: int
    dtype: str
    shape: ExpandShape
    gap_bits: int
    depth: int
    vector_x: bool
    dependent_launch: bool

    @property
    def gap_words(self) -> int:
        return self.gap_bits // 4

    @property
    def chunks(self) -> int:
        return -(-self.K // self.shape.chunk)

    @property
    def row_bytes(self) -> int:
        return self.shape.row_bytes

    @property
    def groups(self) -> int:
        """Groups of 32 columns of a warp and chunk."""
        return self.shape.chunk // GROUP // self.shape.warps

    @property
    def m_tiles(self) -> int:
        return self.shape.block_m // 16

    @property
    def n_tiles(self) -> int:
        return self.shape.columns // 8
