"""What a gathered convolution should take, from counts: the heuristic for what nobody tuned.

Fitted to sweeps (``benchmarks/NOTES.md``): it ranks configurations, it does not predict times. What
all programs of a multiprocessor issue, and move through shared memory, takes turns; what one
program waits for passes while others work, if there are others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from sparse_triton.config import KernelConfig, ceil_div
from sparse_triton.device import Device
from sparse_triton.kernels.conv.shape import Shape, gather_shape
from sparse_triton.problem import ConvProblem

WARP = 32
THREADS, SHARED_BYTES = 2048, 227 * 1024  # of a multiprocessor
CYCLES = 1755.0  # of a microsecond
SCHEDULERS = 4  # instructions of a cycle
L2_BYTES = 24.0  # of a cycle and multiprocessor
# Multiprocessors that clusters of a size can use, of all: a cluster lies within 16 or 18 neighbours.
IN_CLUSTERS = {1: 1.0, 2: 1.0, 4: 0.86, 8: 0.85, 16: 0.8}


class Costs(NamedTuple):
    """LAUNCH, a cluster, a doubling of it, a trip to memory, a list, a turn of one: microseconds.
    PAIR: cycles of shared memory to hand a pair to a warp; STAGED: to stage 32 elements.
    A_WARP, A_LIST, AN_ELEMENT, A_PARTIAL: instructions."""

    launch: float = 2.2
    cluster: float = 1.0
    doubling: float = 0.0
    trip: float = 0.55
    list: float = 1.0
    turn: float = 0.105
    pair: float = 0.9
    staged: float = 0.0
    a_warp: float = 0.0
    a_list: float = 135.0
    an_element: float = 1.7
    a_partial: float = 12.0


COSTS = Costs()


def gather_us(
    problem: ConvProblem, config: KernelConfig, device: Device, costs: Costs = COSTS
) -> float:
    """Estimated microseconds of a legal configuration of family gather."""
    shape, c = gather_shape(problem, config), costs
    tile = shape.tile
    places = tile.tiles * ceil_div(problem.batch, tile.images)
    programs = ceil_div(problem.M, shape.block_m) * places * shape.K_blocks
    warps, lists = shape.threads / WARP, tile.chunks * shape.stack
    pairs = problem.nnz / problem.M / (shape.parts * tile.chunks) + 0.5
    elements = tile.chunks * shape.staging * warps  # of 32 lanes
    memory = warps * lists * pairs * (c.pair + shape.repeat) + elements * c.staged
    issued = warps * (
        lists * (pairs * (1.5 + 2 * shape.repeat) + c.a_list)
        + tile.chunks * shape.staging * c.an_element
        + shape.held * shape.parts * c.a_partial
        + c.a_warp
    )
    read: float = tile.chunks * tile.channels * _inside(problem, shape) * problem.x_itemsize
    read += problem.nnz * 8 * places / programs
    work = (max(memory, issued / SCHEDULERS) + read / L2_BYTES) / CYCLES
    chain = tile.chunks * c.trip + lists * (c.list + math.ceil(pairs / shape.depth) * c.turn)
    mean = programs / (device.cores * IN_CLUSTERS[shape.K_blocks])
    busiest = math.ceil(mean) if mean < 8 else mean
    waves = max(1.0, busiest / max(1, _at_once(shape, device)))
    return (
        c.launch
        + (c.cluster + c.doubling * math.log2(shape.K_blocks) if shape.K_blocks > 1 else 0.0)
        + math.hypot(busiest * work, waves * chain)
    )


def _at_once(shape: Shape, device: Device) -> int:
    """Programs that a multiprocessor runs side by side."""
    registers = shape.threads * (32 if shape.threads == 1024 else 64)
    return min(
        THREADS // shape.threads,
        SHARED_BYTES // (shape.shared_bytes + 1024),
        device.registers // registers,
    )


def _inside(problem: ConvProblem, shape: Shape) -> int:
    """Cells of a channel that are read: at most the image."""
    rows, columns = shape.tile.rows, shape.tile.columns
    cells = rows.cells * rows.phases * columns.cells * columns.phases
    return shape.tile.images * min(cells, problem.H * problem.W)
