"""Float32 as two halves for TF32 tensor cores, and the weight as family ``tf32x3`` reads it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import ceil_div
from sparse_triton.kernels.tf32x3.limits import BLOCK_K
from sparse_triton.pattern import CSR

Float32 = NDArray[np.float32]


class Halves(NamedTuple):
    """``high + low`` is the number, ``high`` its nearest TF32 neighbour."""

    high: Float32
    low: Float32


def rounded(x: Float32) -> Float32:
    """To the 11 significant bits of TF32, ties away from zero."""
    bits = np.ascontiguousarray(x).view(np.int32) + np.int32(0x1000)
    return (bits & np.int32(-0x2000)).view(np.float32)


def cut(x: Float32) -> Float32:
    """What a tensor core reads of a float32 register: the last 13 bits are ignored."""
    return (np.ascontiguousarray(x).view(np.int32) & np.int32(-0x2000)).view(np.float32)


def split(x: Float32) -> Halves:
    high = rounded(x)
    with np.errstate(invalid="ignore"):  # Inf leaves NaN
        return Halves(high, x - high)


def halves_for(csr: CSR, block_m: int) -> Halves:
    """The dense weight [M, K] in halves, padded with zeros to whole tiles; made once."""
    return csr.remember(("tf32x3", block_m), lambda: _padded(csr, block_m))


def _padded(csr: CSR, block_m: int) -> Halves:
    M, K = csr.shape
    W = np.zeros((ceil_div(M, block_m) * block_m, ceil_div(K, BLOCK_K) * BLOCK_K), np.float32)
    W[csr.rows, csr.column_indices] = csr.values
    return split(W)
