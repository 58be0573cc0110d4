"""Programs of 512 lanes whose warps begin at four places: where they pay, and how long they take.

Such a program has a multiprocessor to itself, and its code is fetched once for all of its lanes.
It is worth that where programs fill whole waves of multiprocessors. The figures are an H100's.
"""

from __future__ import annotations

from typing import NamedTuple

from sparse_triton.config import KernelConfig, ceil_div, filled
from sparse_triton.device import Device
from sparse_triton.kernels.unrolled.limits import pieces_of
from sparse_triton.problem import SpmmProblem

LANES = 512
SHORT_ROWS = 16  # non-zeros: up to here memory is the limit
WAVE_US = 3.0  # until the first code and X are there, and after the last product
COLUMN_US = 0.0285  # a row of a tile of X, 2 KB out of L2
PRODUCT_US = 0.0032  # a non-zero: 16 bytes of code fetched, one instruction of 16 warps
PIECE_US = 3.5  # one more launch


class Shape(NamedTuple):
    """Rows of a program, and loads ahead that leave room for their sums."""

    rows: int
    prefetch: int


SHAPES = (Shape(64, 16), Shape(86, 16))


def in_turns(problem: SpmmProblem, device: Device) -> tuple[float, KernelConfig] | None:
    """Microseconds and configuration of the best shape that fills the device, if any does."""
    tiles = ceil_div(problem.N, LANES)
    short = problem.nnz <= SHORT_ROWS * problem.M
    if short or problem.x_itemsize != 4 or not filled(problem.N, LANES, 0.75):
        return None
    ways = []
    for rows, prefetch in SHAPES:
        M_blocks = ceil_div(problem.M, rows)
        programs = M_blocks * tiles * problem.batch
        if M_blocks > 1 and filled(programs, device.cores):
            config = KernelConfig(
                "unrolled", M_blocks, tiles, starts=4, prefetch=prefetch,
                row_blocks="even_nnz", fastest="columns",
            )  # fmt: skip
            us = ceil_div(programs, device.cores) * _wave_us(problem, M_blocks)
            ways.append((us + PIECE_US * (pieces_of(problem.nnz, M_blocks) - 1), config))
    return min(ways, key=lambda way: way[0], default=None)


def _wave_us(problem: SpmmProblem, M_blocks: int) -> float:
    return WAVE_US + problem.K * COLUMN_US + problem.nnz / M_blocks * PRODUCT_US
