"""A convolution on one device: random images, the float64 truth through the pool."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from autotune.lab import BIG, Case, Judge, Lab
from sparse_triton.config import KernelConfig
from sparse_triton.conv_call import FORMATS, ConvCall
from sparse_triton.geometry import Geometry
from sparse_triton.matrix import SparseMatrix
from sparse_triton.numerics import Float64
from sparse_triton.problem import ConvProblem, Layout, Problem
from sparse_triton.verify import roundings
from sparse_triton.verify_conv import conv_bound, conv_truth, pooled

Tensor = torch.Tensor


def lab_of(W: SparseMatrix, problem: Problem, device: torch.device) -> Judge[Problem]:
    """The lab for this kind of problem."""
    found = ConvLab if isinstance(problem, ConvProblem) else Lab
    return cast("Judge[Problem]", found(W, problem, device))  # type: ignore[arg-type]


class ConvLab(Judge[ConvProblem]):
    """A part of Y are images, the first and the last among them."""

    def _y_elements(self) -> int:
        return int(np.prod(self._y_shape()))

    def _y_shape(self) -> tuple[int, int, int, int]:
        return self.problem.batch, self.problem.M, *self.problem.y_size

    def _y_in(self, memory: Tensor) -> Tensor:
        B, M, height, width = self._y_shape()
        if self.problem.y_layout == "row":
            return memory.view(B, M, height, width)
        return memory.view(B, height, width, M).permute(0, 3, 1, 2)

    def _compared(self, seed: int) -> Tensor | None:
        p = self.problem
        keep = max(1, BIG // max(1, p.M * p.N))
        if keep >= p.batch:
            return None
        images = np.unique(np.linspace(0, p.batch - 1, keep).round().astype(np.int64))
        return torch.from_numpy(images).to(self.device)

    def _case(self, draw: torch.Generator) -> Case:
        p = self.problem
        X = self._image(draw, p.C, p.H, p.W, p.x_layout)
        bias = self._normal(draw, p.M) if p.epilogue.bias else None
        residual = self._image(draw, p.M, p.P, p.Q, p.y_layout) if p.epilogue.residual else None
        geometry = Geometry((p.R, p.S), p.stride, p.padding, p.dilation, p.groups, p.pool)
        seen = None if residual is None else self._images(residual)
        call = ConvCall(self._images(X), bias, seen, p.epilogue.activation, geometry)
        before, magnitude = conv_truth(self.W, call)
        truth = torch.from_numpy(pooled(before, p.pool)).to(self.device)
        return Case(X, bias, residual, truth, magnitude, {}, before)

    def _image(
        self, draw: torch.Generator, channels: int, height: int, width: int, layout: Layout
    ) -> Tensor:
        images = self._normal(draw, self.problem.batch, channels, height, width)
        return images.contiguous(memory_format=FORMATS[layout])

    def _images(self, t: Tensor) -> Tensor:
        return t if self.columns is None else t[self.columns]

    def _seen(self, Y: Tensor) -> Tensor:
        return self._images(Y)

    def _error_bound(self, case: Case, config: KernelConfig) -> Float64:
        p = self.problem
        assert case.before_pool is not None
        return conv_bound(
            self.W, case.before_pool, case.magnitude, p.x_dtype, p.epilogue.activation, p.pool,
            Gy=config.parts, roundings=roundings(p, config),
        )  # fmt: skip
