"""What tests of convolution kernels share: filters, legal configurations, truth and its bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sparse_triton import SparseMatrix
from sparse_triton.config import KernelConfig
from sparse_triton.conv_call import ConvCall
from sparse_triton.device import Device
from sparse_triton.geometry import Geometry
from sparse_triton.kernels import families_of
from sparse_triton.plan import why_not
from sparse_triton.problem import ConvProblem, Epilogue, Pool
from tests.support import dense_weight

H100 = Device.virtual_cuda(90)
FAMILIES = ("gather", "unrolled")
PATTERNS = ("random", "random", "ragged", "empty_rows", "empty_columns", "one", "full")


def pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[rng.integers(len(values))]


@dataclass(frozen=True)
class Drawn:
    """A problem and the filter it is for, by its seed."""

    problem: ConvProblem
    pattern: str
    density: float
    seed: int

    def weight(self) -> SparseMatrix:
        return drawn_filter(self.problem, self.pattern, self.density, self.seed)


def drawn_filter(p: ConvProblem, pattern: str, density: float, seed: int) -> SparseMatrix:
    """[M, C*R*S]; several groups are blocks of the diagonal, of three and more one is empty."""
    w = dense_weight(pattern, p.M, p.K, density, seed)
    if p.groups > 1:
        blocks = w.view(p.groups, p.M // p.groups, p.groups, p.K // p.groups)
        of_own_group = torch.eye(p.groups, dtype=torch.bool)
        of_own_group[0, 0] = p.groups < 3
        blocks *= of_own_group[:, None, :, None]
    w = w.to(getattr(torch, p.w_dtype))
    if not w.any():
        w[-1, -1] = 1.0
    return SparseMatrix.from_dense(w)


def drawn_problem(rng: np.random.Generator, seed: int, small: bool = False) -> Drawn | None:
    """Any geometry: pixels, kernels larger than the image, strides, dilation, groups, pools."""
    sizes = (1, 2, 5, 7) if small else (1, 2, 7, 9, 14, 28, 33)
    groups = int(pick(rng, 1, 1, 1, 2, 4))
    C, M = groups * int(pick(rng, 1, 2, 3, 8)), groups * int(pick(rng, 1, 2, 5, 8))
    if not small and rng.random() < 0.3:
        C, M = C * 8, M * 8
    pool = None
    if rng.random() < 0.4:
        kernel = (int(pick(rng, 2, 3)), int(pick(rng, 1, 2, 3)))
        padding = (int(pick(rng, 0, kernel[0] // 2)), int(pick(rng, 0, kernel[1] // 2)))
        strides = (int(pick(rng, 1, 2, 3)), int(pick(rng, 1, 2, 3)))
        pool = Pool(pick(rng, "max", "avg"), kernel, strides, padding)
    p = ConvProblem(
        int(pick(rng, 1, 1, 2, 5)), C, int(pick(rng, *sizes)), int(pick(rng, *sizes)), M,
        int(pick(rng, 1, 2, 3, 3, 5)), int(pick(rng, 1, 3, 3, 4)), 1,
        stride=(int(pick(rng, 1, 1, 2, 3)), int(pick(rng, 1, 1, 2, 3))),
        padding=tuple(int(n) for n in rng.integers(0, 4, 4)),
        dilation=(int(pick(rng, 1, 1, 2)), int(pick(rng, 1, 1, 3))),
        groups=groups, x_dtype=pick(rng, "float32", "float32", "float16", "bfloat16"),
        w_dtype=pick(rng, "float32", "float16"), x_layout=pick(rng, "row", "row", "column"),
        y_layout=pick(rng, "row", "column"),
        epilogue=Epilogue(
            bool(rng.integers(2)), bool(rng.integers(2)), pick(rng, None, "relu", "gelu", "silu")
        ),
        pool=pool,
    )  # fmt: skip
    if min(p.P, p.Q, *p.y_size) < 1:
        return None
    pattern, density = pick(rng, *PATTERNS), float(pick(rng, 0.02, 0.1, 0.3))
    if pattern == "full" and p.M * p.K > 4000:
        pattern = "random"
    nnz = drawn_filter(p, pattern, density, seed).nnz
    return Drawn(replace(p, nnz=nnz), pattern, density, seed)


def drawn_config(
    rng: np.random.Generator, problem: ConvProblem, kernel: str, tries: int = 300
) -> KernelConfig | None:
    """A legal configuration out of the family's space."""
    space = families_of(problem)[kernel].space(problem, H100)
    for _ in range(tries):
        fields = {name: values[rng.integers(len(values))] for name, values in space.items()}
        config = KernelConfig(kernel, **fields)
        if why_not(problem, config, H100) is None:
            return config
    return None


def call_of(
    p: ConvProblem, X: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None
) -> ConvCall:
    """The problem as a call; all tensors NCHW in meaning."""
    geometry = Geometry((p.R, p.S), p.stride, p.padding, p.dilation, p.groups, p.pool)
    return ConvCall(X, bias, residual, p.epilogue.activation, geometry)
