"""The laws of a call's arguments: each its own message with law, values and remedy."""

from __future__ import annotations

import torch

from sparse_triton.errors import ActivationError, DeviceError, DtypeError, ShapeError
from sparse_triton.matrix import FLOAT_DTYPES
from sparse_triton.numerics import ACTIVATIONS
from sparse_triton.problem import check_accumulate

Tensor = torch.Tensor


def check_call(
    w_shape: tuple[int, int],
    X: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    token_major: bool,
    accumulate: str = "float32",
) -> None:
    """Raise the ``InputError`` of the first law the arguments break."""
    M, K = w_shape
    _check_x(X, K, token_major)
    if bias is not None:
        check_operand("bias", bias, (M,), X)
    if residual is not None:
        y_shape = (*X.shape[:-1], M) if token_major else (*X.shape[:-2], M, X.shape[-1])
        check_operand("residual", residual, y_shape, X)
    check_activation(activation)
    check_accumulate(accumulate, str(X.dtype).removeprefix("torch."))


def check_activation(activation: str | None) -> None:
    """The activation is one of the known ones, or none."""
    if activation is not None and activation not in ACTIVATIONS:
        raise ActivationError(
            f"activation must be None or one of {', '.join(ACTIVATIONS)}, got {activation!r}"
        )


def check_dense(X: Tensor, form: str, fits: bool) -> None:
    """X is a dense tensor of the rank that ``form`` shows, of a dtype that kernels compute in."""
    if X.layout is not torch.strided:
        raise ShapeError(f"X must be a dense tensor {form}, got {X.layout}; use X.to_dense()")
    if not fits:
        raise ShapeError(f"X must have shape {form}, got {tuple(X.shape)}")
    if X.dtype not in FLOAT_DTYPES:
        raise DtypeError(f"X must be float32, float16 or bfloat16, got {X.dtype}; use X.float()")


def _check_x(X: Tensor, K: int, token_major: bool) -> None:
    form = "[..., K]" if token_major else "[..., K, N]"
    check_dense(X, form, X.ndim >= (1 if token_major else 2))
    got = X.shape[-1 if token_major else -2]
    if got != K:
        other = X.shape[-2 if token_major else -1] if X.ndim > 1 else None
        hint = "; X looks transposed, use X.mT" if other == K else ""
        raise ShapeError(f"W has K = {K} columns, X {form} has K = {got} in {tuple(X.shape)}{hint}")


def check_operand(name: str, t: Tensor, shape: tuple[int, ...], X: Tensor) -> None:
    """An operand has its shape, and X's dtype and device."""
    if tuple(t.shape) != shape:
        raise ShapeError(f"{name} must have shape {shape}, got {tuple(t.shape)}")
    if t.dtype != X.dtype:
        raise DtypeError(
            f"{name} must have X's dtype {X.dtype}, got {t.dtype}; use {name}.to(X.dtype)"
        )
    if t.device != X.device:
        raise DeviceError(f"{name} is on {t.device}, X on {X.device}; use {name}.to(X.device)")


def check_out(
    out: Tensor, shape: tuple[int, ...], X: Tensor, bias: Tensor | None, residual: Tensor | None
) -> None:
    """``out`` must be Y's shape, dtype and device, and share no memory with what is read."""
    check_operand("out", out, shape, X)
    for name, t in (("X", X), ("bias", bias), ("residual", residual)):
        if t is not None and _overlap(out, t):
            raise ShapeError(
                f"out must not share memory with {name}, which is read after parts of out are "
                f"written; use {name}.clone() or another out"
            )
    if not out.is_contiguous() and any(
        s == 0 and n > 1 for s, n in zip(out.stride(), shape, strict=True)
    ):
        raise ShapeError("out must not be an expanded tensor: its elements share memory")


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether the address ranges of two tensors meet."""
    if a.numel() == 0 or b.numel() == 0:
        return False
    return a.data_ptr() < _end(b) and b.data_ptr() < _end(a)


def _end(t: Tensor) -> int:
    if t.is_contiguous():
        elements = t.numel()
    else:
        elements = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr() + elements * t.element_size()
