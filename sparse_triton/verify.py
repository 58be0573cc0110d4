"""Is a result right? Float64 truth and the derived bound: tests, tuner, benchmarks, selftest."""

from __future__ import annotations

import numpy as np
import torch

from sparse_triton.choose import choose
from sparse_triton.config import KernelConfig
from sparse_triton.conv_call import ConvCall
from sparse_triton.device import Device
from sparse_triton.executor import AnyCall, problem_of
from sparse_triton.kernels import FAMILIES
from sparse_triton.kernels.dense_conv import roundings as library_roundings
from sparse_triton.kernels.unrolled.limits import accumulates_half
from sparse_triton.matrix import SparseMatrix
from sparse_triton.numerics import (
    HALF_CHUNK,
    HALF_RANGE,
    Arithmetic,
    Float64,
    activate,
    error_bound,
)
from sparse_triton.problem import ConvProblem, Epilogue, Problem, SpmmProblem
from sparse_triton.verify_conv import conv_bound, conv_truth, pooled, pooled_magnitude

Tensor = torch.Tensor
FLOAT32_MAX = float(np.finfo(np.float32).max)
CHUNK_ELEMENTS = 2**24  # 128 MB of float64 products at a time


def truth(
    W: SparseMatrix,
    X: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    token_major: bool = False,
) -> tuple[Float64, Float64]:
    """(y64, magnitude) in Y's shape: the true result, and ``|W| @ |X| + |bias| + |residual|``.

    X [..., K, N] gives [..., M, N]; token-major X [..., K] gives [..., M]. Computed in float64 on
    X's device; a zero of W never multiplies, so NaN and Inf spread through stored weights only.
    """
    M, K = W.shape
    x = X.detach().double()
    if token_major:
        x = x.reshape(-1, K).mT
    y, magnitude = _product(W, x), _product(W, x, absolute=True)
    if token_major:
        y, magnitude = (t.mT.reshape(*X.shape[:-1], M) for t in (y, magnitude))
    for operand in (None if bias is None else _spread(bias, token_major), residual):
        if operand is not None:
            y = y + operand.detach().double()
            magnitude = magnitude + operand.detach().double().abs()
    return activate(y.cpu().numpy(), activation), magnitude.cpu().numpy()


def worst_ratio(
    Y: Tensor,
    W: SparseMatrix,
    X: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    token_major: bool = False,
    *,
    Gy: int = 1,
    roundings: int = 1,
    step: int = 1,
    half_roundings: int = 0,
    arithmetic: Arithmetic = "float32",
) -> float:
    """Largest ``|y - y64| / bound`` of Y: right where it is at most 1.

    ``inf`` where one side alone is NaN, or an infinity stands where the truth is finite and fits
    Y's dtype. 0.0 for an empty Y. ``Gy, roundings, step, half_roundings, arithmetic`` as in
    ``numerics.error_bound``.
    """
    y64, magnitude = truth(W, X, bias, residual, activation, token_major)
    if tuple(Y.shape) != y64.shape:
        return float("inf")
    if y64.size == 0:
        return 0.0
    y = Y.detach().double().cpu().numpy()
    if token_major:
        y, y64, magnitude = (a.reshape(-1, W.shape[0]).T for a in (y, y64, magnitude))
    y_dtype = str(Y.dtype).removeprefix("torch.")
    with np.errstate(invalid="ignore", over="ignore"):
        bound = error_bound(
            W.csr.row_lengths, magnitude, y64,
            Gy=Gy, y_dtype=y_dtype, activation=activation, roundings=roundings, step=step,
            half_roundings=half_roundings, arithmetic=arithmetic,
        )  # fmt: skip
    sums = HALF_RANGE if half_roundings else FLOAT32_MAX
    return _worst(y, y64, magnitude, bound, torch.finfo(Y.dtype).max, sums)


def worst_conv_ratio(
    Y: Tensor, W: SparseMatrix, call: ConvCall, *, Gy: int = 1, roundings: int = 1
) -> float:
    """As ``worst_ratio``, of a convolution with W [M, C*R*S]: Y [B, M, P, Q], pooled or not."""
    y_dtype = str(Y.dtype).removeprefix("torch.")
    pool = call.geometry.pool
    y64, magnitude = conv_truth(W, call)
    if tuple(Y.shape) != call.y_shape(W.shape[0]):
        return float("inf")
    if Y.numel() == 0:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        bound = conv_bound(
            W, y64, magnitude, y_dtype, call.activation, pool, Gy=Gy, roundings=roundings
        )
    y64, magnitude = pooled(y64, pool), pooled_magnitude(magnitude, pool)
    y = Y.detach().double().cpu().numpy()
    return _worst(y, y64, magnitude, bound, torch.finfo(Y.dtype).max)


def _worst(
    y: Float64, y64: Float64, magnitude: Float64, bound: Float64, largest: float,
    largest_sum: float = FLOAT32_MAX,
) -> float:  # fmt: skip
    """``largest`` is what Y's dtype holds, ``largest_sum`` what the sums are sure to hold."""
    with np.errstate(invalid="ignore", over="ignore"):
        ratio = np.abs(y - y64) / bound
        excused = (y == y64) | (np.isnan(y) & np.isnan(y64))
        excused |= _overflowed(y, y64, magnitude, bound, largest, largest_sum)
    ratio[~np.isfinite(bound) | np.isnan(ratio)] = np.inf
    return float(ratio[~excused].max(initial=0.0))


def call_ratio(Y: Tensor, W: SparseMatrix, call: AnyCall, config: KernelConfig) -> float:
    """``worst_ratio`` of what ``executor.prepare(W, call, config)`` computed."""
    problem = problem_of(W, call)
    stores = roundings(problem, config)
    if isinstance(call, ConvCall):
        return worst_conv_ratio(Y, W, call, Gy=config.parts, roundings=stores)
    assert isinstance(problem, SpmmProblem)
    X, bias, residual, activation, token_major, *_ = call
    halves = half_roundings(problem, config)
    return worst_ratio(
        Y, W, X, bias, residual, activation, token_major,
        Gy=config.parts, roundings=stores, step=config.step, half_roundings=halves,
        arithmetic=FAMILIES[config.kernel].arithmetic,
    )  # fmt: skip


def roundings(problem: Problem, config: KernelConfig) -> int:
    """Roundings to Y's dtype: more than 1 where a 16-bit library call stores its result before
    the epilogue."""
    product = torch.promote_types(getattr(torch, problem.x_dtype), getattr(torch, problem.w_dtype))
    if config.kernel != "dense" or product == torch.float32:
        return 1
    if isinstance(problem, ConvProblem):
        return library_roundings(problem)
    epilogue = problem.epilogue
    if epilogue.bias and epilogue.residual and epilogue.activation is not None:
        return 3  # of bias + residual, with the product, after the activation
    return 1 if epilogue == Epilogue() else 2


def half_roundings(problem: SpmmProblem, config: KernelConfig) -> int:
    """As ``numerics.error_bound`` takes it: the rounding of a float32 W is one more."""
    if not accumulates_half(problem, config):
        return 0
    return HALF_CHUNK + (problem.w_dtype == "float32")


def config_of(W: SparseMatrix, call: AnyCall) -> KernelConfig:
    """The configuration that is taken for the call."""
    return choose(problem_of(W, call), W.pattern_hash, Device.of(call.X.device)).config


def _overflowed(
    y: Float64,
    y64: Float64,
    magnitude: Float64,
    bound: Float64,
    largest: float,
    largest_sum: float,
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Where Y's dtype cannot hold the truth, or the accumulators could not hold the sums."""
    fits_not = np.isinf(y) & (np.sign(y) == np.sign(y64)) & (np.abs(y64) + bound >= largest)
    sums = np.isfinite(magnitude) & (magnitude >= largest_sum)
    return np.asarray((np.isfinite(y64) & fits_not) | sums)


def _spread(bias: Tensor, token_major: bool) -> Tensor:
    return bias if token_major else bias[:, None]


def _product(W: SparseMatrix, x: Tensor, absolute: bool = False) -> Tensor:
    """[..., M, N] float64 of W @ x, or of |W| @ |x|."""
    values = W.values.to(x.device).double()
    if absolute:
        values, x = values.abs(), x.abs()
    if bool(torch.isfinite(x).all()) and bool(torch.isfinite(values).all()):
        dense = W.to_dense().to(x.device).double()
        return (dense.abs() if absolute else dense) @ x
    return _stored_only(W, values, x)


def _stored_only(W: SparseMatrix, values: Tensor, x: Tensor) -> Tensor:
    """The product over stored weights alone, in pieces that fit in memory."""
    rows = torch.from_numpy(W.csr.rows).to(x.device)
    columns = W.column_indices.to(x.device)
    y = x.new_zeros((*x.shape[:-2], W.shape[0], x.shape[-1]))
    piece = max(1, CHUNK_ELEMENTS // max(1, x.numel() // max(1, W.shape[1])))
    for at in range(0, W.nnz, piece):
        part = slice(at, at + piece)
        y.index_add_(-2, rows[part], values[part, None] * x[..., columns[part], :])
    return y
