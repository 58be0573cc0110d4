"""The numba kernel of family ``cpu``. Importing it compiles (or loads from numba's cache)."""

from __future__ import annotations

import math

import numpy as np
from numba import carray, njit, prange  # type: ignore[attr-defined]

from sparse_triton.kernels.cpu_vector import floats, row_times_tile, take_ticket

RELU, GELU, SILU = 1, 2, 3
MAX_WIDTH = 128  # columns whose accumulators fit the registers of one core
LINE = 16  # floats of a cache line

_w1 = row_times_tile(1, 1, 4)
_w2 = row_times_tile(2, 1, 4)
_w4 = row_times_tile(4, 1, 4)
_w8 = row_times_tile(8, 1, 4)
_w16 = row_times_tile(16, 1, 4)
_w32 = row_times_tile(16, 2, 2)
_w48 = row_times_tile(16, 3, 2)
_w64 = row_times_tile(16, 4, 2)
_w96 = row_times_tile(16, 6, 1)
_w128 = row_times_tile(16, 8, 1)


@njit(nogil=True)
def padded_width(width):  # type: ignore[no-untyped-def]
    """The narrowest kernel that covers ``width`` columns."""
    if width <= 2:
        return width
    if width <= 4:
        return 4
    if width <= 8:
        return 8
    if width <= 64:
        return (width + 15) // 16 * 16
    return 96 if width <= 96 else 128


@njit(nogil=True)
def _multiply(width, x, stride, columns, values, start, stop, out, add):  # type: ignore[no-untyped-def]
    """One row, or one group of it, times ``width`` columns at x; see ``row_times_tile``."""
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
    if x_n == 1:
        for k in range(K):
            row = carray(floats(x + 4 * k * x_k), (width,))
            for j in range(width):
                to[k, j] = row[j]
    else:
        for first in range(0, K, LINE):  # a line of every column at a time
            last = min(first + LINE, K)
            for j in range(width):
                column = carray(floats(x + 4 * j * x_n), (K,))
                for k in range(first, last):
                    to[k, j] = column[k]
    for k in range(K):
        for j in range(width, padded):
            to[k, j] = 0.0


@njit(nogil=True)
def _activate(v, activation):  # type: ignore[no-untyped-def]
    if activation == RELU:
        return np.float32(0.0) if v < 0 else v
    if activation == GELU:
        half = np.float32(0.5) * v
        return half * (np.float32(1.0) + np.float32(math.erf(v * np.float32(0.7071067811865476))))
    if activation == SILU:
        return v / (np.float32(1.0) + np.exp(-v))
    return v


@njit(nogil=True)
def _finish(acc, y, width, bias, residual, y_n, activation):  # type: ignore[no-untyped-def]
    """y = activation(acc + bias + residual) for one row; bias and residual may be 0: none."""
    a = carray(floats(acc), (width,))
    to = carray(floats(y), (width * y_n,))
    if bias != 0:
        b = carray(floats(bias), (1,))[0]
        for j in range(width):
            a[j] += b
    if residual != 0:
        r = carray(floats(residual), (width * y_n,))
        for j in range(width):
            a[j] += r[j * y_n]
    if activation != 0:
        for j in range(width):
            a[j] = _activate(a[j], activation)
    if y_n == 1:
        for j in range(width):
            to[j] = a[j]
    else:
        for j in range(width):
            to[j * y_n] = a[j]


@njit(nogil=True)
def _run_block(  # type: ignore[no-untyped-def]
    x, stride, y, bias, residual, columns, values, starts, rows, acc,
    block, groups, width, padded, y_m, y_n, activation,
):  # fmt: skip
    """One row block times one register tile, group by group: groups block X for the cache."""
    block_m = rows.shape[1]
    room = padded if groups > 1 else 0  # one group: every row reuses one accumulator
    for g in range(groups):
        for i in range(block_m):
            row = rows[block, i]
            if row < 0:
                break
            at = (block * groups + g) * block_m + i
            out = acc + 4 * i * room
            _multiply(
                padded, x, stride, columns.ctypes.data, values.ctypes.data,
                starts[at], starts[at + 1], out, 1 if g > 0 else 0,
            )  # fmt: skip
            if g == groups - 1:
                o_y = 4 * row * y_m
                _finish(
                    out, y + o_y, width, bias + 4 * row if bias != 0 else 0,
                    residual + o_y if residual != 0 else 0, y_n, activation,
                )  # fmt: skip


@njit(nogil=True)
def _work(  # type: ignore[no-untyped-def]
    counter, x, y, bias, residual, columns, values, starts, rows, batch, M, K, N, groups, block_n,
    x_k, x_n, y_m, y_n, activation, pack,
):  # fmt: skip
    """Take tasks until none is left; a task is (batch, column tile, row block), blocks fastest."""
    blocks, block_m = rows.shape
    tiles = (N + block_n - 1) // block_n
    widest = padded_width(min(block_n, MAX_WIDTH))
    scratch = np.empty((K + (block_m if groups > 1 else 1)) * widest + LINE, np.float32)
    acc = (scratch.ctypes.data + 63) // 64 * 64
    panel = acc + 4 * (block_m if groups > 1 else 1) * widest
    ticket = counter.ctypes.data
    packed = -1
    while True:
        task = take_ticket(ticket)
        if task >= batch * tiles * blocks:
            return
        block, tile, b = task % blocks, task // blocks % tiles, task // blocks // tiles
        stop = min((tile + 1) * block_n, N)
        for n in range(tile * block_n, stop, MAX_WIDTH):
            width = min(MAX_WIDTH, stop - n)
            padded = padded_width(width)
            from_x = x + 4 * (b * K * N + n * x_n)
            stride = 4 * x_k
            if pack or x_n != 1 or padded != width:
                if packed != b * N + n:
                    _pack(panel, padded, from_x, K, width, x_k, x_n)
                    packed = b * N + n
                from_x, stride = panel, 4 * padded
            o_y = 4 * (b * M * N + n * y_n)
            _run_block(
                from_x, stride, y + o_y, bias, residual + o_y if residual != 0 else 0,
                columns, values, starts, rows, acc, block, groups, width, padded,
                y_m, y_n, activation,
            )  # fmt: skip


_SIGNATURE = "void({}, i4[::1], f4[::1], i8[::1], i4[:, ::1], {})"


@njit(_SIGNATURE.format(", ".join(["i8"] * 4), ", ".join(["i8"] * 12)), nogil=True, cache=True)
def spmm_serial(  # type: ignore[no-untyped-def]
    x, y, bias, residual, columns, values, starts, rows, batch, M, K, N, groups, block_n,
    x_k, x_n, y_m, y_n, activation, pack,
):  # fmt: skip
    """``spmm_parallel`` in the calling thread."""
    _work(
        np.zeros(1, np.int64), x, y, bias, residual, columns, values, starts, rows, batch, M, K, N,
        groups, block_n, x_k, x_n, y_m, y_n, activation, pack,
    )  # fmt: skip


@njit(
    _SIGNATURE.format(", ".join(["i8"] * 5), ", ".join(["i8"] * 12)),
    nogil=True, cache=True, parallel=True,
)  # fmt: skip
def spmm_parallel(  # type: ignore[no-untyped-def]
    workers, x, y, bias, residual, columns, values, starts, rows, batch, M, K, N, groups, block_n,
    x_k, x_n, y_m, y_n, activation, pack,
):  # fmt: skip
    counter = np.zeros(1, np.int64)
    for _ in prange(workers):
        _work(
            counter, x, y, bias, residual, columns, values, starts, rows, batch, M, K, N,
            groups, block_n, x_k, x_n, y_m, y_n, activation, pack,
        )  # fmt: skip
