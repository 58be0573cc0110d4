"""Families ``gather`` and ``unrolled`` of convolutions."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import KernelConfig, ceil_div, powers_of_two
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel
from sparse_triton.kernels.conv.interpreter import interpret
from sparse_triton.kernels.conv.limits import gather_why_not, unrolled_why_not
from sparse_triton.kernels.conv.model import gather_us, unrolled_us
from sparse_triton.kernels.conv.shape import gather_shape, unrolled_shape
from sparse_triton.kernels.exchange import cluster_sizes
from sparse_triton.kernels.family import Family, Space
from sparse_triton.problem import MANY_COLUMNS, ConvProblem

if TYPE_CHECKING:
    from sparse_triton.plan import Plan


WINDOWS = (24, 48, 72, 104, 208)


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
        from sparse_triton.build import compile_kernel
        from sparse_triton.kernels.conv.kernel import conv_source

        return compile_kernel(conv_source(plan), plan.device.arch)

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

    def why_not(self, problem: ConvProblem, config: KernelConfig, device: Device) -> str | None:
        return unrolled_why_not(problem, config, device)

    def default_config(self, problem: ConvProblem, device: Device) -> KernelConfig:
        return _unrolled_default(problem, device)


def _tile_counts(height: int, width: int) -> tuple[int, ...]:
    """From whole images to single rows, then halves and quarters of rows."""
    rows = {1, *(ceil_div(height, n) for n in powers_of_two(1, height))}
    return (*sorted(rows), *(height * n for n in (2, 4, 8) if n <= width))


def _gather_guesses(problem: ConvProblem, device: Device) -> Iterator[KernelConfig]:
    """What the model likes best, of the sizes that sweeps found good; then any size at all."""
    lanes = 32 if problem.N >= 32 else 4
    found = [
        (gather_us(problem, config, device), str(config), config)
        for config in _gather_candidates(problem)
        if gather_why_not(problem, config, device) is None
        and gather_shape(problem, config).lanes >= lanes
    ]
    if found:
        yield min(found)[2]
    yield from _gather_candidates(problem)


def _gather_candidates(problem: ConvProblem) -> Iterator[KernelConfig]:
    """A larger window only where a smaller one takes several chunks."""
    height, width = problem.y_size
    many = problem.N * problem.batch >= MANY_COLUMNS
    clusters, groups, stacks = (
        ((1, 2), (1,), (1, 2, 4, 8)) if many else ((1, 2, 4, 8), (1, 2), (1, 2, 4))
    )
    for N_blocks, repeat, K_blocks, Gy, stack, places in itertools.product(
        _tile_counts(height, width), (1, 2, 4, 8), clusters, groups, stacks, (4, 8, 16, 32)
    ):
        for window_kb in (48, 104, 208):
            config = KernelConfig(
                "gather", ceil_div(problem.M, places), N_blocks, Gy, K_blocks, stack=stack,
                repeat=repeat, row_blocks="even_nnz", prefetch=4 if repeat == 8 else 8,
                window_kb=window_kb,
            )  # fmt: skip
            yield config
            if gather_shape(problem, config).tile.chunks == 1:
                break


# Rows of a program, groups and lanes that were best in sweeps. Many pixels pay for long programs,
# which stage X less often; of few, eight rows are shared by eight groups.
LONG = ((64, 1, 512), (64, 2, 128), (32, 1, 256))
SHORT = ((8, 8, 128), (8, 4, 128), (8, 2, 128), (8, 1, 128))


def _unrolled_guesses(problem: ConvProblem, device: Device) -> Iterator[KernelConfig]:
    """Many pixels: what the model likes best of the long ones. Few, or none of those is legal: the
    first of the others, with as many lanes as a tile fills."""
    many = problem.N * problem.batch >= MANY_COLUMNS
    if many:
        found = [
            (unrolled_us(problem, config, device), str(config), config)
            for config, lanes, wanted in _unrolled_candidates(problem, LONG, (48, 104, 208))
            if lanes == wanted and unrolled_why_not(problem, config, device) is None
        ]
        if found:
            yield min(found)[2]
    others = list(_unrolled_candidates(problem, LONG[::-1] if many else SHORT, (48,)))
    for config, _, _ in sorted(others, key=lambda c: (c[1] > c[2], abs(c[1] - c[2]))):
        yield config


def _unrolled_candidates(
    problem: ConvProblem, sizes: tuple[tuple[int, int, int], ...], windows: tuple[int, ...]
) -> Iterator[tuple[KernelConfig, int, int]]:
    """(configuration, its lanes, those wanted). Neighbours share code where pixels are many, a tile
    of X where they are few."""
    many = problem.N * problem.batch >= MANY_COLUMNS
    for N_blocks, (rows, Gy, lanes), window_kb in itertools.product(
        sorted(_tile_counts(*problem.y_size)), sizes, windows
    ):
        config = KernelConfig(
            "unrolled", ceil_div(problem.M, rows), N_blocks, Gy, row_blocks="even_nnz",
            prefetch=8, fastest="columns" if many else "rows", window_kb=window_kb,
        )  # fmt: skip
        yield config, unrolled_shape(problem, config).lanes, lanes


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
