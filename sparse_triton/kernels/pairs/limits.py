"""What a program of family ``pairs`` may be: its shape, and every reason why it cannot work."""

from __future__ import annotations

from typing import NamedTuple

from sparse_triton.config import KernelConfig, ceil_div, counts_why_not, next_power_of_two
from sparse_triton.device import Device
from sparse_triton.problem import SpmmProblem

ARCH = 90  # wgmma is Hopper's alone
BLOCK_K = 32  # 128 bytes of a column: what one shared-memory swizzle spans
GROUP_ROWS, GROUP_THREADS = 64, 128  # of one product
LOADS = BLOCK_K // 8  # of eight rows of X in one column
STAGES = 3
FULL_MULTIPROCESSOR = 96  # sums of a thread, times groups: each is two registers of about 170
ALIGNMENT = 1024  # bytes of a swizzle's pattern
STATIC_SHARED_BYTES = 16  # the window's anchor
MIN_COLUMNS = 8
MAX_ELEMENTS = 2**29
MIN_BLOCK_N, MAX_BLOCK_N = 32, 128
MAX_SUMS, MAX_GROUPS = 128, 4
MAX_COLUMNS = 2**29  # the bytes between rows of X take 32 bits
MAX_K = 2**16  # rows of X are numbered in 16 bits


class Tile(NamedTuple):
    """groups of 128 threads, each with ``stack`` times 64 rows; columns of all; steps that X is
    fetched ahead."""

    groups: int
    stack: int
    block_n: int
    ahead: int = 1

    @property
    def tiles(self) -> int:
        return self.groups * self.stack

    @property
    def block_m(self) -> int:
        return GROUP_ROWS * self.tiles

    @property
    def threads(self) -> int:
        return GROUP_THREADS * self.groups

    @property
    def outputs(self) -> int:
        """Of a thread."""
        return self.stack * self.block_n // 2

    @property
    def loaders(self) -> int:
        """Threads that fetch X: all columns side by side, once, twice or ``LOADS`` times."""
        return max(self.block_n << i for i in range(3) if self.block_n << i <= self.threads)

    @property
    def units(self) -> int:
        """Loads of such a thread in one step."""
        return self.block_n * LOADS // self.loaders

    @property
    def half_bytes(self) -> int:
        """Shared memory of one half of X, one step."""
        return 4 * BLOCK_K * self.block_n

    @property
    def stage_bytes(self) -> int:
        return 2 * self.half_bytes

    @property
    def window_bytes(self) -> int:
        return STAGES * self.stage_bytes + ALIGNMENT


def tile_of(problem: SpmmProblem, config: KernelConfig) -> Tile:
    rows = ceil_div(problem.M, config.M_blocks)
    groups = next_power_of_two(ceil_div(ceil_div(rows, GROUP_ROWS), config.stack))
    columns = ceil_div(problem.N * problem.batch, config.N_blocks)
    block_n = max(MIN_BLOCK_N, ceil_div(columns, 8) * 8)
    return Tile(groups, config.stack, block_n, config.prefetch)


def programs_of(tile: Tile) -> int:
    """Programs that one multiprocessor may hold: their sums leave room for them."""
    return min(3, max(1, FULL_MULTIPROCESSOR // (tile.groups * tile.outputs)))


def most_registers(tile: Tile, programs: int, device: Device) -> int:
    """Of a thread, where there are so many programs in all."""
    residents = min(programs_of(tile), ceil_div(programs, device.cores))
    return min(255, device.registers // (residents * tile.threads) // 8 * 8)


def pairs_why_not(problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
    return (
        counts_why_not(config, ("even_rows",))
        or _problem_why_not(problem, device)
        or _tile_why_not(problem, config, device)
    )


def _problem_why_not(problem: SpmmProblem, device: Device) -> str | None:
    if device.arch != ARCH:
        return (
            f"sparse products of whole warp groups need sm_{ARCH}, the device is "
            f"sm_{device.arch}; use kernel='tf32x3'"
        )
    if (problem.x_dtype, problem.w_dtype) != ("float32", "float32"):
        return (
            f"X and W must be float32, got {problem.x_dtype} and {problem.w_dtype}; "
            "use kernel='dense'"
        )
    if problem.x_layout != "row":
        return "X must be row-major; use kernel='tf32x3'"
    if problem.M == 0 or problem.batch == 0 or problem.nnz == 0:
        return "nothing to multiply; use kernel='dense'"
    if problem.N < MIN_COLUMNS or problem.N * problem.batch > MAX_COLUMNS:
        return (
            f"X must have from {MIN_COLUMNS} to {MAX_COLUMNS} columns, got {problem.N} in each of "
            f"{problem.batch}; use kernel='tf32x3'"
        )
    if problem.K > MAX_K:
        return f"K must be at most {MAX_K}, got {problem.K}; use kernel='tf32x3'"
    if problem.M * problem.K > MAX_ELEMENTS:
        return (
            f"M*K={problem.M * problem.K} elements are packed, the limit is {MAX_ELEMENTS}; "
            "split the rows"
        )
    return None


def _tile_why_not(problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
    tile = tile_of(problem, config)
    sums = tile.groups * tile.outputs
    if sums > MAX_SUMS or tile.groups > MAX_GROUPS or tile.block_n > MAX_BLOCK_N:
        return (
            f"a tile of {tile.block_m} x {tile.block_n} in {tile.groups} groups of 128 threads "
            f"has {sums} sums in a thread of each; the limits are {MAX_SUMS} sums, {MAX_GROUPS} "
            f"groups and {MAX_BLOCK_N} columns; use more M_blocks or N_blocks"
        )
    if config.prefetch not in (1, 2):
        return f"prefetch must be 1 or 2 steps of X, got {config.prefetch}; use prefetch=1"
    needed = tile.window_bytes + STATIC_SHARED_BYTES
    if needed > device.shared_bytes:
        return (
            f"{STAGES} stages of {tile.stage_bytes} bytes need {needed} bytes of shared memory, "
            f"the device has {device.shared_bytes}; use more N_blocks"
        )
    return None
