"""Family ``cpu``: numba, parallel. Real work on a machine without a GPU.

Rows are cut into row blocks and columns into column tiles; a task is one of each. Within a task the
Gy groups of the row block run one after another: each adds every row's share of its K range. Tiles
wider than ``cpu_tile.MAX_WIDTH`` are walked in pieces of that width.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_triton.config import KernelConfig, ceil_div, counts_why_not, powers_of_two
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel, Run
from sparse_triton.kernels.family import Family, Plan, Space
from sparse_triton.partition import NO_ROW, block_entries, group_entries, partition_rows
from sparse_triton.pattern import CSR, Float32, Int32, Int64
from sparse_triton.problem import SpmmProblem

ROW_BLOCKS = ("even_rows", "even_nnz", "sorted")
MAX_GROUPS = 64
ACTIVATION_CODE = {None: 0, "relu": 1, "gelu": 2, "silu": 3}
LANES = 16
SERIAL_FMAS = 8192  # vector operations below which waking the other cores costs more than it saves
GROUP_ROWS = 256  # rows of x that one group keeps in the nearest caches, 64 columns wide
GROUP_ENTRIES = 10  # non-zeros a row should have in a group, to pay for another start

# One parallel region at a time: a thread that finds it taken runs the same tasks by itself. A
# child of ``fork`` has no worker threads to wake and always runs by itself.
_region = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _region.acquire(blocking=False))


def run_tasks(
    serial: Callable[..., None], parallel: Callable[..., None], workers: int, *arguments: object
) -> None:
    """All of a kernel's tasks, by ``workers`` threads where they are free."""
    if workers > 1 and _region.acquire(blocking=False):
        try:
            parallel(workers, *arguments)
        finally:
            _region.release()
    else:
        serial(*arguments)


@dataclass(frozen=True, eq=False)
class Packed:
    """The weight as the kernel walks it: CSR over (row block, group, place).

    columns, values  [nnz]
    starts           [blocks * Gy * block_m + 1] first entry of each (block, group, place)
    rows             [blocks, block_m] row at each place, -1: none
    """

    columns: Int32
    values: Float32
    starts: Int64
    rows: Int32


@functools.cache
def load_kernel() -> tuple[Callable[..., None], Callable[..., None]]:
    """(serial, parallel), compiled."""
    with torchs_threads():
        from sparse_triton.kernels.cpu_kernel import spmm_parallel, spmm_serial
    return spmm_serial, spmm_parallel


@contextlib.contextmanager
def torchs_threads() -> Iterator[None]:
    """Starting numba's threads must not change torch's number."""
    threads = torch.get_num_threads()
    yield
    import numba

    numba.get_num_threads()
    torch.set_num_threads(threads)


def packed_for(plan: Plan[Any]) -> Packed:
    """The packed weight of a plan; plans that differ in columns only share it."""
    config = plan.config
    block_m = max(1, ceil_div(plan.problem.M, config.M_blocks))
    key = ("cpu", block_m, config.Gy, config.row_blocks)
    return plan.csr.remember(key, lambda: pack(plan.csr, block_m, config))


def pack(csr: CSR, block_m: int, config: KernelConfig) -> Packed:
    """Cut the weight: rows into blocks, a block's columns into Gy groups of even nnz."""
    rows = _ascending(partition_rows(csr, block_m, config.row_blocks).rows)
    columns, values, counts = [], [], []
    for block in rows:
        for group in group_entries(block_entries(csr, block), config.Gy):
            by_place = np.argsort(group.places, kind="stable")
            columns.append(group.columns[by_place])
            values.append(group.values[by_place])
            counts.append(np.bincount(group.places, minlength=block_m))
    starts = np.concatenate(([0], np.cumsum(np.concatenate(counts)))).astype(np.int64)
    return Packed(np.concatenate(columns), np.concatenate(values), starts, rows)


def _ascending(rows: Int32) -> Int32:
    """Rows of each block in natural order, padding last: neighbours in Y are written together."""
    key = np.where(rows == NO_ROW, np.iinfo(np.int32).max, rows)
    return np.take_along_axis(rows, np.argsort(key, axis=1), axis=1)


def tile_width(problem: SpmmProblem, config: KernelConfig) -> int:
    """``block_n``: columns of one tile, whole vectors where it has more than one."""
    width = max(1, ceil_div(problem.N, config.N_blocks))
    return width if width <= LANES else ceil_div(width, LANES) * LANES


def _default_groups(problem: SpmmProblem) -> int:
    """Groups so small that a group's part of the x tile stays near, entries permitting."""
    entries = problem.nnz // (max(1, problem.M) * GROUP_ENTRIES)
    return max(1, min(MAX_GROUPS, problem.K // GROUP_ROWS, entries))


class Cpu(Family):
    name = "cpu"
    device_kind = "cpu"

    def why_not(self, problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
        reason = counts_why_not(config, ROW_BLOCKS)
        if reason is None and config.Gy > MAX_GROUPS:
            return f"Gy must be at most {MAX_GROUPS}, got {config.Gy}"
        return reason

    def space(self, problem: SpmmProblem, device: Device) -> Space:
        return {
            "M_blocks": powers_of_two(1, max(1, min(64, problem.M))),
            "N_blocks": powers_of_two(1, max(1, ceil_div(problem.N, LANES))),
            "Gy": (1, 2, 4, 8),
            "row_blocks": ROW_BLOCKS,
        }

    def default_config(self, problem: SpmmProblem, device: Device) -> KernelConfig:
        """Tiles of 64 columns, groups of 256 rows of x, and row blocks only where tiles alone would
        not keep every core busy."""
        N_blocks = max(1, ceil_div(problem.N, 64))
        tasks = N_blocks * max(1, problem.batch)
        M_blocks = 1 if tasks >= 2 * device.cores else ceil_div(4 * device.cores, tasks)
        return KernelConfig(
            "cpu",
            min(max(1, problem.M), M_blocks),
            N_blocks,
            Gy=_default_groups(problem) if problem.N >= 32 else 1,
            row_blocks="even_nnz",
        )

    def build(self, plan: Plan) -> Kernel:
        load_kernel()
        return CpuKernel(plan)

    def reference(self, plan: Plan, X: NDArray[np.float32]) -> NDArray[np.float32]:
        return group_sums(packed_for(plan), plan.config.Gy, plan.problem.M, X)


def group_sums(packed: Packed, Gy: int, M: int, X: NDArray[np.float32]) -> NDArray[np.float32]:
    """W @ X [M, N] from the partial sums of every (row, group), added in group order."""
    block_m = packed.rows.shape[1]
    Y = np.full((M, X.shape[1]), np.nan, dtype=np.float32)
    for b, i in zip(*np.nonzero(packed.rows != NO_ROW), strict=True):
        acc = np.zeros(X.shape[1], dtype=np.float32)
        for g in range(Gy):
            at = (b * Gy + g) * block_m + i
            entries = slice(packed.starts[at], packed.starts[at + 1])
            x = X[packed.columns[entries]]  # [entries, N]
            acc += (packed.values[entries, None] * x).sum(axis=0, dtype=np.float32)
        Y[packed.rows[b, i]] = acc
    return Y


class CpuKernel:
    """``y = epilogue(W @ x)`` in float32; 16-bit inputs widen before and narrow after.

    Shapes   W [M, K] pruned; x [batch, K, N], y [batch, M, N], each in either layout.
    Tasks    (batch, column tile, row block), row blocks fastest; workers take the next one free.
    Task     accumulators of one row x at most 128 columns live in registers across a group's
             entries; the Gy partials are added in group order.
    Cost     2*nnz*N flop, one vector load of x per vector fma; W once per column tile. Gy > 1
             blocks K: the part of a tile that a group reads stays near while all rows use it.
    Error    |y - y64| <= gamma(nnz_row + Gy + 2) * (|W| @ |x| + |bias| + |residual|), see numerics.
    Repeat   same plan, same input: same bits, however many threads.
    Raises   nothing: a plan that exists is legal, see ``plan_spmm``.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.packed = packed_for(plan)

    def bind(self, device: torch.device) -> Run:
        spmm_serial, spmm_parallel = load_kernel()
        problem = self.plan.problem
        arguments = self._arguments()
        workers = self._workers()
        wide = problem.x_dtype == "float32"
        B, M, N = problem.batch, problem.M, problem.N

        def run(
            X: torch.Tensor,
            Y: torch.Tensor,
            bias: torch.Tensor | None,
            residual: torch.Tensor | None,
        ) -> None:
            y = Y if wide else torch.empty_like(Y, dtype=torch.float32)
            if self.turns:
                y = torch.empty((B, M, N), dtype=torch.float32)
            if not wide:
                X = X.float()
                bias = None if bias is None else bias.float()
                residual = None if residual is None else residual.float()
            x_y_bias_residual = (
                X.data_ptr(),
                y.data_ptr(),
                0 if bias is None else bias.data_ptr(),
                0 if residual is None else residual.data_ptr(),
            )
            run_tasks(spmm_serial, spmm_parallel, workers, *x_y_bias_residual, *arguments)
            if self.turns:
                Y.view(B, N, M).copy_(y.mT)
            elif y is not Y:
                Y.copy_(y)

        return run

    @property
    def turns(self) -> bool:
        """Whether rows are computed and then turned into tokens: storing single elements M apart
        costs several times as much. A token-major residual is read where y is written: not then."""
        return self.plan.problem.y_layout == "column" and not self.plan.problem.epilogue.residual

    def _arguments(self) -> tuple[object, ...]:
        problem, config, packed = self.plan.problem, self.plan.config, self.packed
        M, K, N = problem.M, problem.K, problem.N
        x_strides = (N, 1) if problem.x_layout == "row" else (1, K)
        y_strides = (N, 1) if problem.y_layout == "row" or self.turns else (1, M)
        return (
            packed.columns, packed.values, packed.starts, packed.rows,
            problem.batch, M, K, N, config.Gy, tile_width(problem, config),
            *x_strides, *y_strides, ACTIVATION_CODE[problem.epilogue.activation],
        )  # fmt: skip

    def _workers(self) -> int:
        problem, config = self.plan.problem, self.plan.config
        tiles = ceil_div(problem.N, tile_width(problem, config))
        tasks = problem.batch * tiles * len(self.packed.rows)
        fmas = problem.nnz * ceil_div(problem.N, LANES) * problem.batch
        return 1 if fmas < SERIAL_FMAS else min(self.plan.device.cores, tasks)
