"""NumPy meaning of the ops, all lanes side by side: the definition ``ptx.py`` must match."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_triton.kernels.unrolled.ops import Flush, Fma, HalfFma, Load, Op
from sparse_triton.kernels.unrolled.schedule import Program
from sparse_triton.partition import NO_ROW

Float32 = NDArray[np.float32]


def run_body(body: tuple[Op, ...], X: Float32, block_m: int) -> Float32:
    """Accumulators [block_m, N] after one body. ``Rebase``, ``Widen`` and ``Sync`` mean nothing
    here: they move a pointer, change a type and wait."""
    acc = np.zeros((block_m, X.shape[1]), dtype=np.float32)
    half = np.zeros((block_m, X.shape[1]), dtype=np.float16)
    slots: dict[int, Float32] = {}
    for op in body:
        match op:
            case Load(slot, k):
                slots[slot] = X[k]
            case Fma(place, slot, weight):
                acc[place] = _fma(slots[slot], np.float64(weight), acc[place])
            case HalfFma(place, slot, weight):
                half[place] = _fma(slots[slot], np.float64(np.float16(weight)), half[place])
            case Flush(place):
                acc[place] += half[place].astype(np.float32)
                half[place] = 0
    return acc


def _fma(x: Float32, weight: np.float64, sums: NDArray[Any]) -> NDArray[Any]:
    """One rounding, as the GPU's fma: the product is exact in float64."""
    exact = x.astype(np.float64) * weight + sums
    with np.errstate(over="ignore"):  # float16 sums overflow to infinity, as the GPU's
        return np.asarray(exact.astype(sums.dtype))


def interpret(program: Program, X: Float32) -> Float32:
    """Y [M, N] = W @ X: bodies run, then the partials added in part order."""
    M = int((program.rows != NO_ROW).sum())
    Y = np.full((M, X.shape[1]), np.nan, dtype=np.float32)
    for b, rows in enumerate(program.rows):
        partials = [
            run_body(program.whole_body(b * program.parts + q), X, program.block_m)
            for q in range(program.parts)
        ]
        total = partials[0]
        for partial in partials[1:]:
            total = total + partial
        Y[rows[rows != NO_ROW]] = total[rows != NO_ROW]
    return Y
