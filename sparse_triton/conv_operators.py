"""The convolution operators of ``torch.library``, their fake kernels and gradients.

One operator per form of the weight: ``sparse_triton::conv2d`` takes the parts of a
``SparseFilter``'s matrix, ``sparse_triton::conv2d_dense`` a dense tensor (so that ``torch.compile``
can trace a plain weight). The gradient with respect to X is that of the library's dense
convolution, for which ``sparse_triton::conv2d_weight`` spells the parts out; W is a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.grad import conv2d_input

from sparse_triton import weights
from sparse_triton.conv_call import FORMATS, ConvCall, layout_of
from sparse_triton.executor import execute
from sparse_triton.filter import SparseFilter
from sparse_triton.geometry import Geometry, Sides
from sparse_triton.problem import Pool
from sparse_triton.registration import register, split_parts

Tensor = torch.Tensor
F = torch.nn.functional

_library = torch.library.Library("sparse_triton", "FRAGMENT")
_OPTIONS = (
    "Tensor X, Tensor? bias, Tensor? residual, str? activation, int[] stride, int[] padding, "
    "int[] dilation, int groups, str? pool, int[] window"
)
_PARTS = "Tensor row_offsets, Tensor column_indices, Tensor values"
_FILTER = "int[] shape, str weight_id"
_exact = (torch.Tag.needs_exact_strides,)  # Y's memory format is X's
_library.define(f"conv2d({_PARTS}, {_OPTIONS}, {_FILTER}) -> Tensor", tags=_exact)
_library.define(f"conv2d_dense(Tensor W, {_OPTIONS}) -> Tensor", tags=_exact)
_library.define(f"conv2d_weight({_PARTS}, int groups, {_FILTER}) -> Tensor")


def spelled(geometry: Geometry) -> tuple[Any, ...]:
    """A geometry as an operator's arguments: the inverse of ``_geometry``."""
    _, stride, padding, dilation, groups, pool = geometry
    window = () if pool is None else (*pool.kernel, *pool.stride, *pool.padding)
    return stride, padding, dilation, groups, pool and pool.kind, window


def _geometry(kernel: Any, spelled: tuple[Any, ...]) -> Geometry:
    stride, padding, dilation, groups, kind, window = spelled
    pool = None if kind is None else Pool(kind, *(tuple(window[i : i + 2]) for i in (0, 2, 4)))
    return Geometry(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), groups, pool)


# -- implementations -----------------------------------------------------------------------------


def _run(
    row_offsets: Tensor, column_indices: Tensor, values: Tensor,
    X: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str | None,
    *options: Any,
) -> Tensor:  # fmt: skip
    *spelled, shape, weight_id = options
    extents = (shape[0], _columns(shape, spelled[3]))
    W = weights.by_id(weight_id, row_offsets, column_indices, values, extents)
    geometry = _geometry(shape[2:], tuple(spelled))
    return execute(W, ConvCall(X, bias, residual, activation, geometry))


def _run_dense(
    W: Tensor, X: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str | None,
    *spelled: Any,
) -> Tensor:  # fmt: skip
    prepared = weights.as_filter(W, spelled[3])
    geometry = _geometry(prepared.kernel, spelled)
    return execute(prepared.matrix, ConvCall(X, bias, residual, activation, geometry))


def _run_weight(
    row_offsets: Tensor, column_indices: Tensor, values: Tensor,
    groups: int, shape: list[int], weight_id: str,
) -> Tensor:  # fmt: skip
    extents = (shape[0], _columns(shape, groups))
    W = weights.by_id(weight_id, row_offsets, column_indices, values, extents)
    M, C, R, S = shape
    return SparseFilter(W, (M, C, R, S), groups).to_dense()


def _columns(shape: Sequence[int], groups: int) -> int:
    return groups * shape[1] * shape[2] * shape[3]


def _fake(
    row_offsets: Tensor, column_indices: Tensor, values: Tensor,
    X: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str | None,
    *options: Any,
) -> Tensor:  # fmt: skip
    *spelled, shape, _ = options
    return _fake_y(
        shape, ConvCall(X, bias, residual, activation, _geometry(shape[2:], tuple(spelled)))
    )


def _fake_dense(
    W: Tensor, X: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str | None,
    *spelled: Any,
) -> Tensor:  # fmt: skip
    return _fake_y(
        W.shape, ConvCall(X, bias, residual, activation, _geometry(W.shape[2:], spelled))
    )


def _fake_y(w_shape: Sequence[int], call: ConvCall) -> Tensor:
    call.check((w_shape[0], _columns(w_shape, call.geometry.groups)))
    X = call.X
    return torch.empty(
        call.y_shape(w_shape[0]), dtype=X.dtype, device=X.device,
        memory_format=FORMATS[layout_of(X)],
    )  # fmt: skip


def _fake_weight(
    row_offsets: Tensor, column_indices: Tensor, values: Tensor,
    groups: int, shape: list[int], weight_id: str,
) -> Tensor:  # fmt: skip
    return values.new_empty(shape)


# -- autograd ------------------------------------------------------------------------------------


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep the weight's parts, and the inputs where a slope depends on them."""
    parts, (X, bias, residual, ctx.activation, *options) = split_parts(inputs)
    ctx.spelled, ctx.tail = tuple(options[:6]), tuple(options[6:])
    ctx.has = (bias is not None, residual is not None)
    ctx.x_shape = X.shape
    ctx.n_parts = len(parts)
    needed = (X, bias, residual) if ctx.activation or ctx.spelled[4] else ()
    ctx.save_for_backward(*parts, *needed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    parts, needed = ctx.saved_tensors[: ctx.n_parts], ctx.saved_tensors[ctx.n_parts :]
    stride, padding, dilation, groups, pool, window = ctx.spelled
    if needed:
        op = conv2d_op if ctx.n_parts == 3 else conv2d_dense_op
        plain = (None, stride, padding, dilation, groups, None, ())
        before = op(*parts, *needed, *plain, *ctx.tail)
        if pool is not None:
            grad = _pool_backward(grad, _activated(before, ctx.activation), pool, window)
        if ctx.activation == "relu":
            grad = torch.ops.aten.threshold_backward(grad, before, 0)
        elif ctx.activation is not None:
            grad = getattr(torch.ops.aten, f"{ctx.activation}_backward")(grad, before)
    grad_x = None
    if ctx.needs_input_grad[ctx.n_parts]:
        W = parts[0] if ctx.n_parts == 1 else _weight_op(*parts, groups, *ctx.tail)
        grad_x = _x_gradient(grad, W.to(grad.dtype), ctx.x_shape, stride, padding, dilation, groups)
    grad_bias = grad.sum((0, 2, 3)) if ctx.has[0] else None
    grad_residual = grad if ctx.has[1] else None
    rest = (None,) * (1 + len(ctx.spelled) + len(ctx.tail))
    return (*(None for _ in parts), grad_x, grad_bias, grad_residual, *rest)


def _activated(y: Tensor, activation: str | None) -> Tensor:
    result: Tensor = y if activation is None else getattr(F, activation)(y)
    return result


def _pool_backward(grad: Tensor, y: Tensor, kind: str, window: Sequence[int]) -> Tensor:
    """The gradient with respect to the un-pooled y."""
    kernel, stride, padding = window[:2], window[2:4], window[4:]
    aten = torch.ops.aten
    if kind == "avg":
        result: Tensor = aten.avg_pool2d_backward(
            grad, y, kernel, stride, padding, False, True, None
        )
        return result
    _, at = aten.max_pool2d_with_indices(y, kernel, stride, padding)
    result = aten.max_pool2d_with_indices_backward(
        grad, y, kernel, stride, padding, [1, 1], False, at
    )
    return result


def _x_gradient(
    grad: Tensor, W: Tensor, x_shape: Sequence[int], stride: Sequence[int], padding: Sides,
    dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    """Of the padded image, and then of the image inside."""
    top, bottom, left, right = padding
    B, C, height, width = x_shape
    padded = (B, C, height + top + bottom, width + left + right)
    whole: Tensor = conv2d_input(padded, W, grad, list(stride), 0, list(dilation), groups)
    return whole[:, :, top : top + height, left : left + width]


for _name, _impl, _meta in (("conv2d", _run, _fake), ("conv2d_dense", _run_dense, _fake_dense)):
    register(_library, _name, _impl, _meta, _setup, _backward)
for _key in ("CPU", "CUDA"):
    _library.impl("conv2d_weight", _run_weight, _key)
torch.library.register_fake("sparse_triton::conv2d_weight", _fake_weight, lib=_library)

conv2d_op = torch.ops.sparse_triton.conv2d.default
conv2d_dense_op = torch.ops.sparse_triton.conv2d_dense.default
_weight_op = torch.ops.sparse_triton.conv2d_weight.default
