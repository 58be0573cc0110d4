"""``spmm`` and ``linear``, and their registration with PyTorch.

Both are one operator per form of the weight: ``sparse_triton::spmm`` takes the parts of a
``SparseMatrix``, ``sparse_triton::spmm_dense`` a dense tensor (so that ``torch.compile`` can trace
a plain weight). The gradient with respect to X multiplies by W^T, which is the same operator with
``transposed=True``; W is a constant.
"""

from __future__ import annotations

from typing import Any

import torch

from sparse_triton import weights
from sparse_triton.call import Call
from sparse_triton.check import check_out
from sparse_triton.eager import is_plain
from sparse_triton.errors import InputError
from sparse_triton.executor import execute, launch_of
from sparse_triton.matrix import SparseMatrix
from sparse_triton.registration import register, split_parts

Tensor = torch.Tensor

_library = torch.library.Library("sparse_triton", "DEF")
_OPTIONS = (
    "Tensor X, Tensor? bias, Tensor? residual, str? activation, bool token_major, bool transposed"
)
_TAIL = "str accumulate='float32', bool feature_major=False"
_library.define(
    f"spmm(Tensor row_offsets, Tensor column_indices, Tensor values, {_OPTIONS}, "
    f"int M, int K, str weight_id, {_TAIL}) -> Tensor"
)
_library.define(f"spmm_dense(Tensor W, {_OPTIONS}, {_TAIL}) -> Tensor")


def spmm(
    W: SparseMatrix | Tensor,
    X: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    out: Tensor | None = None,
    accumulate: str = "float32",
) -> Tensor:
    """``activation(W @ X + bias[:, None] + residual)`` for a pruned W.

    Shapes  W [M, K]: a ``SparseMatrix``, or a dense or torch.sparse tensor, which is analysed once
            and remembered; X [..., K, N], any strides; bias [M]; residual and the result
            [..., M, N].
    Dtypes  X float32, float16 or bfloat16; bias, residual and the result have X's dtype; W may have
            another of the three.
    Sums    are float32. ``accumulate="float16"`` permits, for float16 X, sums of at most 16
            products in float16, each added to a float32 one: a kernel may then take half the
            instructions, and a result be further from the truth. Its bound, and the range in which
            it holds, are in ``sparse_triton.numerics``. Gradients are summed in float32.
    Zeros   of W do not multiply: NaN or Inf in X spreads only through stored weights. Not so where
            family dense, tf32x3 or pairs is taken (many columns): they multiply zeros too.
    Autocast casts X, bias and residual, as for ``torch.matmul``; W keeps its dtype.
    Error   ``sparse_triton.numerics.error_bound``, elementwise.
    Raises  ``ShapeError``, ``DtypeError``, ``DeviceError``, ``ActivationError``; ``CaptureError``
            for a first call inside a CUDA graph capture.

    >>> import torch, sparse_triton as st
    >>> W = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    >>> st.spmm(W, torch.tensor([[1.0], [3.0]]))
    tensor([[6.],
            [0.]])
    """
    return _call(W, X, bias, residual, activation, False, accumulate, False, out)


def linear(
    X: Tensor,
    W: SparseMatrix | Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    accumulate: str = "float32",
    feature_major: bool = False,
) -> Tensor:
    """``activation(X @ W.T + bias)`` for token-major X, as ``torch.nn.functional.linear``.

    Shapes  X [..., K], W [M, K], bias [M], result [..., M].
    Memory  The result is contiguous; with ``feature_major`` the values of a feature are adjacent
            instead of those of a token (strides, as ``channels_last`` has them). Kernels gather
            from such an X at once, where the contiguous one is turned before; so a result that
            goes into the next product alone had best be feature-major.
    Otherwise as ``spmm``.

    >>> import torch, sparse_triton as st
    >>> st.linear(torch.ones(5, 2), torch.eye(2), feature_major=True).stride()
    (1, 5)
    """
    return _call(W, X, bias, None, activation, True, accumulate, feature_major, None)


def _call(
    W: SparseMatrix | Tensor,
    X: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    token_major: bool,
    accumulate: str,
    feature_major: bool,
    out: Tensor | None,
) -> Tensor:
    if not isinstance(X, Tensor):
        raise InputError(f"X must be a torch tensor, got {type(X).__name__}")
    if out is not None:
        return _call_out(W, X, bias, residual, activation, accumulate, out)
    if not isinstance(W, SparseMatrix):
        if torch.compiler.is_compiling():
            y: Tensor = _spmm_dense_op(
                W, X, bias, residual, activation, token_major, False, accumulate, feature_major
            )
            return y
        W = weights.as_matrix(W)
    if is_plain(X, bias, residual):
        call = Call(X, bias, residual, activation, token_major, accumulate, feature_major)
        return execute(W, call)
    Y: Tensor = _spmm_op(
        W.row_offsets, W.column_indices, W.values, X, bias, residual, activation, token_major,
        False, W.shape[0], W.shape[1], W.weight_id, accumulate, feature_major,
    )  # fmt: skip
    return Y


def _call_out(
    W: SparseMatrix | Tensor,
    X: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    accumulate: str,
    out: Tensor,
) -> Tensor:
    if torch.compiler.is_compiling():
        Y = _call(W, X, bias, residual, activation, False, accumulate, False, None)
        return out.copy_(Y)
    needs_grad = (t for t in (X, bias, residual, out) if t is not None)
    if torch.is_grad_enabled() and any(t.requires_grad for t in needs_grad):
        raise InputError("out= does not record gradients; leave it out, or use torch.no_grad()")
    matrix = weights.as_matrix(W)
    call = Call(X, bias, residual, activation, False, accumulate)
    launch = launch_of(matrix, call)
    check_out(out, (*X.shape[:-2], matrix.shape[0], X.shape[-1]), X, bias, residual)
    launch(call, out)
    torch.autograd.graph.increment_version(out)  # kernels write through its address
    return out


# -- implementations -----------------------------------------------------------------------------


def _run(
    row_offsets: Tensor, column_indices: Tensor, values: Tensor,
    X: Tensor, bias: Tensor | None, residual: Tensor | None,
    activation: str | None, token_major: bool, transposed: bool, M: int, K: int, weight_id: str,
    accumulate: str = "float32", feature_major: bool = False,
) -> Tensor:  # fmt: skip
    W = weights.by_id(weight_id, row_offsets, column_indices, values, (M, K))
    W = W.transposed if transposed else W
    return execute(W, Call(X, bias, residual, activation, token_major, accumulate, feature_major))


def _run_dense(
    W: Tensor, X: Tensor, bias: Tensor | None, residual: Tensor | None,
    activation: str | None, token_major: bool, transposed: bool, accumulate: str = "float32",
    feature_major: bool = False,
) -> Tensor:  # fmt: skip
    matrix = weights.as_matrix(W)
    matrix = matrix.transposed if transposed else matrix
    call = Call(X, bias, residual, activation, token_major, accumulate, feature_major)
    return execute(matrix, call)


def _fake(
    row_offsets: Tensor, column_indices: Tensor, values: Tensor,
    X: Tensor, bias: Tensor | None, residual: Tensor | None,
    activation: str | None, token_major: bool, transposed: bool, M: int, K: int, weight_id: str,
    accumulate: str = "float32", feature_major: bool = False,
) -> Tensor:  # fmt: skip
    w_shape = (K, M) if transposed else (M, K)
    call = Call(X, bias, residual, activation, token_major, accumulate, feature_major)
    return _fake_y(w_shape, call)


def _fake_dense(
    W: Tensor, X: Tensor, bias: Tensor | None, residual: Tensor | None,
    activation: str | None, token_major: bool, transposed: bool, accumulate: str = "float32",
    feature_major: bool = False,
) -> Tensor:  # fmt: skip
    M, K = W.shape
    w_shape = (K, M) if transposed else (M, K)
    call = Call(X, bias, residual, activation, token_major, accumulate, feature_major)
    return _fake_y(w_shape, call)


def _fake_y(w_shape: tuple[int, int], call: Call) -> Tensor:
    call.check(w_shape)
    return call.fake_y(w_shape[0])


# -- autograd ------------------------------------------------------------------------------------


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep the weight's parts and what the activation's slope needs: Y for relu, else inputs."""
    parts, rest = split_parts(inputs)
    X, bias, residual, ctx.activation, ctx.token_major, ctx.transposed, *ctx.tail, _, _ = rest
    ctx.has = (bias is not None, residual is not None)
    if ctx.activation == "relu":
        slope: tuple[Any, ...] = (output,)
    else:
        slope = (X, bias, residual) if ctx.activation else ()
    ctx.n_parts = len(parts)
    ctx.save_for_backward(*parts, *slope)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    parts, slope = ctx.saved_tensors[: ctx.n_parts], ctx.saved_tensors[ctx.n_parts :]
    op = _spmm_op if ctx.n_parts == 3 else _spmm_dense_op

    def product(X: Tensor, bias: Any, residual: Any, transposed: bool) -> Tensor:
        result: Tensor = op(*parts, X, bias, residual, None, ctx.token_major, transposed, *ctx.tail)
        return result

    if ctx.activation == "relu":
        grad = torch.ops.aten.threshold_backward(grad, slope[0], 0)
    elif ctx.activation is not None:
        X, bias, residual = slope
        before = product(X, bias, residual, ctx.transposed)
        function = getattr(torch.ops.aten, f"{ctx.activation}_backward")
        grad = function(grad, before)
    grad_x = None
    if ctx.needs_input_grad[ctx.n_parts]:
        grad_x = product(grad, None, None, not ctx.transposed)
    grad_bias = None
    if ctx.has[0]:
        m = grad.ndim - (1 if ctx.token_major else 2)
        others = [d for d in range(grad.ndim) if d != m]
        grad_bias = grad.sum(others) if others else grad
    grad_residual = grad if ctx.has[1] else None
    none = (None,) * (5 + len(ctx.tail))
    return (*(None for _ in parts), grad_x, grad_bias, grad_residual, *none)


for _name, _impl, _meta in (("spmm", _run, _fake), ("spmm_dense", _run_dense, _fake_dense)):
    register(_library, _name, _impl, _meta, _setup, _backward)

_spmm_op = torch.ops.sparse_triton.spmm.default
_spmm_dense_op = torch.ops.sparse_triton.spmm_dense.default
