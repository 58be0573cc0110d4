"""Programs of 512 lanes whose warps begin at four places: where they pay, and how long they take.

One such program fills a multiprocessor, and its code is fetched once for all of its lanes. They are
worth it where programs fill whole waves of multiprocessors.
"""

from __future__ import annotations

from typing import NamedTuple

from sparse_triton.config import KernelConfig, ceil_div
from sparse_triton.device import Device
from sparse_triton.problem import SpmmProblem

LANES = 512
SHORT_ROWS = 16  # non-zeros
COLUMN_US = 0.033  # one row of a tile of X, out of L2: 2 KB at 27 bytes a cycle, H100
PRODUCT_US = 0.0035  # one non-zero: 16 bytes of code fetched, 16 warps' products


class Shape(NamedTuple):
    """Rows of a program, and loads ahead that leave room for their sums."""

    rows: int
    prefetch: int


SHAPES = (Shape(64, 16), Shape(86, 8))


def in_turns(problem: SpmmProblem, device: Device) -> tuple[float, KernelConfig] | None:
    """Microseconds and configuration of the best shape that fills the device, if any does."""
    tiles = ceil_div(problem.N, LANES)
    short = problem.nnz <= SHORT_ROWS * problem.M  # memory is the limit
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
            program_us = problem.K * COLUMN_US + problem.nnz / M_blocks * PRODUCT_US
            ways.append((ceil_div(programs, device.cores) * program_us, config))
    return min(ways, key=lambda way: way[0], default=None)


def filled(count: int, unit: int, least: float = 0.9) -> bool:
    """Whether at most a tenth of the last unit and all before it is empty."""
    return count >= least * unit * ceil_div(count, unit)
