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
# Share of the multiprocessors that clusters of a size can use: one lies within 16 or 18 of them.
IN_CLUSTERS = {1: 1.0, 2: 1.0, 4: 0.86, 8: 0.85, 16: 0.8}


class Costs(NamedTuple):
    """launch, cluster   of a kernel, of its being launched in clusters: microseconds
    trip                to memory, of a piece that is staged: microseconds
    a_warp, an_element, a_partial   instructions of a program besides products: of a warp; for an
                        element that a thread stages, for a partial that it adds up
    """

    launch: float
    cluster: float
    trip: float
    a_warp: float
    an_element: float
    a_partial: float


class Walking(NamedTuple):
    """list, turn  of pairs, waited for: microseconds
    pair, a_list  cycles of shared memory to hand a pair to a warp; instructions of a list
    """

    list: float
    turn: float
    pair: float
    a_list: float


GATHER = Costs(2.2, 1.0, 0.55, 0.0, 1.7, 12.0)
WALKING = Walking(1.0, 0.105, 0.9, 135.0)


def gather_us(
    problem: ConvProblem,
    config: KernelConfig,
    device: Device,
    costs: Costs = GATHER,
    walking: Walking = WALKING,
) -> float:
    """Estimated microseconds of a legal configuration of family gather."""
    shape, w = gather_shape(problem, config), walking
    warps, lists = shape.threads / WARP, shape.tile.chunks * shape.stack
    pairs = problem.nnz / problem.M / (shape.parts * shape.tile.chunks) + 0.5
    memory = warps * lists * pairs * (w.pair + shape.repeat)
    issued = warps * lists * (pairs * (1.5 + 2 * shape.repeat) + w.a_list)
    issued += _besides(shape, costs)
    read = problem.nnz * 8 / (ceil_div(problem.M, shape.block_m) * shape.K_blocks)
    work = max(memory, issued / SCHEDULERS) + read / L2_BYTES
    waits = lists * (w.list + math.ceil(pairs / shape.depth) * w.turn)
    return _total(problem, shape, device, costs, work, waits)


def _besides(shape: Shape, costs: Costs) -> float:
    """Instructions of a program besides products."""
    staged = shape.tile.chunks * shape.staging * costs.an_element
    added = shape.held * shape.parts * costs.a_partial if shape.parts > 1 else 0.0
    return shape.threads / WARP * (staged + added + costs.a_warp)


def _total(
    problem: ConvProblem, shape: Shape, device: Device, costs: Costs, work: float, waits: float
) -> float:
    """Microseconds of all programs, each of ``work`` cycles of its multiprocessor."""
    tile = shape.tile
    programs = ceil_div(problem.M, shape.block_m) * tile.tiles * shape.K_blocks
    programs *= ceil_div(problem.batch, tile.images)
    elements = tile.chunks * tile.channels * _inside(problem, shape)
    work += elements * problem.x_itemsize / L2_BYTES
    waits += tile.chunks * costs.trip
    mean = programs / (device.cores * IN_CLUSTERS[shape.K_blocks])
    busiest = math.ceil(mean) if mean < 8 else mean
    waves = max(1.0, busiest / max(1, at_once(shape, device)))
    launch = costs.launch + (costs.cluster if shape.K_blocks > 1 else 0.0)
    return launch + math.hypot(busiest * work / CYCLES, waves * waits)


def at_once(shape: Shape, device: Device) -> int:
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
