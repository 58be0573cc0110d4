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
    """X [..., K, N], or [..., K] with ``token_major``, in any strides.

    feature_major  the memory format of Y [..., M] with ``token_major``: the values of a feature are
                   adjacent, so that it is the row-major Y [M, N] in memory
    """

    X: Tensor
    bias: Tensor | None
    residual: Tensor | None
    activation: str | None
    token_major: bool
    accumulate: str = "float32"
    feature_major: bool = False

    def key(self) -> tuple[Any, ...]:
        """Everything a launch depends on besides the weight."""
        X, bias, residual, activation, token_major, accumulate, feature_major = self
        return (
            X.shape, X.stride(), X.dtype, X.device, X.data_ptr() % ALIGNMENT,
            None if bias is None else (bias.shape, bias.stride(), bias.dtype, bias.device),
            None if residual is None else form(residual),
            activation, token_major, accumulate, feature_major,
        )  # fmt: skip

    def check(self, w_shape: tuple[int, int]) -> None:
        """Raise the ``InputError`` of the first law the arguments break."""
        check_call(w_shape, *self[:-1])

    def problem(self, w_shape: tuple[int, int], nnz: int, w_dtype: str) -> SpmmProblem:
        """What is to be computed: leading dimensions are the batch, tokens are columns."""
        X = self.X
        x_layout: Layout = "row"
        y_layout: Layout = "row"
        if self.token_major:
            batch, N = 1, math.prod(X.shape[:-1])
            x_layout = "row" if is_feature_major(X) else "column"
            y_layout = "row" if self.feature_major and N > 1 else "column"
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
            y_layout=y_layout,
            epilogue=Epilogue(self.bias is not None, self.residual is not None, self.activation),
            accumulate=self.accumulate,
        )

    def launcher(self, run: Run, M: int) -> Callable[[Call, Tensor | None], Tensor]:
        """The steps between a call of this form and its kernel, each only where it is needed."""
        X, bias, residual, _, token_major, _, feature_major = self
        adapt_x = _adapter(X, _view_of(X, token_major))
        in_memory = features_first if feature_major else None
        adapt_residual = None if residual is None else _adapter(residual, in_memory)
        adapt_bias = None if bias is None or bias.is_contiguous() else Tensor.contiguous
        shape = self.y_shape(M)
        empty: Callable[..., Tensor] = functools.partial(torch.empty, shape)
        if feature_major:
            empty = functools.partial(torch.empty_strided, shape, _strides(shape))
        empty = functools.partial(empty, dtype=X.dtype, device=X.device)
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
                run(X, Y if in_memory is None else in_memory(Y), bias, residual)
            return Y if out is None or direct else out.copy_(Y)

        return launch

    def y_shape(self, M: int) -> tuple[int, ...]:
        X = self.X
        return (*X.shape[:-1], M) if self.token_major else (*X.shape[:-2], M, X.shape[-1])

    def fake_y(self, M: int) -> Tensor:
        """A Y without values."""
        shape = self.y_shape(M)
        return empty_feature_major(self.X, shape) if self.feature_major else self.X.new_empty(shape)


def is_feature_major(t: Tensor) -> bool:
    """Whether the values of a feature of t [..., K] are adjacent, and those of a token are not."""
    return t.ndim > 1 and not t.is_contiguous() and features_first(t).is_contiguous()


def features_first(t: Tensor) -> Tensor:
    """[..., K] as [K, ...]."""
    return t.movedim(-1, 0)


def empty_feature_major(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A feature-major tensor of this shape without values."""
    return like.new_empty_strided(shape, _strides(shape))


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a dense feature-major tensor [..., M]."""
    *tokens, _ = shape
    return *(math.prod(tokens[i + 1 :]) for i in range(len(tokens))), math.prod(tokens)


def _view_of(X: Tensor, token_major: bool) -> Callable[[Tensor], Tensor] | None:
    """What shows X in the order it has in memory, where that is a law of its own."""
    if token_major:
        return features_first if is_feature_major(X) else None
    return (lambda t: t.mT) if not X.is_contiguous() and X.mT.is_contiguous() else None


def _adapter(
    t: Tensor, view: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor], Tensor] | None:
    """What makes ``t``, or a view of it, dense and aligned; None where it is already."""
    if view is not None:
        return lambda t: aligned(view(t).contiguous())
    if t.is_contiguous() and t.data_ptr() % ALIGNMENT == 0:
        return None
    return lambda t: aligned(t.contiguous())
