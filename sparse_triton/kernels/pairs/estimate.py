"""Which tile of family ``pairs``, by how long it takes: waves of tiles, as in ``tf32x3``."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from sparse_triton.config import KernelConfig, ceil_div
from sparse_triton.device import Device
from sparse_triton.kernels.pairs.limits import (
    BLOCK_K,
    MIN_BLOCK_N,
    Tile,
    pairs_why_not,
)
from sparse_triton.problem import SpmmProblem

ENOUGH_PARTNERS = 8  # that a column has on average: nearly all columns then find one


class Way(NamedTuple):
    """A tile. ``step_us`` is what a program takes for one step along K on an H100, ``wave_us``
    until the first stage is full and after the last product."""

    tile: Tile
    step_us: float
    wave_us: float


WAYS = (
    Way(Tile(1, 48), 0.36, 3.5),
    Way(Tile(1, 64), 0.41, 3.4),
    Way(Tile(1, 96), 0.67, 3.3),
    Way(Tile(2, 48), 0.515, 4.2),
    Way(Tile(2, 64), 0.605, 3.8),
    Way(Tile(2, 96), 0.89, 6.2),
    Way(Tile(2, 104), 0.98, 6.2),
    Way(Tile(2, 128), 1.12, 7.6),
)


def partners(problem: SpmmProblem, block_m: int) -> float:
    """Columns that a column goes with, in a row block of evenly strewn non-zeros."""
    density = 1.0 - problem.sparsity
    return float(problem.K * (1.0 - density * density) ** min(block_m, problem.M))


def microseconds(problem: SpmmProblem, way: Way, device: Device) -> float:
    """A last wave costs as much as a full one."""
    tiles = ceil_div(problem.N * problem.batch, way.tile.block_n)
    programs = ceil_div(problem.M, way.tile.block_m) * tiles
    waves = ceil_div(programs, device.cores)
    return waves * (ceil_div(problem.K, BLOCK_K) * way.step_us + way.wave_us)


def pairs_us(problem: SpmmProblem, device: Device) -> float:
    """Infinite where no way is any good."""
    found = ways(problem, device)
    return microseconds(problem, found[0], device) if found else inf


def ways(problem: SpmmProblem, device: Device) -> list[Way]:
    """Those that are legal and let columns find partners, fastest first."""
    found = [
        way
        for way in WAYS
        if partners(problem, way.tile.block_m) >= ENOUGH_PARTNERS
        and pairs_why_not(problem, config_of(problem, way.tile), device) is None
    ]
    return sorted(found, key=lambda way: microseconds(problem, way, device))


def config_of(problem: SpmmProblem, tile: Tile) -> KernelConfig:
    columns = problem.N * problem.batch
    return KernelConfig(
        "pairs",
        M_blocks=max(1, ceil_div(problem.M, tile.block_m)),
        N_blocks=max(1, ceil_div(columns, tile.block_n)),
    )


def fastest(problem: SpmmProblem, device: Device) -> KernelConfig:
    """The smallest tile, legal wherever any is, where none lets columns find partners."""
    found = ways(problem, device)
    tile = found[0].tile if found else Tile(1, MIN_BLOCK_N)
    return config_of(problem, tile)
