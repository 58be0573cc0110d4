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


@njit(nogil=True, error_model="numpy")
def pool_rows(map_, width, p, P, Q, y, first, last, y_w, pool, line):  # type: ignore[no-untyped-def]
    """Rows ``first`` .. ``last`` of one pooled map [., y_w] at y.

    map_   the finished pixels from row p on, ``width`` elements a row of Q pixels
    pool   kind (1: max, 2: avg), kernel, stride and padding as pairs
    line   scratch of one window row
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
                    v, largest = row[q], joined[q]
                    joined[q] = v if v > largest or v != v else largest  # NaN stays
        out = carray(floats(y + 4 * t * y_w), (y_w,))
        for u in range(y_w):
            left, right = max(0, u * step_w - pad_w), min(Q, u * step_w - pad_w + kernel_w)
            result = joined[left]
            for q in range(left + 1, right):
                v = joined[q]
                if kind == AVG:
                    result += v
                elif v > result or v != v:
                    result = v
            out[u] = result / size if kind == AVG else result
