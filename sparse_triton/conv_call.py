"""One convolution's tensors and options: its laws, its problem, its launch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from sparse_triton.check import check_activation, check_dense, check_operand
from sparse_triton.errors import ShapeError
from sparse_triton.geometry import Geometry
from sparse_triton.kernel import Run
from sparse_triton.problem import ConvProblem, Epilogue, Layout, SpmmProblem
from sparse_triton.tensors import ALIGNMENT, aligned, form

Tensor = torch.Tensor
FORMATS = {"row": torch.contiguous_format, "column": torch.channels_last}


class ConvCall(NamedTuple):
    """X [B, C, H, W] and residual [B, M, P, Q] in any strides."""

    X: Tensor
    bias: Tensor | None
    residual: Tensor | None
    activation: str | None
    geometry: Geometry

    def key(self) -> tuple[Any, ...]:
        """Everything a launch depends on besides the weight."""
        X, bias, residual, activation, geometry = self
        return (
            form(X),
            None if bias is None else (bias.shape, bias.stride(), bias.dtype, bias.device),
            None if residual is None else form(residual),
            activation, geometry,
        )  # fmt: skip

    def check(self, w_shape: tuple[int, int]) -> None:
        """Raise the ``InputError`` of the first law the arguments break."""
        X, bias, residual, activation, geometry = self
        M, K = w_shape
        R, S = geometry.kernel
        check_dense(X, "[B, C, H, W] or [C, H, W]", X.ndim == 4)
        C = K // (R * S)
        if X.shape[1] != C:
            raise ShapeError(
                f"W takes {C} channels (groups = {geometry.groups}), X [B, C, H, W] has "
                f"{X.shape[1]} in {tuple(X.shape)}"
            )
        size = _check_sizes(X, geometry)
        if bias is not None:
            check_operand("bias", bias, (M,), X)
        if residual is not None:
            check_operand("residual", residual, (X.shape[0], M, *size), X)
        check_activation(activation)

    def y_shape(self, M: int) -> tuple[int, int, int, int]:
        B, _, H, W = self.X.shape
        return B, M, *self.geometry.y_size(H, W)

    def problem(
        self, w_shape: tuple[int, int], nnz: int, w_dtype: str
    ) -> ConvProblem | SpmmProblem:
        """What is to be computed; a pointwise convolution is a matrix product."""
        X, bias, residual, activation, geometry = self
        B, C, H, W = X.shape
        layout = layout_of(X)
        M = w_shape[0]
        x_dtype = str(X.dtype).removeprefix("torch.")
        epilogue = Epilogue(bias is not None, residual is not None, activation)
        if geometry.pointwise:
            batch, N = (B, H * W) if layout == "row" else (1, B * H * W)
            return SpmmProblem(M, C, N, nnz, batch, x_dtype, w_dtype, layout, layout, epilogue)
        return ConvProblem(
            B, C, H, W, M, *geometry.kernel, nnz,
            stride=geometry.stride, padding=geometry.padding, dilation=geometry.dilation,
            groups=geometry.groups, x_dtype=x_dtype, w_dtype=w_dtype, x_layout=layout,
            y_layout=layout, epilogue=epilogue, pool=geometry.pool,
        )  # fmt: skip

    def launcher(self, run: Run, M: int) -> Callable[[ConvCall, Tensor | None], Tensor]:
        """The steps between a call of this form and its kernel, each only where it is needed."""
        X, bias, residual, _, geometry = self
        memory_format = FORMATS[layout_of(X)]
        shape = self.y_shape(M)
        empty = functools.partial(
            torch.empty, shape, dtype=X.dtype, device=X.device, memory_format=memory_format
        )
        x_fits, residual_fits = (_fits(t, memory_format) for t in (X, residual))
        bias_fits = bias is None or bias.is_contiguous()
        nothing = math.prod(shape) == 0
        as_columns = _columns_of(memory_format) if geometry.pointwise else None

        def launch(call: ConvCall, out: Tensor | None) -> Tensor:
            X, bias, residual, _, _ = call
            if not x_fits:
                X = _dense(X, memory_format)
            if not bias_fits and bias is not None:
                bias = bias.contiguous()
            if not residual_fits and residual is not None:
                residual = _dense(residual, memory_format)
            direct = out is not None and _fits(out, memory_format)
            Y = out if out is not None and direct else empty()
            if as_columns is not None and not nothing:
                seen = None if residual is None else as_columns(residual)
                run(as_columns(X), as_columns(Y), bias, seen)
            elif not nothing:
                made = run(X, Y, bias, residual)
                Y = Y if made is None else made
            return Y if out is None or out is Y else out.copy_(Y)

        return launch


def layout_of(X: Tensor) -> Layout:
    """ "column" where the channels of a pixel are adjacent in memory: Y will be channels-last."""
    return "column" if X.stride(1) == 1 and not X.is_contiguous() else "row"


def _check_sizes(X: Tensor, geometry: Geometry) -> tuple[int, int]:
    """The convolution's rows and columns, at least one of each, and of its pool."""
    H, W = X.shape[2:]
    P, Q = geometry.conv_size(H, W)
    if min(H, W, P, Q) < 1:
        raise ShapeError(
            f"a kernel {geometry.kernel} with dilation {geometry.dilation} does not fit an image "
            f"of {H} x {W} with padding {geometry.padding} (top, bottom, left, right)"
        )
    if geometry.pool is not None and min(geometry.y_size(H, W)) < 1:
        raise ShapeError(
            f"a pool {geometry.pool.kernel} with padding {geometry.pool.padding} does not fit the "
            f"convolution's {P} x {Q} pixels"
        )
    return P, Q


def _fits(t: Tensor | None, memory_format: torch.memory_format) -> bool:
    return t is None or (
        t.is_contiguous(memory_format=memory_format) and t.data_ptr() % ALIGNMENT == 0
    )


def _dense(t: Tensor, memory_format: torch.memory_format) -> Tensor:
    return aligned(t.contiguous(memory_format=memory_format))


def _columns_of(memory_format: torch.memory_format) -> Callable[[Tensor], Tensor]:
    """[B, C, H, W] as the matrices a product takes: [B, C, H*W], or one of [B*H*W, C]."""
    if memory_format == torch.channels_last:
        return lambda t: t.permute(0, 2, 3, 1).flatten(0, 2)
    return lambda t: t.flatten(2)
