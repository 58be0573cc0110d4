"""One row of W times one register tile, for every cpu kernel. Importing it compiles nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

from numba import njit

from sparse_triton.kernels.cpu_vector import row_times_tile

MAX_WIDTH = 128  # columns whose accumulators fit the registers of one core

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


def sources(*more: str) -> str:
    """A digest of what every cpu kernel is made of, and ``more``: numba's cache watches only the
    file of the function it keeps."""
    names = ("cpu_tile.py", "cpu_epilogue.py", "cpu_vector.py", *more)
    return hashlib.sha256(
        b"".join(Path(__file__).with_name(name).read_bytes() for name in names)
    ).hexdigest()
