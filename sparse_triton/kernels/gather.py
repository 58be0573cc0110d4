"""Family ``gather``: the pattern is data. Good at few columns and big weights; any N compiles once.

Rows are ordered by length and cut into row blocks; the Gy groups of a block each own every Gy-th
piece of its rows. A block's entries are stored step by step: at step t, place r of group g finds
its next (column, value) pair at ``(start[block] + t) * block_m * Gy + g * block_m + r``, so that
one load fetches the pairs of all places. Rows shorter than their block's longest are padded with
column -1, which reads nothing and multiplies nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import (
    KernelConfig,
    ceil_div,
    counts_why_not,
    next_power_of_two,
    powers_of_two,
)
from sparse_triton.device import Device
from sparse_triton.kernels.family import Family, Kernel, Space
from sparse_triton.partition import NO_ROW, partition_rows
from sparse_triton.pattern import CSR, Float32, Int32, Int64
from sparse_triton.problem import SpmmProblem

if TYPE_CHECKING:
    from sparse_triton.plan import Plan

NO_COLUMN = -1
MAX_THREADS = 1024
MAX_TILE = 16384  # accumulators of one program


@dataclass(frozen=True, eq=False)
class Packed:
    """The weight as the kernel walks it.

    columns, values  [steps, Gy, block_m]; column -1 is padding
    starts           [blocks + 1] first step of each row block, a multiple of ``unroll``
    rows             [blocks, block_m] row at each place, -1: none
    """

    columns: Int32
    values: Float32
    starts: Int32
    rows: Int32


def packed_for(plan: Plan) -> Packed:
    """The packed weight of a plan; plans that differ in columns only share it."""
    config = plan.config
    block_m, _ = gather_shape(plan.problem, config)
    key = ("gather", block_m, config.Gy, config.prefetch)
    return plan.csr.remember(key, lambda: pack(plan.csr, block_m, config.Gy, config.prefetch))


def pack(csr: CSR, block_m: int, Gy: int, unroll: int) -> Packed:
    """Lay out the entries: each row is cut into Gy runs of equal length, walked side by side."""
    partition = partition_rows(csr, block_m, "sorted")
    rows = partition.rows
    lengths = np.where(rows == NO_ROW, 0, csr.row_lengths[np.maximum(rows, 0)])  # [blocks, block_m]
    longest = -(-lengths.max(axis=1, initial=0) // Gy)
    steps = -(-longest // unroll) * unroll
    starts = np.concatenate(([0], np.cumsum(steps))).astype(np.int32)
    columns = np.full((int(starts[-1]), Gy, block_m), NO_COLUMN, dtype=np.int32)
    values = np.zeros(columns.shape, dtype=np.float32)
    at = _positions(csr, rows, lengths, starts, Gy)
    columns[at] = csr.column_indices
    values[at] = csr.values
    return Packed(columns, values, starts, rows)


def _positions(
    csr: CSR, rows: Int32, lengths: Int64, starts: Int32, Gy: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(step, group, place) of every entry of the matrix, in CSR order."""
    M = csr.shape[0]
    block_of, place_of = np.zeros(M, np.int64), np.zeros(M, np.int64)
    b, i = np.nonzero(rows != NO_ROW)
    block_of[rows[b, i]], place_of[rows[b, i]] = b, i
    within = np.arange(csr.nnz) - np.repeat(csr.row_offsets[:-1], csr.row_lengths)
    run = np.maximum(-(-csr.row_lengths // Gy), 1)[csr.rows]  # entries of one group's run
    return starts[block_of[csr.rows]] + within % run, within // run, place_of[csr.rows]


def gather_shape(problem: SpmmProblem, config: KernelConfig) -> tuple[int, int]:
    """``block_m`` and ``block_n``, powers of two."""
    return (
        next_power_of_two(ceil_div(problem.M, config.M_blocks)),
        max(8, next_power_of_two(ceil_div(problem.N, config.N_blocks))),
    )


class Gather(Family):
    name = "gather"
    device_kind = "cuda"

    def why_not(self, problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
        reason = counts_why_not(config, ("sorted",))
        if reason:
            return reason
        if problem.M == 0 or problem.N == 0 or problem.batch == 0 or problem.nnz == 0:
            return "nothing to multiply; use kernel='dense'"
        for name in ("Gy", "prefetch", "vector"):
            value = getattr(config, name)
            if value & (value - 1):
                return f"{name} must be a power of two, got {value}"
        block_m, block_n = gather_shape(problem, config)
        tile = block_m * block_n * config.Gy
        if tile > MAX_TILE:
            return (
                f"block_m * block_n * Gy = {block_m} * {block_n} * {config.Gy} accumulators, the "
                f"limit is {MAX_TILE}; use more M_blocks or N_blocks"
            )
        if not 32 <= tile // config.vector <= MAX_THREADS:
            return (
                f"block_m * block_n * Gy / vector = {tile // config.vector} threads, it must lie "
                f"in 32 ... {MAX_THREADS}; change vector={config.vector}, M_blocks or N_blocks"
            )
        return None

    def space(self, problem: SpmmProblem, device: Device) -> Space:
        return {
            "M_blocks": powers_of_two(1, next_power_of_two(problem.M)),
            "N_blocks": powers_of_two(1, max(1, ceil_div(problem.N, 8))),
            "Gy": (1, 2, 4, 8),
            "vector": (1, 2, 4, 8),
            "row_blocks": ("sorted",),
            "prefetch": (2, 4, 8, 16),
        }

    def default_config(self, problem: SpmmProblem, device: Device) -> KernelConfig:
        """Tiles of 32 columns, 128 threads, rows halved until the device is full."""
        block_n = min(32, max(8, next_power_of_two(problem.N)))
        vector = 2 if block_n >= 32 else 1
        tiles = ceil_div(problem.N, block_n) * problem.batch
        Gy = 4
        block_m = 8 if tiles * ceil_div(problem.M, 8) >= 2 * device.cores else 4
        while block_m * block_n * Gy // vector < 32:
            block_m *= 2
        return KernelConfig(
            "gather",
            M_blocks=max(1, ceil_div(problem.M, block_m)),
            N_blocks=max(1, ceil_div(problem.N, block_n)),
            Gy=Gy,
            vector=vector,
            row_blocks="sorted",
            prefetch=8,
        )

    def build(self, plan: Plan) -> Kernel:
        from sparse_triton.build import compile_kernel
        from sparse_triton.kernels.gather_kernel import gather_source

        return compile_kernel(gather_source(plan), plan.device.arch)

    def reference(self, plan: Plan, X: NDArray[np.float32]) -> NDArray[np.float32]:
        packed = packed_for(plan)
        Y = np.full((plan.problem.M, X.shape[1]), np.nan, dtype=np.float32)
        for b, rows in enumerate(packed.rows):
            acc = np.zeros((*packed.columns.shape[1:], X.shape[1]), dtype=np.float32)
            for t in range(packed.starts[b], packed.starts[b + 1]):
                k, w = packed.columns[t], packed.values[t]
                x = np.where((k != NO_COLUMN)[..., None], X[np.maximum(k, 0)], np.float32(0))
                acc += w[..., None] * x
            Y[rows[rows != NO_ROW]] = acc.sum(axis=0)[rows != NO_ROW]
        return Y
