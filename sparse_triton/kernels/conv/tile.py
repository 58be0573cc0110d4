"""The part of X one program stages in shared memory, zero-padded, and where each tap finds it.

A strided convolution is a sum of convolutions of stride 1, one for each residue of the tap's place
modulo the stride (its *phase*). The cells of a phase lie side by side, so that neighbouring outputs
always read neighbouring cells, whatever the stride. Padding, layout and dtype end at the staging:
what reads the tile tests nothing.

    tile[channel][image][row phase][column phase][row][column]

A lane owns the point ``row * pitch + column`` of this grid; the last ``pitch - conv`` columns of a
row are points without an output.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from sparse_triton.config import KernelConfig, ceil_div, next_power_of_two
from sparse_triton.pattern import Int32, Int64
from sparse_triton.problem import ConvProblem, taps

MAX_STAGING = 88  # elements a thread should stage of a chunk: they are written out
ANCHOR_BYTES = 16  # declared by the kernel; its window of shared memory begins behind them
FEW_POINTS = 128  # images of no more points than this share a lane


@dataclass(frozen=True)
class Axis:
    """One direction, rows or columns, of a tile.

    size, stride, padding, dilation, taps   of the input and the kernel, padding before the first
    out      outputs of the image, pooled if there is a pool
    tile     outputs of a tile
    pixels   outputs of the convolution in the image
    conv     outputs of the convolution that a tile computes
    step     outputs of the convolution from one tile to the next
    first    output of the convolution where tile 0 begins; negative in a pool's padding
    """

    size: int
    stride: int
    padding: int
    dilation: int
    taps: int
    out: int
    tile: int
    pixels: int
    conv: int
    step: int
    first: int

    @property
    def phases(self) -> int:
        """1 where no tap needs another."""
        one = self.taps == 1 or self.dilation % self.stride == 0
        return 1 if one else self.stride

    @property
    def cells(self) -> int:
        """Of one phase: as many as the outputs, and as far as the last tap reaches past them."""
        return self.conv + (self.taps - 1) * self.dilation // self.stride

    @property
    def tiles(self) -> int:
        return ceil_div(self.out, self.tile)


@dataclass(frozen=True)
class Tile:
    """What a program stages at a time: ``channels`` channels of a tile of ``images`` images.

    chunks   times a program stages, one run of channels after another
    lanes    of a group; a lane owns ``repeat`` points, ``step`` cells apart
    plane    cells of one image and channel
    """

    rows: Axis
    columns: Axis
    images: int
    channels: int
    chunks: int
    lanes: int
    repeat: int
    plane: int

    @property
    def pitch(self) -> int:
        return self.columns.cells

    @property
    def points(self) -> int:
        """Of one image: those of the last row end with its last output."""
        return (self.rows.conv - 1) * self.pitch + self.columns.conv

    @property
    def step(self) -> int:
        return self.plane if self.images > 1 else self.lanes

    @property
    def cells(self) -> int:
        """Of one channel."""
        return self.images * self.plane

    @property
    def channel_cells(self) -> int:
        """An odd number, so that neighbouring channels begin in different banks."""
        return self.cells | 1

    @property
    def span(self) -> int:
        """Cells from the first point of the first lane to the last of the last."""
        return (self.repeat - 1) * self.step + self.lanes

    @property
    def zeros(self) -> int:
        """Cell where ``span`` zeros begin: what a pair without a product reads, and lanes without
        an output past the end of the tile."""
        return self.channels * self.channel_cells

    @property
    def bytes(self) -> int:
        return 4 * (self.zeros + self.span)

    @property
    def tiles(self) -> int:
        return self.rows.tiles * self.columns.tiles


def tile_of(
    problem: ConvProblem, config: KernelConfig, row_groups: int, thread_bytes: int = 0
) -> Tile:
    """The tile of a configuration: ``N_blocks`` tiles of an image, whole rows as long as there are
    rows to deal; channels dealt evenly over the programs of a cluster, in as few chunks as fit into
    ``window_kb``.

    row_groups    threads a lane has
    thread_bytes  of shared memory that a program needs besides for each thread
    """
    height, width = problem.y_size
    down = min(config.N_blocks, height)
    across = min(max(1, config.N_blocks // height), width)
    rows = _axis(problem, 0, ceil_div(height, down))
    columns = _axis(problem, 1, ceil_div(width, across))
    points = (rows.conv - 1) * columns.cells + columns.conv
    together = config.N_blocks == 1 and problem.batch > 1 and points <= FEW_POINTS
    together = together and problem.pool is None
    images = config.repeat if together else 1
    plane = rows.phases * columns.phases * rows.cells * columns.cells
    lanes = next_power_of_two(ceil_div(points, 1 if together else config.repeat))
    share = ceil_div(problem.C, config.K_blocks)
    lanes = max(4, lanes)
    threads = lanes * row_groups
    budget = (config.window_kb * 1024 - ANCHOR_BYTES - threads * thread_bytes) // 4
    budget -= (config.repeat - 1) * (plane if together else lanes) + lanes
    fitting = max(1, min(budget, MAX_STAGING * threads) // (images * plane | 1))
    chunks = ceil_div(share, fitting)
    return Tile(rows, columns, images, ceil_div(share, chunks), chunks, lanes, config.repeat, plane)


@functools.lru_cache(maxsize=256)
def _axis(problem: ConvProblem, i: int, tile: int) -> Axis:
    pixels = (problem.P, problem.Q)[i]
    pool = problem.pool
    if pool is None:
        conv, step, first = tile, tile, 0
    else:
        step, first = tile * pool.stride[i], -pool.padding[i]
        conv = (tile - 1) * pool.stride[i] + pool.kernel[i]
    return Axis(
        size=(problem.H, problem.W)[i],
        stride=problem.stride[i],
        padding=problem.padding[2 * i],
        dilation=problem.dilation[i],
        taps=(problem.R, problem.S)[i],
        out=problem.y_size[i],
        tile=tile,
        pixels=pixels,
        conv=conv,
        step=step,
        first=first,
    )


@dataclass(frozen=True, eq=False)
class Cells:
    """For every column of W: the chunk of channels it belongs to and its cell in the tile, from a
    lane's own point on. Both [K]; ``chunk`` counts the chunks of all programs of a cluster."""

    chunk: Int32
    cell: Int32


def cells_of(problem: ConvProblem, tile: Tile) -> Cells:
    """The virtual K axis of a tile."""
    t = taps(problem)
    row = _cell(tile.rows, t.r)
    column = _cell(tile.columns, t.s)
    phase = row[0] * tile.columns.phases + column[0]
    cell = (phase * tile.rows.cells + row[1]) * tile.pitch + column[1]
    cell += t.c % tile.channels * tile.channel_cells
    return Cells((t.c // tile.channels).astype(np.int32), cell.astype(np.int32))


def _cell(axis: Axis, tap: Int64) -> tuple[Int64, Int64]:
    """(phase, cell within it) of each tap."""
    at = tap * axis.dilation
    return at % axis.stride % axis.phases, at // axis.stride
