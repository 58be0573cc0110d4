"""Family ``cpu`` of convolutions: numba, parallel, implicit im2col, the pool fused.

Rows of W are cut into row blocks, rows of Y into ``N_blocks`` tiles; a task is one of each. The
``Slab`` is what a tile sees of the image, see ``cpu_conv_kernel``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_triton.config import KernelConfig, ceil_div, counts_why_not, powers_of_two
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel, Run
from sparse_triton.kernels.cpu import (
    ACTIVATION_CODE,
    LANES,
    MAX_GROUPS,
    ROW_BLOCKS,
    SERIAL_FMAS,
    group_sums,
    packed_for,
    run_tasks,
    torchs_threads,
)
from sparse_triton.kernels.family import Family, Plan, Space
from sparse_triton.kernels.patches import patches
from sparse_triton.pattern import Int32, Int64
from sparse_triton.problem import ConvProblem, taps

SLAB_BYTES = 512 * 1024  # of one task: half of a core's second cache
FEW_PIXELS = 256  # of a tile, below which packing its slab counts
NEAR_BYTES = 32 * 1024  # of x that one group reads for a register tile
GROUP_ENTRIES = 10  # non-zeros a row should have in a group, to pay for another start
MAX_WIDTH = 128  # pixels of one register tile
POOL_CODE = {None: 0, "max": 1, "avg": 2}


@functools.cache
def load_kernel() -> tuple[Callable[..., None], Callable[..., None]]:
    """(serial, parallel), compiled."""
    with torchs_threads():
        from sparse_triton.kernels.cpu_conv_kernel import conv_parallel, conv_serial
    return conv_serial, conv_parallel


@dataclass(frozen=True, eq=False)
class Slab:
    """The part of an image that a tile of Y sees, as [C, phases, rows, width] elements.

    tile_rows   rows of Y in a tile
    map_rows    rows of the convolution behind them: more, where windows of a pool overlap
    phases      [n, 2] the remainders of (h, w) by the stride that some tap falls on
    offsets     [K] int32 element of each tap, for pixel (0, 0)
    """

    tile_rows: int
    map_rows: int
    rows: int
    width: int
    phases: Int64
    offsets: Int32

    @staticmethod
    def of(problem: ConvProblem, config: KernelConfig) -> Slab:
        tap, step = taps(problem), np.array(problem.stride)
        places = np.stack((tap.r, tap.s), axis=1) * problem.dilation  # [K, 2]
        phases, phase = np.unique(places % step, axis=0, return_inverse=True)
        steps = places // step
        tile_rows = max(1, ceil_div(problem.y_size[0], config.N_blocks))
        map_rows = _map_rows(problem, tile_rows)
        rows, width = map_rows + int(steps[:, 0].max()), problem.Q + int(steps[:, 1].max())
        channel = tap.c * len(phases) + phase.ravel()
        offsets = (channel * rows + steps[:, 0]) * width + steps[:, 1]
        return Slab(tile_rows, map_rows, rows, width, phases, offsets.astype(np.int32))


def _map_rows(problem: ConvProblem, tile_rows: int) -> int:
    """Rows of the convolution behind ``tile_rows`` rows of Y."""
    pool = problem.pool
    if pool is None:
        return tile_rows
    return min(problem.P, (tile_rows - 1) * pool.stride[0] + pool.kernel[0])


def slab_bytes(problem: ConvProblem, tile_rows: int) -> int:
    """About the size of a tile's slab: what is between the taps counts too."""
    rows = (_map_rows(problem, tile_rows) - 1) * problem.stride[0] + _reach(problem, 0)
    return 4 * problem.C * rows * ((problem.Q - 1) * problem.stride[1] + _reach(problem, 1))


def _reach(problem: ConvProblem, axis: int) -> int:
    """Rows (columns) of the image that one pixel sees."""
    return problem.dilation[axis] * ((problem.R, problem.S)[axis] - 1) + 1


class CpuConv(Family[ConvProblem]):
    name = "cpu"
    device_kind = "cpu"

    def why_not(self, problem: ConvProblem, config: KernelConfig, device: Device) -> str | None:
        reason = counts_why_not(config, ROW_BLOCKS)
        if reason is None and config.Gy > MAX_GROUPS:
            return f"Gy must be at most {MAX_GROUPS}, got {config.Gy}"
        size = slab_bytes(problem, ceil_div(problem.y_size[0], max(1, config.N_blocks)))
        if reason is None and size >= 2**31:
            return f"a tile sees {size} bytes of the image, at most 2**31 can be; use more N_blocks"
        return reason

    def space(self, problem: ConvProblem, device: Device) -> Space:
        return {
            "M_blocks": powers_of_two(1, max(1, min(64, problem.M))),
            "N_blocks": powers_of_two(1, max(1, problem.y_size[0])),
            "Gy": (1, 2, 4, 8),
            "row_blocks": ROW_BLOCKS,
        }

    def default_config(self, problem: ConvProblem, device: Device) -> KernelConfig:
        """Tiles whose slab and pooled maps stay in the second cache, and row blocks only where
        tiles alone would not keep every core busy."""
        y_h = max(1, problem.y_size[0])
        tile_rows = y_h
        while tile_rows > 1 and slab_bytes(problem, tile_rows) > SLAB_BYTES:
            tile_rows = ceil_div(tile_rows, 2)
        N_blocks = ceil_div(y_h, tile_rows)
        tasks = N_blocks * max(1, problem.batch)
        while tasks < 2 * device.cores and tile_rows * problem.Q > FEW_PIXELS:
            tile_rows = ceil_div(tile_rows, 2)
            N_blocks = ceil_div(y_h, tile_rows)
            tasks = N_blocks * max(1, problem.batch)
        M_blocks = 1 if tasks >= device.cores else ceil_div(2 * device.cores, tasks)
        if problem.pool is not None:  # the finished maps of a row block wait for their pool
            maps = 4 * problem.M * _map_rows(problem, tile_rows) * problem.Q
            M_blocks = max(M_blocks, ceil_div(maps, SLAB_BYTES))
        return KernelConfig(
            "cpu",
            min(max(1, problem.M), M_blocks),
            N_blocks,
            Gy=_default_groups(problem),
            row_blocks="even_nnz",
        )

    def build(self, plan: Plan[ConvProblem]) -> Kernel:
        load_kernel()
        return CpuConvKernel(plan)

    def reference(self, plan: Plan[ConvProblem], X: NDArray[np.float32]) -> NDArray[np.float32]:
        problem = plan.problem
        columns = patches(problem, X)
        Y = group_sums(packed_for(plan), plan.config.Gy, problem.M, columns)
        return Y.reshape(problem.M, problem.P, problem.Q)


def _default_groups(problem: ConvProblem) -> int:
    """Groups so small that a group's part of x stays near, entries permitting."""
    pixels = min(MAX_WIDTH, problem.N) + (problem.R - 1) * problem.dilation[0] * problem.Q
    near = ceil_div(4 * problem.C * pixels, NEAR_BYTES)
    entries = problem.nnz // (max(1, problem.M) * GROUP_ENTRIES)
    return max(1, min(MAX_GROUPS, near, entries))


class CpuConvKernel:
    """``y = pool(epilogue(W * x))`` in float32; 16-bit inputs widen before and narrow after.

    Shapes   W [M, C*R*S] pruned; x [batch, C, H, W] and y [batch, M, P, Q] in either layout.
    Tasks    (image, tile of rows of y, row block), row blocks fastest; workers take the next free.
    Task     the tile's slab of x is copied and padded once; then each row of W walks it in register
             tiles of 128 pixels, as in SpMM. The un-pooled pixels of a row block stay in the
             worker's scratch; windows that reach over a tile's edge are computed twice.
    Cost     2*nnz*P*Q flop and a few more pixels at the end of each row; x is copied once a tile.
    Error    |y - y64| <= gamma(nnz_row + Gy + 2) * (|W| * |x| + |bias| + |residual|), see numerics;
             through a pool as ``verify_conv.conv_bound`` says.
    Repeat   same plan, same input: same bits, however many threads.
    Raises   nothing: a plan that exists is legal, see ``plan_spmm``.
    """

    def __init__(self, plan: Plan[ConvProblem]) -> None:
        self.plan = plan
        self.packed = packed_for(plan)
        self.slab = Slab.of(plan.problem, plan.config)

    def bind(self, device: torch.device) -> Run:
        serial, parallel = load_kernel()
        arguments, workers = self._arguments(), self._workers()

        def run(
            X: torch.Tensor,
            Y: torch.Tensor,
            bias: torch.Tensor | None,
            residual: torch.Tensor | None,
        ) -> None:
            wide = Y.dtype == torch.float32
            y = Y if wide else torch.empty_like(Y, dtype=torch.float32)
            X = X.float()
            bias = None if bias is None else bias.float()
            residual = None if residual is None else residual.float().contiguous()
            run_tasks(
                serial, parallel, workers, X.data_ptr(), y.data_ptr(),
                0 if bias is None else bias.data_ptr(),
                0 if residual is None else residual.data_ptr(),
                *arguments,
            )  # fmt: skip
            if not wide:
                Y.copy_(y)

        return run

    def _arguments(self) -> tuple[object, ...]:
        p, slab, packed = self.plan.problem, self.slab, self.packed
        pool = p.pool
        windows = () if pool is None else (*pool.kernel, *pool.stride, *pool.padding)
        shape = (
            p.batch, p.C, p.H, p.W, p.M, p.P, p.Q, *p.x_strides, *p.stride,
            p.padding[0], p.padding[2], self.plan.config.Gy,
            ACTIVATION_CODE[p.epilogue.activation],
            slab.tile_rows, slab.rows, slab.width, slab.map_rows, *p.y_size,
            p.y_strides[2],
            POOL_CODE[None if pool is None else pool.kind], *(windows or (0,) * 6),
        )  # fmt: skip
        offsets = slab.offsets[packed.columns]
        return (
            offsets, packed.values, packed.starts, packed.rows, slab.phases,
            np.array(shape, dtype=np.int64),
        )  # fmt: skip

    def _workers(self) -> int:
        p = self.plan.problem
        tiles = ceil_div(p.y_size[0], self.slab.tile_rows)
        tasks = p.batch * tiles * len(self.packed.rows)
        fmas = p.nnz * ceil_div(p.N, LANES) * p.batch
        return 1 if fmas < SERIAL_FMAS else min(self.plan.device.cores, tasks)
