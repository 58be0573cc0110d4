"""Is a convolution right? Float64 truth and the derived bound, through the pool."""

from __future__ import annotations

import numpy as np
import torch

from sparse_triton.conv_call import ConvCall
from sparse_triton.filter import dense_filter
from sparse_triton.geometry import Geometry
from sparse_triton.kernels.dense_conv import pool_of
from sparse_triton.matrix import SparseMatrix
from sparse_triton.numerics import (
    SMALLEST_SUBNORMAL,
    UNIT_ROUNDOFF,
    Float64,
    activate,
    error_bound,
    gamma,
)
from sparse_triton.problem import Pool

Tensor = torch.Tensor
F = torch.nn.functional


def conv_truth(W: SparseMatrix, call: ConvCall) -> tuple[Float64, Float64]:
    """([B, M, P, Q] before the pool, its ``|W| * |X| + |bias| + |residual|``), in float64.

    Computed on X's device; a zero of W never multiplies.
    """
    X, bias, residual, activation, geometry = call
    y, magnitude = _convolution(W, X, geometry), _convolution(W, X, geometry, absolute=True)
    for operand in (None if bias is None else bias[:, None, None], residual):
        if operand is not None:
            y = y + operand.detach().double()
            magnitude = magnitude + operand.detach().double().abs()
    return activate(y.cpu().numpy(), activation), magnitude.cpu().numpy()


def conv_bound(
    W: SparseMatrix,
    y64: Float64,
    magnitude: Float64,
    y_dtype: str,
    activation: str | None,
    pool: Pool | None,
    *,
    Gy: int = 1,
    roundings: int = 1,
) -> Float64:
    """The largest legal error of the result, after the pool if there is one.

    y64, magnitude  as ``conv_truth`` gives them
    roundings       to y_dtype on the way; 1: only the finished, pooled value is rounded
    """
    B, M, P, Q = y64.shape
    stored = y_dtype if pool is None or roundings > 1 else "float32"
    bound = error_bound(
        W.csr.row_lengths, magnitude.reshape(B, M, P * Q), y64.reshape(B, M, P * Q),
        Gy=Gy, y_dtype=stored, activation=activation, roundings=roundings,
    ).reshape(y64.shape)  # fmt: skip
    if pool is None:
        return bound
    # What is not finite is exact, and must not widen the bound of its neighbours.
    bound = pooled(np.where(np.isfinite(y64), bound, 0.0), pool)
    if pool.kind == "avg":
        size = pool.kernel[0] * pool.kernel[1]
        mean = pooled(np.abs(y64), pool)
        bound = bound + gamma(size + 1) * (mean + bound) + size * SMALLEST_SUBNORMAL["float32"]
    store = UNIT_ROUNDOFF[y_dtype] if y_dtype != "float32" else 0.0
    stored_error = store * np.abs(pooled(y64, pool)) + SMALLEST_SUBNORMAL[y_dtype]
    return np.asarray(bound * (1.0 + store) + stored_error)


def pooled(y: Float64, pool: Pool | None) -> Float64:
    """PyTorch's own pool of [B, M, P, Q], or y itself."""
    return y if pool is None else np.asarray(pool_of(torch.from_numpy(y), pool).numpy())


def pooled_magnitude(magnitude: Float64, pool: Pool | None) -> Float64:
    """The largest magnitude in each window: where sums could overflow."""
    return pooled(magnitude, pool and Pool("max", pool.kernel, pool.stride, pool.padding))


def _convolution(W: SparseMatrix, X: Tensor, geometry: Geometry, absolute: bool = False) -> Tensor:
    """[B, M, P, Q] float64 of W * X, or of |W| * |X|."""
    top, bottom, left, right = geometry.padding
    x = F.pad(X.detach().double(), (left, right, top, bottom))
    R, S = geometry.kernel
    x = x.abs() if absolute else x
    if bool(torch.isfinite(x).all()) and bool(torch.isfinite(W.values).all()):
        shape = (W.shape[0], X.shape[1] // geometry.groups, R, S)
        dense = torch.from_numpy(dense_filter(W.csr, shape, geometry.groups)).to(x)
        dense = dense.abs() if absolute else dense
        return F.conv2d(x, dense, None, geometry.stride, 0, geometry.dilation, geometry.groups)
    return _stored_only(W, x, geometry, absolute)


def _stored_only(W: SparseMatrix, x: Tensor, geometry: Geometry, absolute: bool) -> Tensor:
    """The convolution of the padded x over stored weights alone, one after the other."""
    (R, S), (step_h, step_w), (gap_h, gap_w) = geometry.kernel, geometry.stride, geometry.dilation
    P, Q = Geometry(geometry.kernel, geometry.stride, (0, 0, 0, 0), geometry.dilation, 1).conv_size(
        x.shape[2], x.shape[3]
    )
    y = x.new_zeros((x.shape[0], W.shape[0], P, Q))
    for m, k, w in zip(W.csr.rows, W.csr.column_indices, W.csr.values, strict=True):
        c, r, s = k // (R * S), k // S % R * gap_h, k % S * gap_w
        patch = x[
            :, c, r : r + step_h * (P - 1) + 1 : step_h, s : s + step_w * (Q - 1) + 1 : step_w
        ]
        y[:, m] += float(abs(w) if absolute else w) * patch
    return y
