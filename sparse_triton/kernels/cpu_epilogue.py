"""What the cpu kernel does with a row's sums: bias, residual, activation, store.

The loops are plain enough for LLVM to turn into vector code; that is why ``exp`` is spelled out
here, for a call to the C library's would be made lane by lane.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit  # type: ignore[attr-defined]

from sparse_triton.kernels.cpu_vector import copy_line, floats, power_of_two

RELU, GELU, SILU = 1, 2, 3
LINE = 16  # floats of a cache line
ROUND = np.float32(1.5 * 2**23)  # adding it leaves the nearest integer in the low bits
LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
HALF, ONE = np.float32(0.5), np.float32(1.0)
C3, C4, C5 = np.float32(1.6666665e-1), np.float32(4.1665796e-2), np.float32(8.3334519e-3)
C6, C7 = np.float32(1.3981999e-3), np.float32(1.9875691e-4)
SQRT_HALF = np.float32(0.7071067811865476)
P = np.float32(0.3275911)
A1, A2, A3 = np.float32(0.254829592), np.float32(-0.284496736), np.float32(1.421413741)
A4, A5 = np.float32(-1.453152027), np.float32(1.061405429)


@njit(nogil=True, error_model="numpy")
def _exp(v):  # type: ignore[no-untyped-def]
    """e**v to 2 units in the last place; 0 and infinity beyond float32. NaN is the caller's.

    Source: Moshier, Cephes mathematical library, expf.
    """
    v = v if v > np.float32(-88.1) else np.float32(-88.1)
    v = v if v < np.float32(88.8) else np.float32(88.8)
    rounded = v * LOG2_E + ROUND
    n = rounded - ROUND
    r = v - n * LN2_HIGH - n * LN2_LOW
    p = ((((C7 * r + C6) * r + C5) * r + C4) * r + C3) * r + HALF
    return (p * r * r + r + ONE) * power_of_two(rounded)


@njit(nogil=True, error_model="numpy")
def _gelu(v):  # type: ignore[no-untyped-def]
    """v times the normal distribution's share below v, to 2e-7 |v|.

    The tail beyond |v| is what is approximated, so that large negative v lose no digits.
    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
    """
    z = abs(v) * SQRT_HALF
    t = ONE / (ONE + P * z)
    tail = HALF * t * (A1 + t * (A2 + t * (A3 + t * (A4 + t * A5)))) * _exp(-z * z)
    return v * (tail if v < 0 else ONE - tail)


@njit(nogil=True, error_model="numpy")
def activate(a, activation):  # type: ignore[no-untyped-def]
    """a = activation(a), of a whole array; NaN stays NaN."""
    if activation == RELU:
        for j in range(len(a)):
            a[j] = np.float32(0.0) if a[j] < 0 else a[j]
    elif activation == GELU:
        for j in range(len(a)):
            a[j] = _gelu(a[j])
    elif activation == SILU:
        for j in range(len(a)):
            a[j] = a[j] / (ONE + _exp(-a[j]))


@njit(nogil=True, error_model="numpy")
def finish(sums, y, width, bias, residual, y_n, activation):  # type: ignore[no-untyped-def]
    """y = activation(sums + bias + residual) for one row of ``width`` columns, y_n elements apart.

    All are addresses; bias (one number) and residual (as y) may be 0: none. Overwrites ``sums``.
    """
    a = carray(floats(sums), (width,))
    if bias != 0:
        b = carray(floats(bias), (1,))[0]
        for j in range(width):
            a[j] += b
    if residual != 0:
        r = carray(floats(residual), (width * y_n,))
        for j in range(width):
            a[j] += r[j * y_n]
    if activation != 0:
        activate(a, activation)
    to = carray(floats(y), (width * y_n,))
    whole = width // LINE * LINE if y_n == 1 else 0
    for j in range(0, whole, LINE):
        copy_line(y + 4 * j, sums + 4 * j)
    for j in range(whole, width):
        to[j * y_n] = a[j]
