"""What a gathered convolution should take, from counts: the heuristic for what nobody tuned.

Fitted to a sweep of 200 configurations (``benchmarks/NOTES.md``), geometric mean error 25 %: it
ranks configurations, it does not predict times. What a program waits for is added up over its life
and the waves of programs; what all programs issue and read is spread over the multiprocessors.
"""

from __future__ import annotations

import math

from sparse_triton.config import KernelConfig, ceil_div
from sparse_triton.device import Device
from sparse_triton.kernels.conv.shape import Shape, gather_shape
from sparse_triton.problem import ConvProblem

WARP = 32
THREADS, SHARED_BYTES = 2048, 227 * 1024  # of a multiprocessor

# Microseconds of a kernel, a doubling of its cluster, a trip to memory, a list, a turn of one.
LAUNCH, CLUSTER, TRIP, LIST, TURN = 1.2, 0.5, 0.68, 0.16, 0.1
# Microseconds a multiprocessor takes for one instruction of the walk in one warp, and for what else
# a warp does: a list, an element staged, a partial read and finished; for a byte from L2.
ISSUE, WALKED, STAGED, FINISHED, BYTE = 0.00026, 0.0035, 0.0005, 0.009, 2e-5


def gather_us(problem: ConvProblem, config: KernelConfig, device: Device) -> float:
    """Estimated microseconds of a legal configuration of family gather."""
    shape = gather_shape(problem, config)
    tile = shape.tile
    places = tile.tiles * ceil_div(problem.batch, tile.images)
    programs = ceil_div(problem.M, shape.block_m) * places * shape.K_blocks
    together = max(1, _at_once(shape, device)) * device.cores
    waves = max(1.0, programs / together)
    lists = tile.chunks * shape.stack
    pairs = problem.nnz / problem.M / (shape.parts * tile.chunks)
    waits = (
        tile.chunks * ceil_div(shape.staging, shape.piece) * TRIP
        + lists * LIST
        + lists * ceil_div(math.ceil(pairs), shape.depth) * TURN
    )
    walked = problem.nnz * places * shape.lanes / WARP * (1.75 + 2 * shape.repeat)
    warps = programs * shape.threads / WARP
    a_warp = lists * WALKED + shape.staging * STAGED + shape.held * shape.parts * FINISHED
    elements = programs * tile.chunks * tile.channels * _inside(problem, shape)
    read = elements * problem.x_itemsize + problem.nnz * 8 * places
    all_of_it = warps * a_warp + walked * ISSUE + read * BYTE
    return (
        LAUNCH
        + CLUSTER * math.log2(shape.K_blocks)
        + waits * waves
        + all_of_it / device.cores * _imbalance(programs, device)
    )


def _at_once(shape: Shape, device: Device) -> int:
    """Programs that a multiprocessor runs side by side."""
    registers = shape.threads * (32 if shape.threads == 1024 else 48)
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


def _imbalance(programs: int, device: Device) -> float:
    """The fullest multiprocessor over the mean."""
    mean = programs / device.cores
    return math.ceil(mean) / mean if mean < 8 else 1.0
