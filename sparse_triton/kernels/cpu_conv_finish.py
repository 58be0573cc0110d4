"""Where the cpu convolution's sums go: segments of rows of Y, or through a pool."""

from __future__ import annotations

import numpy as np
from numba import carray, njit  # type: ignore[attr-defined]

from sparse_triton.kernels.cpu_epilogue import LINE
from sparse_triton.kernels.cpu_vector import copy_line, floats

MAX, AVG = 1, 2


@njit(nogil=True)
def add_segments(sums, source, segments, count):  # type: ignore[no-untyped-def]
    """sums += the pixels at ``source``; a segment is (place in sums, pixel, length)."""
    for k in range(count):
        length = segments[k, 2]
        a = carray(floats(sums + 4 * segments[k, 0]), (length,))
        r = carray(floats(source + 4 * segments[k, 1]), (length,))
        for j in range(length):
            a[j] += r[j]


@njit(nogil=True)
def store_segments(sums, to, segments, count):  # type: ignore[no-untyped-def]
    """The pixels at ``to`` = sums."""
    for k in range(count):
        length = segments[k, 2]
        source, target = sums + 4 * segments[k, 0], to + 4 * segments[k, 1]
        j = 0
        while j + LINE <= length:
            copy_line(target + 4 * j, source + 4 * j)
            j += LINE
        a = carray(floats(source), (length,))
        y = carray(floats(target), (length,))
        while j < length:
            y[j] = a[j]
            j += 1


@njit(nogil=True)
def store_turned(sums, room, rows, block, to, M, segments, count):  # type: ignore[no-untyped-def]
    """Channels-last pixels at ``to`` = the sums of a whole row block, ``room`` elements a row.

    Rows go by lines: 16 rows of sums stay in the nearest cache while their pixels are stored.
    """
    block_m = rows.shape[1]
    for first in range(0, block_m, LINE):
        last = min(first + LINE, block_m)
        for k in range(count):
            a = carray(floats(sums + 4 * segments[k, 0]), (block_m * room,))
            y = carray(floats(to + 4 * segments[k, 1] * M), (segments[k, 2] * M,))
            for j in range(segments[k, 2]):
                for i in range(first, last):
                    row = rows[block, i]
                    if row >= 0:
                        y[j * M + row] = a[i * room + j]


@njit(nogil=True, error_model="numpy", inline="always")
def _larger(v, largest):  # type: ignore[no-untyped-def]
    """NaN is the largest of all."""
    return v if v > largest or v != v else largest


@njit(nogil=True, error_model="numpy")
def _join(out, start, stop, line, first, step, kind):  # type: ignore[no-untyped-def]
    """out[u] = the larger of out[u] and line[first + u * step], or their sum."""
    if kind == AVG:
        for u in range(start, stop):
            out[u] += line[first + u * step]
    elif step == 2:  # a constant step is vector work
        for u in range(start, stop):
            out[u] = _larger(line[first + 2 * u], out[u])
    else:
        for u in range(start, stop):
            out[u] = _larger(line[first + u * step], out[u])


@njit(nogil=True, error_model="numpy")
def pool_rows(map_, width, p, P, Q, y, first, last, y_w, y_n, pool, line):  # type: ignore[no-untyped-def]
    """Rows ``first`` .. ``last`` of one pooled map [., y_w] at y, pixels y_n elements apart.

    map_   the finished pixels from row p on, ``width`` elements a row of Q pixels
    pool   kind (1: max, 2: avg), kernel, stride and padding as pairs
    line   scratch of Q and y_w elements
    Windows are joined over their rows first, which is vector work, then along the row.
    """
    kind, kernel_h, kernel_w, step_h, step_w = pool[0], pool[1], pool[2], pool[3], pool[4]
    pad_h, pad_w = pool[5], pool[6]
    size = np.float32(kernel_h * kernel_w)
    joined = carray(floats(line), (Q,))
    for t in range(first, last):
        top, bottom = max(0, t * step_h - pad_h), min(P, t * step_h - pad_h + kernel_h)
        for h in range(top, bottom):
            row = carray(floats(map_ + 4 * (h - p) * width), (Q,))
            if h == top:
                for q in range(Q):
                    joined[q] = row[q]
            elif kind == AVG:
                for q in range(Q):
                    joined[q] += row[q]
            else:
                for q in range(Q):
                    joined[q] = _larger(row[q], joined[q])
        to = y + 4 * t * y_w * y_n
        out = carray(floats(to if y_n == 1 else line + 4 * Q), (y_w,))
        for u in range(y_w):
            out[u] = np.float32(0.0) if kind == AVG else np.float32(-np.inf)
        for k in range(kernel_w):
            u = max(0, (pad_w - k + step_w - 1) // step_w)
            stop = min(y_w, (Q - 1 - k + pad_w) // step_w + 1)
            _join(out, u, stop, joined, k - pad_w, step_w, kind)
        if kind == AVG:
            for u in range(y_w):
                out[u] /= size
        if y_n != 1:
            pixels = carray(floats(to), (y_w * y_n,))
            for u in range(y_w):
                pixels[u * y_n] = out[u]
