"""What a gather program may be: its shape, and every reason why a configuration cannot work."""

from __future__ import annotations

from typing import NamedTuple

from sparse_triton.config import KernelConfig, ceil_div, counts_why_not, next_power_of_two
from sparse_triton.device import Device
from sparse_triton.problem import SpmmProblem

MAX_THREADS = 1024
MAX_PAIRS = 2**29
MAX_LANES = 128
REGISTERS_BESIDES = 24


class GatherShape(NamedTuple):
    """Rows of a program and lanes of a row, powers of two; each lane owns ``vector`` columns."""

    block_m: int
    lanes: int


def gather_shape(problem: SpmmProblem, config: KernelConfig) -> GatherShape:
    tile = ceil_div(ceil_div(problem.N, config.N_blocks), config.vector)
    return GatherShape(
        next_power_of_two(ceil_div(problem.M, config.M_blocks)),
        max(4, next_power_of_two(tile)),
    )


def gather_why_not(problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
    reason = counts_why_not(config, ("sorted", "even_nnz"))
    return reason or _problem_why_not(problem, config) or _program_why_not(problem, config, device)


def _problem_why_not(problem: SpmmProblem, config: KernelConfig) -> str | None:
    if problem.M == 0 or problem.N == 0 or problem.batch == 0 or problem.nnz == 0:
        return "nothing to multiply; use kernel='dense'"
    if problem.nnz > MAX_PAIRS:
        return f"nnz={problem.nnz} needs 64-bit pair numbers, the limit is {MAX_PAIRS}; split the rows"
    if config.vector > 1 and problem.x_layout == "column":
        return f"vector={config.vector} needs adjacent columns, X is token-major; use vector=1"
    if problem.N % config.vector:
        return (
            f"vector={config.vector} needs N divisible by it, got N={problem.N}; use vector=1"
        )
    return None


def _program_why_not(problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
    widest = 16 // problem.x_itemsize
    if config.vector > widest or config.vector & (config.vector - 1):
        return f"vector must be a power of two up to {widest} (16 bytes), got {config.vector}"
    for name in ("Gy", "prefetch"):
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
    needed = config.prefetch * (4 + words) + config.vector + REGISTERS_BESIDES
    budget = min(255, device.registers // threads)
    if needed > budget:
        return (
            f"prefetch={config.prefetch} with vector={config.vector} needs about {needed} registers, "
            f"{threads} threads leave {budget}; use a smaller prefetch or fewer threads"
        )
    return None
