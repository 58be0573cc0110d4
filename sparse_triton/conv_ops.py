"""``conv2d`` and ``conv2d_pool``: convolutions with a pruned weight, as PyTorch has them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sparse_triton import weights
from sparse_triton.conv_call import ConvCall
from sparse_triton.conv_operators import conv2d_dense_op, conv2d_op, spelled
from sparse_triton.eager import is_plain
from sparse_triton.errors import InputError
from sparse_triton.executor import execute
from sparse_triton.filter import SparseFilter, check_filter_shape
from sparse_triton.geometry import geometry_of, once, pool_of
from sparse_triton.problem import Pool

Tensor = torch.Tensor


def conv2d(
    X: Tensor,
    W: SparseFilter | Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(conv2d(X, W) + bias + residual)`` for a pruned W, as ``torch.nn.functional``.

    Shapes  X [B, C, H, W] or [C, H, W], any strides; W [M, C/groups, R, S]: a ``SparseFilter``, or
            a dense or torch.sparse tensor, which is analysed once and remembered; bias [M];
            residual and the result [B, M, P, Q] or [M, P, Q].
    Layout  the result is channels-last where X's channels are adjacent in memory, else NCHW.
    Options stride, dilation: a number or (rows, columns); padding: a number, (rows, columns),
            "valid" (none) or "same" (P = H, Q = W, with stride 1).
    Dtypes  X float32, float16 or bfloat16; bias, residual and the result have X's dtype; W may have
            another of the three. Accumulation is float32.
    Zeros   of W do not multiply: NaN or Inf in X spreads only through stored weights. Not so where
            family dense is taken (few zeros, one channel a group): that is the library's
            convolution, in TF32 where ``torch.backends.cudnn`` allows it.
    Autocast casts X, bias and residual, as for ``torch.nn.functional.conv2d``; W keeps its dtype.
    Error   ``sparse_triton.numerics.error_bound``, elementwise.
    Raises  ``ShapeError``, ``DtypeError``, ``DeviceError``, ``ActivationError``, ``InputError``;
            ``CaptureError`` for a first call inside a CUDA graph capture.

    >>> import torch, sparse_triton as st
    >>> W = torch.zeros(1, 1, 3, 3)
    >>> W[0, 0, 1, 2] = 2.0
    >>> st.conv2d(torch.arange(4.0).view(1, 2, 2), W, padding=1)
    tensor([[[2., 0.],
             [6., 0.]]])
    """
    return _call(X, W, bias, residual, activation, stride, padding, dilation, groups, None)


def conv2d_pool(
    X: Tensor,
    W: SparseFilter | Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    activation: str | None = "relu",
    pool: str = "max",
    pool_kernel: int | Sequence[int] = 2,
    pool_stride: int | Sequence[int] | None = None,
    pool_padding: int | Sequence[int] = 0,
) -> Tensor:
    """``pool(activation(conv2d(X, W) + bias))`` for a pruned W; the map between is not returned.

    pool          "max" or "avg", as ``max_pool2d`` and ``avg_pool2d`` of ``torch.nn.functional``
                  with their defaults: whole windows only; an average counts the padding's zeros
    pool_kernel, pool_stride, pool_padding
                  a number or (rows, columns); pool_stride None: pool_kernel

    Otherwise as ``conv2d``.

    >>> import torch, sparse_triton as st
    >>> st.conv2d_pool(torch.arange(16.0).view(1, 4, 4), torch.full((1, 1, 1, 1), 2.0))
    tensor([[[10., 14.],
             [26., 30.]]])
    """
    found = once(pool_of, pool, pool_kernel, pool_stride, pool_padding)
    return _call(X, W, bias, None, activation, stride, padding, dilation, groups, found)


def _call(
    X: Tensor,
    W: SparseFilter | Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    stride: int | Sequence[int],
    padding: int | str | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    pool: Pool | None,
) -> Tensor:
    if not isinstance(X, Tensor):
        raise InputError(f"X must be a torch tensor, got {type(X).__name__}")
    if X.ndim == 3:
        lone = None if residual is None else residual[None]
        rest = (activation, stride, padding, dilation, groups, pool)
        return _call(X[None], W, bias, lone, *rest)[0]
    traced = torch.compiler.is_compiling() and isinstance(W, Tensor)
    if not traced:
        W = weights.as_filter(W, groups)
    shape = check_filter_shape(tuple(W.shape), groups) if traced else W.shape
    geometry = once(geometry_of, shape[2:], stride, padding, dilation, groups, pool)
    if isinstance(W, SparseFilter) and is_plain(X, bias, residual):
        return execute(W.matrix, ConvCall(X, bias, residual, activation, geometry))
    operands = (X, bias, residual, activation, *spelled(geometry))
    if isinstance(W, SparseFilter):
        m = W.matrix
        parts = (m.row_offsets, m.column_indices, m.values)
        Y: Tensor = conv2d_op(*parts, *operands, shape, m.weight_id)
        return Y
    Y = conv2d_dense_op(W, *operands)
    return Y
