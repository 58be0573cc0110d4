"""The numba kernel of family ``cpu``. Importing it compiles, or loads what numba has on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numba import carray, njit, prange  # type: ignore[attr-defined]

from sparse_triton.kernels.cpu_epilogue import LINE, finish
from sparse_triton.kernels.cpu_vector import (
    copy_line,
    floats,
    prefetch_read,
    prefetch_write,
    row_times_tile,
    take_ticket,
)

MAX_WIDTH = 128  # columns whose accumulators fit the registers of one core
X_AHEAD, Y_AHEAD = 16, 8  # rows that memory is asked for before their turn

_w1 = row_times_tile(1, 1, 4)
_w2 = row_times_tile(2, 1, 4)
_w4 = row_times_tile(4, 1, 4)
_w8 = row_times_tile(8, 1, 4)
_w16 = row_times_tile(16, 1, 4)
_w32 = row_times_tile(16, 2, 2)
_w48 = row_times_tile(16, 3, 2)
_w64 = row_times_tile(16, 4, 1)
_w96 = row_times_tile(16, 6, 1)
_w128 = row_times_tile(16, 8, 1)


@njit(nogil=True)
def padded_width(width):  # type: ignore[no-untyped-def]
    """The narrowest of the widths above that covers ``width`` columns."""
    if width <= 2:
        return width
    if width <= 8:
        return 4 if width <= 4 else 8
    if width <= 64:
        return (width + 15) // 16 * 16
    return 96 if width <= 96 else 128


@njit(nogil=True)
def multiply(width, x, stride, columns, values, start, stop, out, add):  # type: ignore[no-untyped-def]
    """One group of one row times the ``width`` columns at x; see ``row_times_tile``."""
    if width == 64:
        _w64(x, stride, columns, values, start, stop, out, add)
    elif width == 128:
        _w128(x, stride, columns, values, start, stop, out, add)
    elif width == 96:
        _w96(x, stride, columns, values, start, stop, out, add)
    elif width == 48:
        _w48(x, stride, columns, values, start, stop, out, add)
    elif width == 32:
        _w32(x, stride, columns, values, start, stop, out, add)
    elif width == 16:
        _w16(x, stride, columns, values, start, stop, out, add)
    elif width == 8:
        _w8(x, stride, columns, values, start, stop, out, add)
    elif width == 4:
        _w4(x, stride, columns, values, start, stop, out, add)
    elif width == 2:
        _w2(x, stride, columns, values, start, stop, out, add)
    else:
        _w1(x, stride, columns, values, start, stop, out, add)


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


def sources(*more: str) -> str:
    """A digest of every file compiled here, and ``more``: numba's cache watches only its own."""
    names = ("cpu_kernel.py", "cpu_epilogue.py", "cpu_vector.py", *more)
    return hashlib.sha256(
        b"".join(Path(__file__).with_name(name).read_bytes() for name in names)
    ).hexdigest()


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


spmm_serial = _serial(sources())
spmm_parallel = _parallel(sources())
