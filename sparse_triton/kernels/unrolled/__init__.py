"""Family ``unrolled``: the pattern and the values are the program.

``ops`` (instructions) -> ``schedule`` (which, in what order) -> ``ptx`` (how they are spelled) ->
``kernel`` (the Triton kernel around them); ``limits`` says what is legal, ``interpreter`` says in
NumPy what the ops mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import (
    Fastest,
    KernelConfig,
    ceil_div,
    counts_why_not,
    filled,
    next_power_of_two,
    powers_of_two,
)
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel
from sparse_triton.kernels.exchange import cluster_sizes, cluster_why_not
from sparse_triton.kernels.family import Family, Plan, Space
from sparse_triton.kernels.unrolled.estimate import SHORT_ROWS, in_turns
from sparse_triton.kernels.unrolled.interpreter import interpret
from sparse_triton.kernels.unrolled.limits import problem_why_not, resources_why_not, shape_why_not
from sparse_triton.kernels.unrolled.schedule import unrolled_program
from sparse_triton.problem import MANY_COLUMNS, SpmmProblem

SOME_COLUMNS = 1024
LONG_PROGRAMS = 45_000  # non-zeros
CACHED_PROGRAM = 3300  # instructions
TINY_ROWS = 4  # non-zeros
LARGE_X_BYTES = 20_000_000


class Unrolled(Family):
    name = "unrolled"
    device_kind = "cuda"
    compiles_weight = True

    def why_not(self, problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
        reason = counts_why_not(config, ("even_rows", "even_nnz"))
        reason = reason or cluster_why_not(config, device)
        if reason is None:
            reason = problem_why_not(problem) or shape_why_not(problem, config)
        return reason or resources_why_not(problem, config, device)

    def space(self, problem: SpmmProblem, device: Device) -> Space:
        return {
            "M_blocks": powers_of_two(1, min(256, max(1, problem.M // 2))),
            "N_blocks": powers_of_two(1, max(1, ceil_div(problem.N, 32))),
            "Gy": (1, 2, 4, 8, 16),
            "K_blocks": cluster_sizes(device),
            "stack": (1, 2, 4),
            "vector": tuple(v for v in (1, 2, 4) if problem.N % v == 0),
            "row_blocks": ("even_rows", "even_nnz"),
            "prefetch": (4, 8, 16, 32),
            "starts": (1, 2, 4),
            "sync_every": (0, 128, 256),
            "fastest": ("rows", "columns"),
        }

    def default_config(self, problem: SpmmProblem, device: Device) -> KernelConfig:
        """Fitted to measurements (``benchmarks/NOTES.md``); 16-bit inputs take two columns a lane
        and half the rows."""
        columns = problem.N * problem.batch
        turns = in_turns(problem, device)
        if turns is not None:
            config = turns[1]
        elif columns >= MANY_COLUMNS:
            config = _many_columns(problem, device)
        elif columns >= SOME_COLUMNS and problem.nnz > LONG_PROGRAMS:
            config = _some_columns(problem, device)
        else:
            config = _few_columns(problem)
        if problem.x_itemsize == 2:
            paired = replace(
                config,
                vector=2,
                stack=1,
                M_blocks=max(1, ceil_div(problem.M, 32)),
                N_blocks=max(1, ceil_div(config.N_blocks, 2)),
            )
            if self.why_not(problem, paired, device) is None:
                return paired
        return config

    def build(self, plan: Plan) -> Kernel:
        from sparse_triton.kernels.unrolled.pieces import piece_sources
        from sparse_triton.launches import compile_in_turn

        return compile_in_turn(piece_sources(plan), plan.device.arch)

    def reference(self, plan: Plan, X: NDArray[np.float32]) -> NDArray[np.float32]:
        return interpret(unrolled_program(plan), X)


def _few_columns(problem: SpmmProblem) -> KernelConfig:
    """32 rows and 32 lanes, so that the device is filled."""
    return KernelConfig(
        "unrolled",
        M_blocks=max(1, ceil_div(problem.M, 32)),
        N_blocks=max(1, ceil_div(problem.N, 32)),
        Gy=4,
        row_blocks="even_nnz",
    )


def _some_columns(problem: SpmmProblem, device: Device) -> KernelConfig:
    """Too few column tiles to fill the device, programs too long to stay in the instruction cache:
    a cluster shares K."""
    length = 64 * problem.nnz / problem.M
    K_blocks = max(2, next_power_of_two(round(length / CACHED_PROGRAM)))
    return KernelConfig(
        "unrolled",
        M_blocks=max(1, ceil_div(problem.M, 64)),
        N_blocks=max(1, ceil_div(problem.N, 256)),
        K_blocks=min(K_blocks, max(cluster_sizes(device))),
        stack=2 if length > CACHED_PROGRAM * 1.5 else 1,
        row_blocks="even_nnz",
        fastest="columns",
    )


@dataclass(frozen=True)
class _Shape:
    """A program: rows of a block and lanes of a group, which many columns fill."""

    lanes: int
    rows: int = 64
    Gy: int = 1
    stack: int = 1
    vector: int = 1
    starts: int = 1
    prefetch: int = 8
    fastest: Fastest = "columns"


def _many_columns(problem: SpmmProblem, device: Device) -> KernelConfig:
    """64 rows, because each row block reads X again; neighbours share code."""
    if problem.nnz <= SHORT_ROWS * problem.M:
        shape = _short_rows(problem)
    elif problem.nnz <= LONG_PROGRAMS:
        shape = _long_rows(problem, device)
    else:  # long programs are shared by as many lanes as there are
        shape = _Shape(256)
    return KernelConfig(
        "unrolled",
        M_blocks=max(1, ceil_div(problem.M, shape.rows)),
        N_blocks=max(1, ceil_div(problem.N, shape.lanes * shape.vector)),
        Gy=shape.Gy,
        stack=shape.stack,
        vector=shape.vector,
        starts=shape.starts,
        prefetch=shape.prefetch,
        row_blocks="even_nnz",
        fastest=shape.fastest,
    )


def _short_rows(problem: SpmmProblem) -> _Shape:
    """Memory is the limit: one program takes up to four row blocks of a tile, or eight of half the
    rows and twice the columns where a row is next to nothing but its store."""
    if problem.nnz <= TINY_ROWS * problem.M and problem.N % 2 == 0:
        return _Shape(32, rows=32, stack=_stacked(problem.M, 32, 8), vector=2)
    stack = _stacked(problem.M, 64, 4)
    if stack == 2 and problem.nnz > 8 * problem.M:
        return _Shape(32, Gy=2, stack=2)
    return _Shape(64, stack=stack)


def _stacked(M: int, rows: int, most: int) -> int:
    """Row blocks of one program: a power of two."""
    return min(most, 1 << (max(1, ceil_div(M, rows)).bit_length() - 1))


def _long_rows(problem: SpmmProblem, device: Device) -> _Shape:
    """A multiprocessor runs 24 warps of 64 rows. Their code is fetched once for many warps where
    X comes from memory; else twice as many streams fetch it, or four times as many where there are
    few programs."""
    N, batch, M_blocks = problem.N, problem.batch, ceil_div(problem.M, 64)
    if problem.x_itemsize == 2:
        return _Shape(128, Gy=2)
    if M_blocks == 1:
        return _Shape(32, Gy=4)
    if M_blocks * ceil_div(N, 128) * batch < 2 * device.cores:
        return _Shape(64, rows=43, Gy=4, stack=2 if problem.nnz <= 64 * problem.M else 1)
    if filled(N, 256) and problem.K * N * batch * problem.x_itemsize >= LARGE_X_BYTES:
        return _Shape(256, starts=2, prefetch=16, fastest="rows")
    return _Shape(128, Gy=2)
