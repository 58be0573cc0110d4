"""In how many launches a convolution runs: what one compiles takes a time that is bearable."""

from __future__ import annotations

from itertools import pairwise

from sparse_triton.config import ceil_div, filled
from sparse_triton.device import Device
from sparse_triton.kernels.conv.model import at_once
from sparse_triton.kernels.conv.shape import Shape
from sparse_triton.problem import MANY_COLUMNS, ConvProblem

# Non-zeros that are compiled together without thought: the time grows with their square, two
# seconds here.
SHORT_LAUNCH = 16_000
FULL = 0.93  # share of the device that a launch must fill to its end


def launches(problem: ConvProblem, shape: Shape, device: Device) -> list[int]:
    """Row blocks at which launches begin, and where the last one ends.

    A program of many non-zeros is cut where its launches fill whole waves of programs: the next
    one waits until the one before is over.
    """
    blocks = ceil_div(problem.M, shape.block_m)
    if problem.N * problem.batch < MANY_COLUMNS:
        return [0, blocks]
    programs = shape.tile.tiles * ceil_div(problem.batch, shape.tile.images) * shape.K_blocks
    places = device.cores * max(1, at_once(shape, device))
    for size in range(max(1, SHORT_LAUNCH * blocks // problem.nnz), blocks):
        if filled(size * programs, places, FULL):
            return [*range(0, blocks, size), blocks]
    return [0, blocks]


def compiled_together(problem: ConvProblem, shape: Shape, device: Device) -> int:
    """Non-zeros of the longest launch, about."""
    cuts = launches(problem, shape, device)
    return problem.nnz * max(b - a for a, b in pairwise(cuts)) // cuts[-1]
