"""Families ``gather`` and ``unrolled`` of convolutions."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import KernelConfig, ceil_div, powers_of_two
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel
from sparse_triton.kernels.conv.interpreter import interpret
from sparse_triton.kernels.conv.limits import MAX_CHUNKS, gather_why_not, unrolled_why_not
from sparse_triton.kernels.conv.model import gather_us
from sparse_triton.kernels.conv.shape import gather_shape, unrolled_shape
from sparse_triton.kernels.conv.tile import Tile
from sparse_triton.kernels.exchange import cluster_sizes
from sparse_triton.kernels.family import Family, Plan, Space
from sparse_triton.problem import MANY_COLUMNS, ConvProblem

WINDOWS = (24, 48, 72, 104, 208)
SHORT_PROGRAMS = 16_000  # non-zeros: gather is as good


class Staged(Family[ConvProblem]):
    """What both families share: a zero-padded tile of X in shared memory."""

    device_kind = "cuda"

    def space(self, problem: ConvProblem, device: Device) -> Space:
        height, width = problem.y_size
        return {
            "M_blocks": powers_of_two(1, min(512, max(1, problem.M))),
            "N_blocks": _tile_counts(height, width),
            "Gy": (1, 2, 4, 8),
            "K_blocks": cluster_sizes(device),
            "row_blocks": ("even_nnz",),
            "prefetch": (4, 8, 16),
            "repeat": (1, 2, 4, 8),
            "fastest": ("rows", "columns"),
            "window_kb": tuple(kb for kb in WINDOWS if kb * 1024 < device.shared_bytes),
        }

    def build(self, plan: Plan[ConvProblem]) -> Kernel:
        from sparse_triton.kernels.conv.source import conv_sources
        from sparse_triton.launches import compile_in_turn

        return compile_in_turn(conv_sources(plan), plan.device.arch)

    def reference(self, plan: Plan[ConvProblem], X: NDArray[np.float32]) -> NDArray[np.float32]:
        one = replace(plan, problem=replace(plan.problem, batch=1))
        return np.asarray(interpret(one, X[None])[0])


class GatherConv(Staged):
    name = "gather"

    def space(self, problem: ConvProblem, device: Device) -> Space:
        return {**super().space(problem, device), "stack": (1, 2, 4, 8)}

    def why_not(self, problem: ConvProblem, config: KernelConfig, device: Device) -> str | None:
        return gather_why_not(problem, config, device)

    def default_config(self, problem: ConvProblem, device: Device) -> KernelConfig:
        return _gather_default(problem, device)


class UnrolledConv(Staged):
    name = "unrolled"
    compiles_weight = True

    def space(self, problem: ConvProblem, device: Device) -> Space:
        return {**super().space(problem, device), "starts": (1, 2, 4, 8)}

    def why_not(self, problem: ConvProblem, config: KernelConfig, device: Device) -> str | None:
        return unrolled_why_not(problem, config, device)

    def default_config(self, problem: ConvProblem, device: Device) -> KernelConfig:
        return _unrolled_default(problem, device)


def _tile_counts(height: int, width: int) -> tuple[int, ...]:
    """From whole images to single rows, then halves and quarters of rows."""
    rows = {1, *(ceil_div(height, n) for n in powers_of_two(1, height))}
    return (*sorted(rows), *(height * n for n in (2, 4, 8) if n <= width))


# Points of a lane, programs of a cluster, groups, row blocks and rows of a program.
Sizes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
MANY: Sizes = ((2, 4, 8), (1, 2), (1,), (1, 2, 4, 8), (4, 8, 16, 32))
FEW: Sizes = ((2, 4, 8), (1, 2, 4, 8), (1, 2), (1, 2, 4), (4, 8, 16, 32))
TINY: Sizes = ((2,), (8,), (1,), (1,), (8,))
ANY: Sizes = ((1, 2, 4), (1,), (1, 2), (1, 2), (2, 4, 8, 16, 32))
TINY_PIXELS = 64


def _gather_guesses(problem: ConvProblem, device: Device) -> Iterator[KernelConfig]:
    """What the model likes best, of the sizes that sweeps found good; then any size at all. A tiny
    image takes many small programs, several of them on a multiprocessor."""
    pixels = problem.N * problem.batch
    if pixels <= TINY_PIXELS and problem.stride == (1, 1):
        yield from _liked(problem, device, TINY)
    yield from _liked(problem, device, MANY if pixels >= MANY_COLUMNS else FEW)
    yield from _gather_candidates(problem, ANY)


def _liked(problem: ConvProblem, device: Device, sizes: Sizes) -> Iterator[KernelConfig]:
    found = [
        (gather_us(problem, config, device), str(config), config)
        for config in _gather_candidates(problem, sizes)
        if gather_why_not(problem, config, device) is None
        and gather_shape(problem, config).lanes >= min(32, problem.N)
    ]
    if found:
        yield min(found)[2]


def _gather_candidates(problem: ConvProblem, sizes: Sizes) -> Iterator[KernelConfig]:
    """A larger window only where a smaller one takes several chunks."""
    for N_blocks, repeat, K_blocks, Gy, stack, places in itertools.product(
        _tile_counts(*problem.y_size), *sizes
    ):
        for prefetch, window_kb in itertools.product(
            (4,) if repeat == 8 else (8, 4) if repeat == 4 else (8,), (48, 104, 208)
        ):
            config = KernelConfig(
                "gather", ceil_div(problem.M, places), N_blocks, Gy, K_blocks, stack=stack,
                repeat=repeat, row_blocks="even_nnz", prefetch=prefetch, window_kb=window_kb,
            )  # fmt: skip
            yield config
            if gather_shape(problem, config).tile.chunks == 1:
                break


SOME_PIXELS = 2048
LONG_PROGRAMS = 40_000  # non-zeros
FEW_CHANNELS = 16


def _unrolled_guesses(problem: ConvProblem, device: Device) -> Iterator[KernelConfig]:
    """What was best in sweeps. Many pixels pay for long programs, which stage X less often: the
    longest, if they fill the device once. Some pixels: all lanes share one short program, half of
    the channels each. Few: eight rows, shared by eight groups."""
    if problem.N * problem.batch >= MANY_COLUMNS:
        for longest in _sized(problem, 64, 1, 512, 2, (104, 208)):
            tile = unrolled_shape(problem, longest).tile
            if tile.lanes == 512 and 0.75 <= _waves(problem, 64, tile, device) <= 1.0:
                yield longest
        yield from _wide(problem, device)
        yield from _sized(problem, 32, 1, 256, 3, (48, 104, 208))
    elif problem.N >= SOME_PIXELS and problem.nnz > SHORT_PROGRAMS:
        for config in _sized(problem, 16, 1, 1024, 8, (104,)):
            yield replace(config, K_blocks=2, prefetch=4)
    for Gy in (8, 4, 2, 1):
        yield from _sized(problem, 8, Gy, 128, MAX_CHUNKS, (48,))


def _wide(problem: ConvProblem, device: Device) -> Iterator[KernelConfig]:
    """Programs that take a multiprocessor each, where code is long or 256 lanes are a single row of
    the image. Few products a column: more rows, which stage X less often; else more lanes, which
    run the code less often."""
    one_row = problem.y_size[1] > 128 and problem.pool is None and problem.C >= FEW_CHANNELS
    if problem.nnz <= LONG_PROGRAMS and not one_row:
        return
    tall = one_row or 32 * problem.nnz < 2.4 * problem.M * problem.K
    rows, lanes, starts = (64, 512, 4) if tall else (32, 1024, 8)
    for config in _sized(problem, rows, 1, lanes, MAX_CHUNKS, (208,)):
        one = replace(config, prefetch=4, starts=starts)
        tile = unrolled_shape(problem, one).tile
        if tile.lanes == lanes and _waves(problem, rows, tile, device) >= 0.75:
            yield one


def _waves(problem: ConvProblem, rows: int, tile: Tile, device: Device) -> float:
    """Programs of so many rows for each multiprocessor."""
    return ceil_div(problem.M, rows) * tile.tiles * problem.batch / device.cores


def _sized(
    problem: ConvProblem, rows: int, Gy: int, lanes: int, chunks: int, windows: tuple[int, ...]
) -> Iterator[KernelConfig]:
    """Programs of so many rows and groups in the smallest window that takes no more chunks, tiles
    of about so many lanes first. Neighbours share code where pixels are many, X where few."""
    many = problem.N * problem.batch >= MANY_COLUMNS
    found: list[tuple[bool, int, int, KernelConfig]] = []
    for N_blocks in sorted(_tile_counts(*problem.y_size)):
        for window_kb in windows:
            config = KernelConfig(
                "unrolled", ceil_div(problem.M, rows), N_blocks, Gy, row_blocks="even_nnz",
                prefetch=8, fastest="columns" if many else "rows", window_kb=window_kb,
            )  # fmt: skip
            tile = unrolled_shape(problem, config).tile
            if tile.chunks <= chunks:
                break
        found.append((tile.lanes > lanes, abs(tile.lanes - lanes), len(found), config))
    yield from (config for *_, config in sorted(found, key=lambda f: f[:3]))


@functools.lru_cache(maxsize=256)
def _gather_default(problem: ConvProblem, device: Device) -> KernelConfig:
    guesses = _gather_guesses(problem, device)
    legal = (c for c in guesses if gather_why_not(problem, c, device) is None)
    return next(legal, KernelConfig("gather", row_blocks="even_nnz"))


@functools.lru_cache(maxsize=256)
def _unrolled_default(problem: ConvProblem, device: Device) -> KernelConfig:
    guesses = _unrolled_guesses(problem, device)
    legal = (c for c in guesses if unrolled_why_not(problem, c, device) is None)
    return next(legal, KernelConfig("unrolled", row_blocks="even_nnz"))
