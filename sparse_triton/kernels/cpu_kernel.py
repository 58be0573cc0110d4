"""The numba kernel of family ``cpu``. Importing it compiles, or loads what numba has on disk."""

from __future__ import annotations

import numpy as np
from numba import carray, njit, prange  # type: ignore[attr-defined]

from sparse_triton.kernels.cpu_epilogue import LINE, finish
from sparse_triton.kernels.cpu_tile import MAX_WIDTH, multiply, padded_width, sources
from sparse_triton.kernels.cpu_vector import (
    copy_line,
    floats,
    prefetch_read,
    prefetch_write,
    take_ticket,
)

X_AHEAD, Y_AHEAD = 16, 8  # rows that memory is asked for before their turn


@njit(nogil=True)
def _pack(panel, padded, x, K, width, x_k, x_n):  # type: ignore[no-untyped-def]
    """panel [K, padded] = x [K, width], zero beyond ``width``; strides in elements."""
    to = carray(floats(panel), (K, padded))
    whole = width // LINE * LINE if x_n == 1 else 0
    for k in range(K):
        row = x + 4 * k * x_k
        for line in range(0, 4 * whole, 4 * LINE):
            prefetch_read(row + 4 * X_AHEAD * x_k + line)
            copy_line(panel + 4 * k * padded + line, row + line)
    for first in range(0, K, LINE):  # columns in lines, so that each line of x is fetched once
        last = min(first + LINE, K)
        for j in range(whole, width):
            for k in range(first, last):
                to[k, j] = carray(floats(x + 4 * (k * x_k + j * x_n)), (1,))[0]
    for k in range(K):
        for j in range(width, padded):
            to[k, j] = 0.0


@njit(nogil=True)
def _ask_for_row(y, row, y_m, width):  # type: ignore[no-untyped-def]
    """Fetch the lines that ``row`` will be stored to: stores of one tile are a page apart."""
    if row >= 0:
        for line in range(0, 4 * width, 4 * LINE):
            prefetch_write(y + 4 * row * y_m + line)


@njit(nogil=True)
def _run_block(  # type: ignore[no-untyped-def]
    x, stride, y, bias, residual, columns, values, starts, rows, sums,
    block, groups, width, padded, y_m, y_n, activation,
):  # fmt: skip
    """One row block times the register tile at x, group by group."""
    block_m = rows.shape[1]
    room = padded if groups > 1 else 0  # one group: every row reuses one accumulator
    for g in range(groups):
        for i in range(block_m):
            row = rows[block, i]
            if row < 0:
                break
            if g == groups - 1 and y_n == 1 and i + Y_AHEAD < block_m:
                _ask_for_row(y, rows[block, i + Y_AHEAD], y_m, width)
            at = (block * groups + g) * block_m + i
            out = sums + 4 * i * room
            multiply(
                padded, x, stride, columns.ctypes.data, values.ctypes.data,
                starts[at], starts[at + 1], out, g,
            )  # fmt: skip
            if g == groups - 1:
                o_y = 4 * row * y_m
                row_bias = bias + 4 * row if bias != 0 else 0
                row_residual = residual + o_y if residual != 0 else 0
                finish(out, y + o_y, width, row_bias, row_residual, y_n, activation)


@njit(nogil=True)
def _work(  # type: ignore[no-untyped-def]
    counter, x, y, bias, residual, columns, values, starts, rows, batch, M, K, N, groups, block_n,
    x_k, x_n, y_m, y_n, activation,
):  # fmt: skip
    """Take tasks until none is left; a task is (batch, column tile, row block), blocks fastest.

    Columns of x are copied side by side once per tile, unless x is that narrow already.
    """
    blocks, block_m = rows.shape
    tiles = (N + block_n - 1) // block_n
    widest = padded_width(min(block_n, MAX_WIDTH))
    kept = block_m if groups > 1 else 1
    scratch = np.empty((K + kept) * widest + LINE, np.float32)
    sums = (scratch.ctypes.data + 63) // 64 * 64
    panel, packed = sums + 4 * kept * widest, -1
    while True:
        task = take_ticket(counter.ctypes.data)
        if task >= batch * tiles * blocks:
            scratch[0] = 0.0  # numba frees an array after its last use, whoever has its address
            return
        block, tile, b = task % blocks, task // blocks % tiles, task // blocks // tiles
        stop = min((tile + 1) * block_n, N)
        for n in range(tile * block_n, stop, MAX_WIDTH):
            width = min(MAX_WIDTH, stop - n)
            padded = padded_width(width)
            from_x = x + 4 * (b * K * N + n * x_n)
            if x_n != 1 or padded != N:
                if packed != b * N + n:
                    _pack(panel, padded, from_x, K, width, x_k, x_n)
                    packed = b * N + n
                from_x = panel
            o_y = 4 * (b * M * N + n * y_n)
            _run_block(
                from_x, 4 * padded, y + o_y, bias, residual + o_y if residual != 0 else 0,
                columns, values, starts, rows, sums, block, groups, width, padded,
                y_m, y_n, activation,
            )  # fmt: skip


_ARRAYS = "i4[::1], f4[::1], i8[::1], i4[:, ::1]"
_NUMBERS = ", ".join(["i8"] * 11)


def _serial(digest: str):  # type: ignore[no-untyped-def]
    @njit(f"void(i8, i8, i8, i8, {_ARRAYS}, {_NUMBERS})", nogil=True, cache=True)
    def spmm_serial(  # type: ignore[no-untyped-def]
        x, y, bias, residual, columns, values, starts, rows, batch, M, K, N, groups, block_n,
        x_k, x_n, y_m, y_n, activation,
    ):  # fmt: skip
        """``spmm_parallel`` in the calling thread."""
        _ = digest  # a closure's values are part of the cache key
        _work(
            np.zeros(1, np.int64), x, y, bias, residual, columns, values, starts, rows,
            batch, M, K, N, groups, block_n, x_k, x_n, y_m, y_n, activation,
        )  # fmt: skip

    return spmm_serial


def _parallel(digest: str):  # type: ignore[no-untyped-def]
    @njit(f"void(i8, i8, i8, i8, i8, {_ARRAYS}, {_NUMBERS})", nogil=True, cache=True, parallel=True)
    def spmm_parallel(  # type: ignore[no-untyped-def]
        workers, x, y, bias, residual, columns, values, starts, rows, batch, M, K, N, groups,
        block_n, x_k, x_n, y_m, y_n, activation,
    ):  # fmt: skip
        """``workers`` threads share the tasks; arguments as ``CpuKernel.bind`` lays them out."""
        _ = digest
        counter = np.zeros(1, np.int64)
        for _worker in prange(workers):
            _work(
                counter, x, y, bias, residual, columns, values, starts, rows,
                batch, M, K, N, groups, block_n, x_k, x_n, y_m, y_n, activation,
            )  # fmt: skip

    return spmm_parallel


_DIGEST = sources("cpu_kernel.py")
spmm_serial = _serial(_DIGEST)
spmm_parallel = _parallel(_DIGEST)
