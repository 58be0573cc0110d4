"""What a program of family ``pairs`` may be: its shape, and every reason why it cannot work."""

from __future__ import annotations

from typing import NamedTuple

from sparse_triton.config import KernelConfig, ceil_div, counts_why_not
from sparse_triton.device import Device
from sparse_triton.kernels.tf32x3.limits import float32_why_not
from sparse_triton.problem import SpmmProblem

ARCH = 90  # wgmma is Hopper's alone
BLOCK_K = 32  # 128 bytes of a column: what one shared-memory swizzle spans
GROUP_ROWS, GROUP_THREADS = 64, 128  # of one product
GROUPS = 2  # that multiply; as many fetch X
TURNS = 2  # that registers of W take: products read the ones while the others are made
THREADS = GROUPS * GROUP_THREADS
WARP = 32
MOST_TEAMS = 4  # that fetch X
STAGES = 4
REGISTERS = 128  # of a thread when the program starts; then
MULTIPLYING, FETCHING = 192, 64
ALIGNMENT = 1024  # bytes of a swizzle's pattern
STATIC_SHARED_BYTES = 16 * STAGES  # two barriers a stage
VALUES_BYTES, SELECTORS_BYTES = 64 * 16 * 4, 128 * 8  # of one 64-row tile and step
MIN_COLUMNS = 8
MAX_ELEMENTS = 2**29
MIN_BLOCK_N, MAX_BLOCK_N = 32, 128
MAX_STACK = 2
MAX_COLUMNS = 2**29  # the bytes between rows of X take 32 bits
MAX_K = 2**16  # rows of X are numbered in 16 bits


class Tile(NamedTuple):
    """``stack`` times 64 rows for each of the groups that multiply, and the columns of all."""

    stack: int
    block_n: int

    @property
    def tiles(self) -> int:
        return GROUPS * self.stack

    @property
    def block_m(self) -> int:
        return GROUP_ROWS * self.tiles

    @property
    def outputs(self) -> int:
        """Of a thread."""
        return self.stack * self.block_n // 2

    @property
    def sums(self) -> int:
        """That a thread adds up for each output: small products apart where there is room."""
        return 2 if self.outputs <= 64 else 1

    @property
    def team(self) -> int:
        """Threads that fetch X of one step, a column each; the next team has the next step."""
        least = THREADS // MOST_TEAMS
        return least if self.block_n <= least else 2 * least

    @property
    def teams(self) -> int:
        return THREADS // self.team

    @property
    def half_bytes(self) -> int:
        """Shared memory of one half of X, one step."""
        return 4 * BLOCK_K * self.block_n

    @property
    def stage_bytes(self) -> int:
        return 2 * self.half_bytes + self.tiles * (VALUES_BYTES + SELECTORS_BYTES)

    @property
    def window_bytes(self) -> int:
        return STAGES * self.stage_bytes + ALIGNMENT


def tile_of(problem: SpmmProblem, config: KernelConfig) -> Tile:
    rows = ceil_div(problem.M, config.M_blocks)
    columns = ceil_div(problem.N * problem.batch, config.N_blocks)
    stack = max(1, ceil_div(rows, GROUPS * GROUP_ROWS))
    return Tile(stack, max(MIN_BLOCK_N, ceil_div(columns, 8) * 8))


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
    reason = float32_why_not(problem)
    if reason is not None:
        return reason
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
    if tile.stack > MAX_STACK or tile.block_n > MAX_BLOCK_N:
        return (
            f"a tile has at most {GROUPS * MAX_STACK * GROUP_ROWS} rows and {MAX_BLOCK_N} columns, "
            f"got {tile.block_m} and {tile.block_n}; use more M_blocks or N_blocks"
        )
    needed = tile.window_bytes + STATIC_SHARED_BYTES
    if needed > device.shared_bytes:
        return (
            f"{STAGES} stages of {tile.stage_bytes} bytes need {needed} bytes of shared memory, "
            f"the device has {device.shared_bytes}; use more N_blocks"
        )
    return None
