"""What an unrolled program may be: its shape, and every reason why a configuration cannot work."""

from __future__ import annotations

from sparse_triton.config import KernelConfig, ceil_div, next_power_of_two
from sparse_triton.device import Device
from sparse_triton.problem import SpmmProblem

MAX_THREADS = 1024
WARP = 32
MAX_STATIC_SHARED_BYTES = 48 * 1024
MAX_NNZ = 400_000  # about 6 MB of code and a minute and a half of assembling
REGISTERS_BESIDES = 24  # pointers, addresses of the exchange, row numbers


def unrolled_shape(problem: SpmmProblem, config: KernelConfig) -> tuple[int, int]:
    """``block_m`` (a multiple of Gy) and ``lanes`` of one group (a power of two)."""
    rows = ceil_div(ceil_div(problem.M, config.M_blocks), config.Gy) * config.Gy
    tile = ceil_div(ceil_div(problem.N, config.N_blocks), config.vector)
    return rows, max(next_power_of_two(tile), ceil_div(32, config.Gy))


def exchange_bytes(block_m: int, Gy: int, lanes: int, vector: int) -> int:
    """Shared memory of the exchange: one float per thread and accumulator of a round."""
    return 0 if Gy == 1 else exchange_round(block_m, Gy, lanes, vector) * vector * Gy * lanes * 4


def exchange_round(block_m: int, Gy: int, lanes: int, vector: int) -> int:
    """Places summed in one round of the exchange: all of them where shared memory allows it, else
    the most that divide ``block_m`` and fit; at least Gy."""
    fitting = MAX_STATIC_SHARED_BYTES // (vector * Gy * lanes * 4)
    sizes = [n for n in range(Gy, block_m + 1, Gy) if block_m % n == 0 and n <= fitting]
    return max(sizes, default=Gy)


def problem_why_not(problem: SpmmProblem) -> str | None:
    if problem.M == 0 or problem.N == 0 or problem.batch == 0 or problem.nnz == 0:
        return "nothing to multiply; use kernel='dense'"
    if problem.x_layout != "row":
        return (
            "the lanes of a load read adjacent columns, X must have x_layout='row', got "
            f"{problem.x_layout!r}; use kernel='gather' or X.contiguous()"
        )
    if problem.nnz > MAX_NNZ:
        return (
            f"nnz={problem.nnz} would be as many instructions, at most {MAX_NNZ} are worth "
            "compiling; use kernel='gather'"
        )
    return None


def shape_why_not(problem: SpmmProblem, config: KernelConfig) -> str | None:
    if config.Gy & (config.Gy - 1):
        return f"Gy must be a power of two, got {config.Gy}"
    if config.vector not in (1, 2, 4):
        return f"vector must be 1, 2 or 4, got {config.vector}"
    if problem.N % config.vector:
        return f"vector={config.vector} needs N divisible by it, got N={problem.N}; use vector=1"
    _, lanes = unrolled_shape(problem, config)
    if lanes * config.Gy > MAX_THREADS:
        return (
            f"Gy * lanes = {config.Gy} * {lanes} threads, the limit is {MAX_THREADS}; "
            f"use N_blocks >= {ceil_div(problem.N * config.Gy, MAX_THREADS * config.vector)}"
        )
    if config.sync_every and lanes < WARP:
        return (
            f"sync_every={config.sync_every} puts barriers into the bodies, each must then be run "
            f"by whole warps of {WARP} lanes, got {lanes}; use sync_every=0 or Gy=1"
        )
    return None


def resources_why_not(problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
    block_m, lanes = unrolled_shape(problem, config)
    accumulators = block_m * config.vector
    per_thread = min(255, device.registers // (config.Gy * lanes))
    budget = per_thread - REGISTERS_BESIDES - config.vector * (config.prefetch + 1)
    if accumulators > budget:
        rows = max(1, budget // config.vector)
        return (
            f"block_m={block_m} rows x vector={config.vector} need {accumulators} accumulators per "
            f"lane, the budget is {budget}; use M_blocks >= {ceil_div(problem.M, rows)} "
            f"(got {config.M_blocks}) or a smaller prefetch, vector or Gy"
        )
    shared = exchange_bytes(block_m, config.Gy, lanes, config.vector)
    if shared > MAX_STATIC_SHARED_BYTES:
        return (
            f"the exchange of Gy={config.Gy} partials needs {shared} bytes of shared memory, the "
            f"limit is {MAX_STATIC_SHARED_BYTES}; use more M_blocks or N_blocks, or a smaller Gy"
        )
    return None
