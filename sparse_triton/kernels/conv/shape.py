"""A convolution program in numbers: what the Triton kernel, the lists and the texts share."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from sparse_triton.config import KernelConfig, ceil_div, next_power_of_two
from sparse_triton.kernels.conv.tile import Tile, tile_of
from sparse_triton.kernels.conv.walk import PAIR_BYTES, WARP
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.unrolled.limits import ROUND_BYTES
from sparse_triton.problem import ConvProblem, Pool

MAX_IN_FLIGHT = 24  # elements of X that a thread holds in registers
FEW_SUMS = 32  # so many, beside that number of sums
MAX_AHEAD = 16  # while it multiplies


@dataclass(frozen=True)
class Shape:
    """One program of a cluster of ``K_blocks``.

    block_m     places for rows of W
    batch       pairs of a list that a warp fetches at a time (gather), ``depth`` a turn
    row_groups  threads a lane has in a program: Gy groups of a thread for ``stack`` places (gather)
                or for all places (unrolled)
    chunks      of channels, staged one after the other
    starts      pieces of code at which warps of a scheduler begin, of ``pieces`` (unrolled)

    Sums are kept by *slot*, place * repeat + point of a lane. Once partials are added, a program
    holds the slots of ``block_m / K_blocks`` places, ``held`` of them in each thread.
    """

    tile: Tile
    block_m: int
    Gy: int
    K_blocks: int
    row_groups: int
    pool: Pool | None
    channels_last: bool
    batch: int = 0
    depth: int = 1
    starts: int = 1
    pieces: int = 1

    @property
    def lanes(self) -> int:
        return self.tile.lanes

    @property
    def repeat(self) -> int:
        return self.tile.repeat

    @property
    def threads(self) -> int:
        return self.row_groups * self.lanes

    @property
    def parts(self) -> int:
        return self.Gy * self.K_blocks

    @property
    def sums(self) -> int:
        """Accumulators of a thread."""
        return self.stack * self.repeat

    @property
    def slots(self) -> int:
        """That a program finishes."""
        return self.block_m // self.K_blocks * self.repeat

    @property
    def held(self) -> int:
        return ceil_div(self.slots, self.row_groups)

    @property
    def channels_at_once(self) -> int:
        """Channels that the threads stage side by side."""
        if self.channels_last:
            return min(self.tile.channels, self.threads)
        return max(1, self.threads // self.tile.cells)

    @property
    def staging(self) -> int:
        """Elements of a chunk that a thread stages."""
        across = ceil_div(self.tile.channels, self.channels_at_once)
        step = self.threads // self.channels_at_once if self.channels_last else self.threads
        return across * ceil_div(self.tile.cells, step)

    @property
    def piece(self) -> int:
        """Elements that a thread has in flight at a time."""
        return min(self.staging, MAX_IN_FLIGHT if self.sums <= FEW_SUMS else MAX_AHEAD)

    @property
    def ahead(self) -> bool:
        """Whether registers hold the next chunk while this one is used."""
        return self.tile.chunks > 1 and self.staging <= MAX_AHEAD

    @property
    def stack(self) -> int:
        """Places of a thread."""
        return self.block_m * self.Gy // self.row_groups

    @property
    def pairs_from(self) -> int:
        """Byte of the shared memory where the batches of pairs begin, behind the tile."""
        return ceil_div(self.tile.bytes, 16) * 16

    @property
    def staged_bytes(self) -> int:
        return self.pairs_from + (self.threads * PAIR_BYTES if self.batch else 0)

    @property
    def exchange_bytes(self) -> int:
        """[slot][part][lane] partials of what a program finishes."""
        return 0 if self.parts == 1 else self.slots * self.parts * self.lanes * 4

    @property
    def partials_from(self) -> int:
        """Byte where the partials begin: in place of the tile, but behind it where other programs
        may send theirs while it is used."""
        return 0 if self.K_blocks == 1 else ceil_div(self.staged_bytes, 16) * 16

    @property
    def pool_bytes(self) -> int:
        """[slot][lane] finished outputs of the convolution."""
        return self.slots * self.lanes * 4

    @property
    def shared_bytes(self) -> int:
        """The tile, then in its place what is pooled; the partials in either place."""
        partials = self.partials_from + self.exchange_bytes
        return max(self.staged_bytes, partials, self.pool_bytes if self.pool else 0)

    @property
    def held_rows(self) -> int:
        """Rows of W that the slots of a thread belong to."""
        return ceil_div(self.held, self.repeat)


@functools.lru_cache(maxsize=64)
def gather_shape(problem: ConvProblem, config: KernelConfig) -> Shape:
    places = next_power_of_two(ceil_div(problem.M, config.M_blocks))
    row_groups = config.Gy * places
    tile = tile_of(problem, config, row_groups, PAIR_BYTES)
    block_m = places * config.stack
    last = problem.x_layout == "column"
    return Shape(
        tile, block_m, config.Gy, config.K_blocks, row_groups, problem.pool, last,
        batch=min(WARP, tile.lanes), depth=min(config.prefetch, WARP, tile.lanes),
    )  # fmt: skip


@functools.lru_cache(maxsize=64)
def unrolled_shape(problem: ConvProblem, config: KernelConfig) -> Shape:
    rows = ceil_div(problem.M, config.M_blocks)
    block_m = ceil_div(rows, config.parts) * config.parts
    last = problem.x_layout == "column"
    tile = tile_of(problem, config, config.Gy)
    return Shape(
        tile, block_m, config.Gy, config.K_blocks, config.Gy, problem.pool, last,
        starts=config.starts, pieces=_pieces(problem, config, tile),
    )  # fmt: skip


def _pieces(problem: ConvProblem, config: KernelConfig, tile: Tile) -> int:
    """Of the code for a chunk: as many rounds as leave each short enough, ``starts`` a round."""
    if config.starts == 1:
        return 1
    products = problem.nnz // (config.M_blocks * config.K_blocks * tile.chunks)
    bytes_ = 16 * config.repeat * (products + tile.channels * problem.R * problem.S)
    return config.starts * max(1, round(bytes_ / ROUND_BYTES))


def shape_of(plan: Plan[ConvProblem]) -> Shape:
    make = gather_shape if plan.config.kernel == "gather" else unrolled_shape
    return make(plan.problem, plan.config)


@dataclass(frozen=True)
class Image:
    """What a kernel is compiled for besides its shape: extents and strides, in elements.

    y_stride, y_strides          from image to image of Y; from filter, row, column to the next
    pixels_stride, pixel_strides  the same before the pool: of the residual, and of Y without a pool
    """

    batch: int
    C: int
    H: int
    W: int
    channels_last: bool
    x_strides: tuple[int, int, int]
    y_stride: int
    y_strides: tuple[int, int, int]
    pixels_stride: int
    pixel_strides: tuple[int, int, int]


def image_of(problem: ConvProblem) -> Image:
    height, width = problem.y_size
    return Image(
        problem.batch, problem.C, problem.H, problem.W,
        problem.x_layout == "column", problem.x_strides,
        problem.M * height * width, problem.y_strides,
        problem.M * problem.N, replace(problem, pool=None).y_strides,
    )  # fmt: skip
