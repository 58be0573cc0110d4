"""One product's tensors and options: its laws, its problem, its launch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from sparse_triton.check import check_call
from sparse_triton.kernel import Run
from sparse_triton.problem import Epilogue, Layout, SpmmProblem
from sparse_triton.tensors import ALIGNMENT, aligned, form

Tensor = torch.Tensor


class Call(NamedTuple):
    """X [..., K, N], or token-major [..., K], in any strides."""

    X: Tensor
    bias: Tensor | None
    residual: Tensor | None
    activation: str | None
    token_major: bool
    accumulate: str = "float32"

    def key(self) -> tuple[Any, ...]:
        """Everything a launch depends on besides the weight."""
        X, bias, residual, activation, token_major, accumulate = self
        return (
            X.shape, X.stride(), X.dtype, X.device, X.data_ptr() % ALIGNMENT,
            None if bias is None else (bias.shape, bias.stride(), bias.dtype, bias.device),
            None if residual is None else form(residual),
            activation, token_major, accumulate,
        )  # fmt: skip

    def check(self, w_shape: tuple[int, int]) -> None:
        """Raise the ``InputError`` of the first law the arguments break."""
        check_call(w_shape, *self)

    def problem(self, w_shape: tuple[int, int], nnz: int, w_dtype: str) -> SpmmProblem:
        """What is to be computed: leading dimensions are the batch, tokens are columns."""
        X = self.X
        x_layout: Layout = "row"
        if self.token_major:
            batch, N, x_layout = 1, math.prod(X.shape[:-1]), "column"
        else:
            batch, N = math.prod(X.shape[:-2]), X.shape[-1]
            if not X.is_contiguous() and X.mT.is_contiguous():
                x_layout = "column"
        return SpmmProblem(
            M=w_shape[0],
            K=w_shape[1],
            N=N,
            nnz=nnz,
            batch=batch,
            x_dtype=str(X.dtype).removeprefix("torch."),
            w_dtype=w_dtype,
            x_layout=x_layout,
            y_layout="column" if self.token_major else "row",
            epilogue=Epilogue(self.bias is not None, self.residual is not None, self.activation),
            accumulate=self.accumulate,
        )

    def launcher(self, run: Run, M: int) -> Callable[[Call, Tensor | None], Tensor]:
        """The steps between a call of this form and its kernel, each only where it is needed."""
        X, bias, residual, _, token_major, _ = self
        shape = (*X.shape[:-1], M) if token_major else (*X.shape[:-2], M, X.shape[-1])
        turned = not token_major and not X.is_contiguous() and X.mT.is_contiguous()
        adapt_x = _adapter(X, turned)
        adapt_residual = None if residual is None else _adapter(residual)
        adapt_bias = None if bias is None or bias.is_contiguous() else Tensor.contiguous
        dtype, device = X.dtype, X.device
        empty = functools.partial(torch.empty, shape, dtype=dtype, device=device)
        nothing = math.prod(shape) == 0

        def launch(call: Call, out: Tensor | None) -> Tensor:
            X, bias, residual, *_ = call
            if adapt_x is not None:
                X = adapt_x(X)
            if adapt_bias is not None and bias is not None:
                bias = adapt_bias(bias)
            if adapt_residual is not None and residual is not None:
                residual = adapt_residual(residual)
            direct = out is None or (out.is_contiguous() and out.data_ptr() % ALIGNMENT == 0)
            Y = out if out is not None and direct else empty()
            if not nothing:
                run(X, Y, bias, residual)
            return Y if out is None or direct else out.copy_(Y)

        return launch


def _adapter(t: Tensor, mT: bool = False) -> Callable[[Tensor], Tensor] | None:
    """What makes ``t`` dense and aligned; None where it is already."""
    if mT:
        return lambda t: aligned(t.mT.contiguous())
    if t.is_contiguous() and t.data_ptr() % ALIGNMENT == 0:
        return None
    return lambda t: aligned(t.contiguous())
