"""What a gather program may be: its shape, and every reason why a configuration cannot work."""

from __future__ import annotations

from typing import NamedTuple

from sparse_triton.config import KernelConfig, ceil_div, counts_why_not, next_power_of_two
from sparse_triton.device import Device
from sparse_triton.problem import SpmmProblem

MAX_THREADS = 1024
MAX_PAIRS = 2**29
MAX_LANES = 128
MAX_STATIC_SHARED_BYTES = 48 * 1024
REGISTERS_BESIDES = 20


class GatherShape(NamedTuple):
    """Rows of a program, lanes of a row, powers of two; a lane owns ``vector * repeat`` columns."""

    block_m: int
    lanes: int


def gather_shape(problem: SpmmProblem, config: KernelConfig) -> GatherShape:
    tile = ceil_div(ceil_div(problem.N, config.N_blocks), config.vector * config.repeat)
    return GatherShape(
        next_power_of_two(ceil_div(problem.M, config.M_blocks)),
        max(4, next_power_of_two(tile)),
    )


def exchange_bytes(sums: int, threads: int, Gy: int, split: bool) -> int:
    """Shared memory of the exchange: every sum of every thread, where a row has several lists."""
    return sums * threads * 4 if Gy > 1 or split else 0


def gather_why_not(problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
    reason = counts_why_not(config, ("sorted", "even_nnz", "split"))
    if reason is None and config.spare and config.row_blocks != "split":
        reason = f"spare={config.spare} is room for split rows; use row_blocks='split' or spare=0"
    return reason or _problem_why_not(problem, config) or _program_why_not(problem, config, device)


def _problem_why_not(problem: SpmmProblem, config: KernelConfig) -> str | None:
    if problem.M == 0 or problem.N == 0 or problem.batch == 0 or problem.nnz == 0:
        return "nothing to multiply; use kernel='dense'"
    if problem.nnz > MAX_PAIRS:
        return (
            f"nnz={problem.nnz} needs 64-bit pair numbers, the limit is {MAX_PAIRS}; split the rows"
        )
    if config.vector * config.repeat > 1 and problem.x_layout == "column":
        return (
            f"vector={config.vector}, repeat={config.repeat} need adjacent columns, X is "
            "token-major; use vector=1, repeat=1"
        )
    if problem.N % config.vector:
        return f"vector={config.vector} needs N divisible by it, got N={problem.N}; use vector=1"
    return None


def _program_why_not(problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
    widest = 16 // problem.x_itemsize
    if config.vector > widest or config.vector & (config.vector - 1):
        return f"vector must be a power of two up to {widest} (16 bytes), got {config.vector}"
    for name in ("Gy", "prefetch", "repeat"):
        value = getattr(config, name)
        if value & (value - 1):
            return f"{name} must be a power of two, got {value}"
    if config.prefetch < 2:
        return f"prefetch must be at least 2, got {config.prefetch}; use prefetch=2"
    block_m, lanes = gather_shape(problem, config)
    threads = config.Gy * block_m * lanes
    if not 32 <= threads <= MAX_THREADS or lanes > MAX_LANES:
        return (
            f"Gy * block_m * lanes = {config.Gy} * {block_m} * {lanes} threads must lie in "
            f"32 ... {MAX_THREADS}, lanes up to {MAX_LANES}; change M_blocks={config.M_blocks}, "
            f"N_blocks={config.N_blocks} or Gy={config.Gy}"
        )
    words = max(1, config.vector * problem.x_itemsize // 4)
    columns = config.vector * config.repeat
    needed = config.prefetch * (4 + words * config.repeat) + columns + REGISTERS_BESIDES
    budget = min(255, device.registers // threads)
    if needed > budget:
        return (
            f"prefetch={config.prefetch} with {columns} columns a lane needs about {needed} "
            f"registers, {threads} threads leave {budget}; use a smaller prefetch or fewer threads"
        )
    shared = exchange_bytes(columns, threads, config.Gy, config.row_blocks == "split")
    if shared > MAX_STATIC_SHARED_BYTES:
        return (
            f"the exchange of {columns} sums of {threads} threads needs {shared} bytes of shared "
            f"memory, the limit is {MAX_STATIC_SHARED_BYTES}; use fewer threads, vector or repeat"
        )
    return None
