"""What a tile of family ``tf32x3`` may be: its shape, and every reason why it cannot work."""

from __future__ import annotations

from typing import NamedTuple

from sparse_triton.config import KernelConfig, ceil_div, counts_why_not, next_power_of_two
from sparse_triton.device import Device
from sparse_triton.problem import SpmmProblem

FIRST_ARCH_WITH_TF32 = 80
BLOCK_K = 32  # 128 bytes of a row: what one shared-memory swizzle spans
BLOCK_MS, BLOCK_NS = (32, 64, 128), (64, 128)
FULL_TILE = 64 * 128  # elements: two accumulators of 32 registers in 8 warps
LARGE_TILE = 2 * FULL_TILE
MAX_ELEMENTS = 2**29  # of W: 4 GiB in two halves
MAX_EXTENT = 2**23  # offsets inside a tile take 32 bits


class Tile(NamedTuple):
    """Rows and columns of a program, powers of two."""

    block_m: int
    block_n: int

    @property
    def elements(self) -> int:
        return self.block_m * self.block_n

    @property
    def stage_bytes(self) -> int:
        """Shared memory of one step along K: X, and W twice."""
        return 4 * BLOCK_K * (self.block_n + 2 * self.block_m)


def tile_of(problem: SpmmProblem, config: KernelConfig) -> Tile:
    return Tile(
        max(BLOCK_MS[0], next_power_of_two(ceil_div(problem.M, config.M_blocks))),
        max(BLOCK_NS[0], next_power_of_two(ceil_div(problem.N, config.N_blocks))),
    )


def most_elements(problem: SpmmProblem, device: Device) -> int:
    """Of a tile without spills: twice as many on sm_90, which multiplies out of shared
    memory, where X needs few addresses and the epilogue is short."""
    epilogue = problem.epilogue
    adjacent = problem.N if problem.x_layout == "row" else problem.K
    long = epilogue.residual and epilogue.activation not in (None, "relu")
    large = device.arch // 10 == 9 and adjacent % 16 == 0 and not long
    return LARGE_TILE if large else FULL_TILE


def warps_of(tile: Tile, problem: SpmmProblem, device: Device) -> int:
    """128 x 64 takes 4 where their registers last: two programs a multiprocessor, each with one
    group of warps that reads all of W's tile, keep its tensor cores busier than one of 8 does."""
    lasting = most_elements(problem, device) == LARGE_TILE and not problem.epilogue.residual
    tall = tile.block_m > tile.block_n
    return 8 if tile.elements >= FULL_TILE and not (tall and lasting) else 4


def tf32x3_why_not(problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
    return (
        counts_why_not(config, ("even_rows",))
        or _problem_why_not(problem, device)
        or _tile_why_not(problem, config, device)
    )


def float32_why_not(problem: SpmmProblem) -> str | None:
    """Only float32 is split."""
    if (problem.x_dtype, problem.w_dtype) == ("float32", "float32"):
        return None
    return (
        f"X and W must be float32, got {problem.x_dtype} and {problem.w_dtype}; use kernel='dense'"
    )


def _problem_why_not(problem: SpmmProblem, device: Device) -> str | None:
    if device.arch < FIRST_ARCH_WITH_TF32:
        return (
            f"TF32 tensor cores need sm_{FIRST_ARCH_WITH_TF32}, the device is sm_{device.arch}; "
            "use kernel='dense'"
        )
    reason = float32_why_not(problem)
    if reason is not None:
        return reason
    if problem.M == 0 or problem.N == 0 or problem.batch == 0 or problem.nnz == 0:
        return "nothing to multiply; use kernel='dense'"
    if max(problem.M, problem.K, problem.N) > MAX_EXTENT:
        return (
            f"M, K and N must be at most {MAX_EXTENT}, got {problem.M}, {problem.K} and "
            f"{problem.N}; use kernel='dense'"
        )
    if problem.M * problem.K > MAX_ELEMENTS:
        return (
            f"M*K={problem.M * problem.K} elements are written out twice, the limit is "
            f"{MAX_ELEMENTS}; split the rows"
        )
    return None


def _tile_why_not(problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
    tile, most = tile_of(problem, config), most_elements(problem, device)
    if tile.elements > most or tile.block_n > BLOCK_NS[-1]:
        return (
            f"a tile of {tile.block_m} x {tile.block_n} needs more registers than 8 warps have, "
            f"the limit is {most} elements, {BLOCK_NS[-1]} columns; use more M_blocks or "
            f"N_blocks (got {config.M_blocks} and {config.N_blocks})"
        )
    if config.prefetch < 2:
        return f"prefetch must be at least 2 tiles of K, got {config.prefetch}; use prefetch=2"
    needed = config.prefetch * tile.stage_bytes
    if needed > device.shared_bytes:
        return (
            f"prefetch={config.prefetch} tiles of {tile.stage_bytes} bytes need {needed} bytes of "
            f"shared memory, the device has {device.shared_bytes}; use a smaller prefetch"
        )
    return None
