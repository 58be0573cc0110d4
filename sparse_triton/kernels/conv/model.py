"""What a configuration should take, from counts: the heuristic for convolutions nobody tuned.

The clock cycles of one multiprocessor, per pipe, as if all programs were spread evenly; the slowest
pipe decides, latencies are added. Constants are fitted to sweeps (``benchmarks/NOTES.md``); the
estimate ranks configurations, it does not predict times.
"""

from __future__ import annotations

from sparse_triton.config import KernelConfig, ceil_div
from sparse_triton.device import Device
from sparse_triton.kernels.conv.shape import Shape, gather_shape
from sparse_triton.problem import ConvProblem

WARP = 32
SHARED_BYTES = 227 * 1024  # of a multiprocessor
L2_BYTES = 24.0  # a cycle, to each multiprocessor, when all read
ISSUE = 3.0  # instructions a cycle that such loops reach of the 4 possible
START = 1500.0  # cycles of a program without its work: launch, first loads, stores
STAGE = 900.0  # of a chunk: one trip to L2 and two barriers
CLUSTER = 700.0  # of an exchange over the programs of a cluster
GROUPS = 150.0  # of an exchange within a program
TRIP = 45.0  # of a turn of the walk whose loads nothing hides


def gather_cycles(problem: ConvProblem, config: KernelConfig, device: Device) -> float:
    """Estimated cycles of a legal gather configuration."""
    shape = gather_shape(problem, config)
    tile = shape.tile
    rows = ceil_div(problem.M, shape.block_m) * shape.block_m / problem.M  # idle places count
    places = tile.tiles * ceil_div(problem.batch, tile.images)
    warps = problem.nnz * rows * places * shape.lanes / WARP
    shared = warps * (shape.repeat + 0.5)  # of X, and a pair in half a load
    issued = warps * (1.5 + 2 * shape.repeat)
    staged = _staged_cells(problem, shape)
    copies = ceil_div(problem.M, shape.block_m) * places * config.K_blocks * tile.chunks
    shared += 2 * staged * copies / WARP
    issued += 3 * staged * copies / WARP
    pairs = problem.nnz * 8 * places
    traffic = pairs + staged * copies * problem.x_itemsize
    trips = problem.nnz / problem.M / (config.parts * tile.chunks) / config.prefetch
    return _cycles(
        problem, shape, device, places, shared, issued, traffic, tile.chunks * (trips + 1) * TRIP
    )


def _staged_cells(problem: ConvProblem, shape: Shape) -> float:
    """Cells of a chunk whose element exists: the others cost no traffic."""
    return shape.tile.channels * shape.tile.images * shape.tile.plane


def _cycles(
    problem: ConvProblem, shape: Shape, device: Device, places: int,
    shared: float, issued: float, traffic: float, latency: float,
) -> float:  # fmt: skip
    programs = ceil_div(problem.M, shape.block_m) * places * shape.K_blocks
    together = min(
        2048 // shape.threads,
        SHARED_BYTES // (shape.shared_bytes + 1024),
        device.registers // (shape.threads * 48),
        32,
    )
    waves = max(1.0, programs / (device.cores * max(1, together)))
    busy = min(1.0, programs / device.cores)
    spread = device.cores * busy
    pipes = max(shared, issued / ISSUE, traffic / L2_BYTES) / spread
    fixed = START + shape.tile.chunks * STAGE + latency
    fixed += CLUSTER if shape.K_blocks > 1 else GROUPS if shape.Gy > 1 else 0.0
    return pipes + fixed * min(waves, 2.0 + waves / 4)
