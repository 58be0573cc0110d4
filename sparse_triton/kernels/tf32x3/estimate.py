"""Which tile of family ``tf32x3``, by how long it takes: waves of tiles on the multiprocessors."""

from __future__ import annotations

from typing import NamedTuple

from sparse_triton.config import KernelConfig, ceil_div
from sparse_triton.device import Device
from sparse_triton.kernels.tf32x3.limits import BLOCK_K, Tile, most_elements, warps_of
from sparse_triton.problem import SpmmProblem


class Way(NamedTuple):
    """A tile and how far ahead it is fetched, which decides how many programs one multiprocessor
    holds; ``step_us`` is what these take together for one step along K, on an H100."""

    tile: Tile
    prefetch: int
    residents: int
    step_us: float


WAYS = (
    Way(Tile(128, 128), 4, 1, 1.03),
    Way(Tile(128, 64), 3, 2, 0.92),
    Way(Tile(64, 128), 3, 2, 1.06),
    Way(Tile(64, 64), 3, 3, 0.8),
    Way(Tile(64, 64), 4, 2, 0.52),
)
WAVE_US = 3.0  # until the first tiles of X and W are there, and after the last product


def microseconds(problem: SpmmProblem, way: Way, device: Device) -> float:
    """A last wave costs as much as a full one: programs that wait for the kernel before fill one
    multiprocessor after the other."""
    blocks = ceil_div(problem.M, way.tile.block_m)
    programs = blocks * ceil_div(problem.N, way.tile.block_n) * problem.batch
    waves = ceil_div(programs, device.cores * way.residents)
    return waves * (ceil_div(problem.K, BLOCK_K) * way.step_us + WAVE_US)


def tensor_cores_us(problem: SpmmProblem, device: Device) -> float:
    """Of the way that takes least."""
    return microseconds(problem, _quickest(problem, device), device)


def fastest(problem: SpmmProblem, device: Device) -> KernelConfig:
    """The way that takes least."""
    tile, prefetch, _, _ = _quickest(problem, device)
    return KernelConfig(
        "tf32x3",
        M_blocks=max(1, ceil_div(problem.M, tile.block_m)),
        N_blocks=max(1, ceil_div(problem.N, tile.block_n)),
        prefetch=max(2, min(prefetch, device.shared_bytes // tile.stage_bytes)),
    )


def _quickest(problem: SpmmProblem, device: Device) -> Way:
    """Of those whose registers last."""
    ways = [way for way in WAYS if _fits(problem, way.tile, device)]
    return min(ways, key=lambda way: microseconds(problem, way, device))


def _fits(problem: SpmmProblem, tile: Tile, device: Device) -> bool:
    """128 rows only where half of them are not empty, and a tall tile as it was measured."""
    if tile.block_m == 64:
        return True
    measured = tile.block_m == tile.block_n or warps_of(tile, problem, device) == 4
    return tile.elements <= most_elements(problem, device) and problem.M > 64 and measured
