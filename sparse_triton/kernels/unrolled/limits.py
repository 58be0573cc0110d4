"""What an unrolled program may be: its shape, and every reason why a configuration cannot work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparse_triton.config import KernelConfig, ceil_div, next_power_of_two
from sparse_triton.device import Device
from sparse_triton.problem import SpmmProblem

MAX_THREADS = 1024
WARP = 32
MAX_STATIC_SHARED_BYTES = 48 * 1024
MAX_NNZ = 400_000  # about 6 MB of code and a minute and a half of assembling
LONGEST_PIECE = 30_000  # products one kernel is to hold: some five seconds of assembling
ROUND_BYTES = 15 * 1024  # of code: what one scheduler's instruction cache keeps
SCHEDULERS = 4  # neighbouring warps are on different ones
REGISTERS_BESIDES = 24  # pointers, addresses of the exchange, row numbers


def unrolled_shape(problem: SpmmProblem, config: KernelConfig) -> tuple[int, int]:
    """``block_m`` (a multiple of the parts) and ``lanes`` of one group (a power of two)."""
    rows = ceil_div(ceil_div(problem.M, config.M_blocks), config.parts) * config.parts
    tile = ceil_div(ceil_div(problem.N, config.N_blocks), config.vector)
    return rows, max(next_power_of_two(tile), ceil_div(32, config.Gy))


@dataclass(frozen=True)
class Exchange:
    """How the partials of ``parts = K_blocks * Gy`` bodies become sums: in rounds of places.

    Each part finishes an equal share of a round. A program holds in shared memory what it finishes:
    of each part one float per place, column and lane; ``quad`` places of a lane lie side by side.
    """

    block_m: int
    Gy: int
    K_blocks: int
    stack: int
    lanes: int
    vector: int

    @property
    def parts(self) -> int:
        return self.Gy * self.K_blocks

    @property
    def round_places(self) -> int:
        """Places of one round: all of them where shared memory allows it, else the most that divide
        ``block_m`` and fit; at least one a part."""
        if self.parts == 1:
            return self.block_m
        fitting = MAX_STATIC_SHARED_BYTES // self._bytes(1)
        sizes = range(self.parts, self.block_m + 1, self.parts)
        return max((n for n in sizes if self.block_m % n == 0 and n <= fitting), default=self.parts)

    @property
    def share(self) -> int:
        """Places of a round that one part finishes."""
        return self.round_places // self.parts

    @property
    def quad(self) -> int:
        """Places that leave in one store: of up to 16 bytes."""
        return math.gcd(4, self.share)

    @property
    def block_bytes(self) -> int:
        """Shared memory of one stacked row block."""
        return self._bytes(self.round_places) // self.stack

    @property
    def shared_bytes(self) -> int:
        return 0 if self.parts == 1 else self._bytes(self.round_places)

    def _bytes(self, places: int) -> int:
        return places * self.vector * self.stack * self.Gy * self.lanes * 4


def exchange_of(problem: SpmmProblem, config: KernelConfig) -> Exchange:
    block_m, lanes = unrolled_shape(problem, config)
    return Exchange(block_m, config.Gy, config.K_blocks, config.stack, lanes, config.vector)


def chunks_of(problem: SpmmProblem, config: KernelConfig) -> int:
    """Chunks of a body: as many rounds as leave each short enough, ``starts`` chunks a round."""
    if config.starts == 1:
        return 1
    instructions = (problem.nnz // config.M_blocks + problem.K) // config.parts
    bytes_ = 16 * config.vector * instructions
    return config.starts * max(1, round(bytes_ / ROUND_BYTES))


def pieces_of(products: int, stacks: int, longest: int = LONGEST_PIECE) -> int:
    """Kernels that a long program is cut into: as few as are no longer than that."""
    return max(1, min(stacks, ceil_div(products, longest)))


def accumulates_half(problem: SpmmProblem, config: KernelConfig) -> bool:
    """Whether products are summed in float16 pairs first: permitted, and columns come in pairs."""
    permitted = problem.accumulate == "float16" and problem.x_dtype == "float16"
    return permitted and config.kernel == "unrolled" and config.vector >= 2


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
    for name in ("Gy", "stack"):
        value = getattr(config, name)
        if value & (value - 1):
            return f"{name} must be a power of two, got {value}"
    if config.vector not in (1, 2, 4):
        return f"vector must be 1, 2 or 4, got {config.vector}"
    if problem.N % config.vector:
        return f"vector={config.vector} needs N divisible by it, got N={problem.N}; use vector=1"
    _, lanes = unrolled_shape(problem, config)
    groups = config.Gy * config.stack
    if lanes * groups > MAX_THREADS:
        return (
            f"stack * Gy * lanes = {config.stack} * {config.Gy} * {lanes} threads, the limit is "
            f"{MAX_THREADS}; use N_blocks >= "
            f"{ceil_div(problem.N * groups, MAX_THREADS * config.vector)}"
        )
    reason = _starts_why_not(config, lanes)
    if reason is not None:
        return reason
    if config.sync_every and lanes < WARP:
        return (
            f"sync_every={config.sync_every} puts barriers into the bodies, each must then be run "
            f"by whole warps of {WARP} lanes, got {lanes}; use sync_every=0 or Gy=1"
        )
    return None


def _starts_why_not(config: KernelConfig, lanes: int) -> str | None:
    starts = config.starts
    if starts == 1:
        return None
    if starts & (starts - 1):
        return f"starts must be a power of two, got {starts}"
    if config.sync_every:
        return (
            f"starts={starts} sends the warps of a body to different places, barriers would wait "
            f"for ever: sync_every must be 0, got {config.sync_every}; use starts=1"
        )
    if lanes < starts * SCHEDULERS * WARP:
        return (
            f"starts={starts} wants as many warps on each of {SCHEDULERS} schedulers: "
            f"{starts * SCHEDULERS * WARP} lanes, got {lanes}; use fewer N_blocks or starts"
        )
    return None


def resources_why_not(problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
    block_m, lanes = unrolled_shape(problem, config)
    accumulators = block_m * config.vector
    if accumulates_half(problem, config):
        accumulators += accumulators // 2
    per_thread = min(255, device.registers // (config.stack * config.Gy * lanes))
    budget = per_thread - REGISTERS_BESIDES - config.vector * (config.prefetch + 1)
    if accumulators > budget:
        rows = max(1, budget * block_m // accumulators)
        return (
            f"block_m={block_m} rows x vector={config.vector} need {accumulators} accumulators per "
            f"lane, the budget is {budget}; use M_blocks >= {ceil_div(problem.M, rows)} "
            f"(got {config.M_blocks}) or a smaller prefetch, vector or Gy"
        )
    shared = exchange_of(problem, config).shared_bytes
    if shared > MAX_STATIC_SHARED_BYTES:
        return (
            f"the exchange of Gy * K_blocks = {config.parts} partials needs {shared} bytes of "
            f"shared memory, the limit is {MAX_STATIC_SHARED_BYTES}; use more M_blocks or "
            "N_blocks, or a smaller Gy or stack"
        )
    return None
