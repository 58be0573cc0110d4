"""Families ``gather`` and ``unrolled`` of convolutions."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import KernelConfig, ceil_div, powers_of_two
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel
from sparse_triton.kernels.conv.interpreter import interpret
from sparse_triton.kernels.conv.limits import gather_why_not, unrolled_why_not
from sparse_triton.kernels.conv.model import gather_cycles
from sparse_triton.kernels.family import Family, Space
from sparse_triton.problem import MANY_COLUMNS, ConvProblem

if TYPE_CHECKING:
    from sparse_triton.plan import Plan


class Staged(Family[ConvProblem]):
    """What both families share: a zero-padded tile of X in shared memory."""

    device_kind = "cuda"

    def space(self, problem: ConvProblem, device: Device) -> Space:
        height, width = problem.y_size
        return {
            "M_blocks": powers_of_two(1, min(512, max(1, problem.M))),
            "N_blocks": _tile_counts(height, width),
            "Gy": (1, 2, 4, 8),
            "K_blocks": tuple(k for k in (1, 2, 4, 8) if k == 1 or device.arch >= 90),
            "row_blocks": ("even_nnz",),
            "prefetch": (4, 8, 16),
            "repeat": (1, 2, 4),
            "fastest": ("rows", "columns"),
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
        return {**super().space(problem, device), "stack": (1, 2, 4)}

    def why_not(self, problem: ConvProblem, config: KernelConfig, device: Device) -> str | None:
        return gather_why_not(problem, config, device)

    def default_config(self, problem: ConvProblem, device: Device) -> KernelConfig:
        return _first_legal(self, _gather_guesses(problem, device), problem, device)


class UnrolledConv(Staged):
    name = "unrolled"
    compiles_weight = True

    def why_not(self, problem: ConvProblem, config: KernelConfig, device: Device) -> str | None:
        return unrolled_why_not(problem, config, device)

    def default_config(self, problem: ConvProblem, device: Device) -> KernelConfig:
        return _first_legal(self, _unrolled_guesses(problem, device), problem, device)


def _tile_counts(height: int, width: int) -> tuple[int, ...]:
    """From whole images to single rows, then halves and quarters of rows."""
    rows = {ceil_div(height, n) for n in powers_of_two(1, height)}
    return (*sorted(rows), *(height * n for n in (2, 4, 8) if n <= width))


def _gather_guesses(problem: ConvProblem, device: Device) -> list[KernelConfig]:
    """All sizes worth a thought, the best by the model first."""
    height, width = problem.y_size
    legal = []
    for N_blocks, repeat, K_blocks, Gy, rows in itertools.product(
        _tile_counts(height, width), (1, 2, 4), (1, 2, 4, 8), (1, 2, 4), (2, 4, 8, 16, 32)
    ):
        config = KernelConfig(
            "gather", ceil_div(problem.M, rows), N_blocks, Gy, K_blocks, repeat=repeat,
            row_blocks="even_nnz", prefetch=8,
        )  # fmt: skip
        if gather_why_not(problem, config, device) is None:
            legal.append((gather_cycles(problem, config, device), str(config), config))
    return [config for _, _, config in sorted(legal)[:1]]


def _unrolled_guesses(problem: ConvProblem, device: Device) -> list[KernelConfig]:
    height, width = problem.y_size
    many = problem.N * problem.batch >= MANY_COLUMNS
    return [
        KernelConfig(
            "unrolled", ceil_div(problem.M, rows), N_blocks, Gy, K_blocks, row_blocks="even_nnz",
            prefetch=8, fastest="columns" if many else "rows",
        )
        for rows in (32, 16, 64)
        for Gy, K_blocks in ((2, 1), (4, 1), (2, 2), (1, 1), (4, 4), (8, 8))
        for N_blocks in _tile_counts(height, width)
    ]  # fmt: skip


def _first_legal(
    family: Staged, guesses: list[KernelConfig], problem: ConvProblem, device: Device
) -> KernelConfig:
    for config in guesses:
        if family.why_not(problem, config, device) is None:
            return config
    return KernelConfig(family.name)
