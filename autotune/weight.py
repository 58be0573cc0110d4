"""A sparse weight of a model, and the problems it is part of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from sparse_triton.matrix import FLOAT_DTYPES, SparseMatrix
from sparse_triton.problem import Epilogue, Layout, Problem, SpmmProblem


@dataclass(frozen=True)
class Weight:
    """A sparse weight and how it is called.

    N       columns it is multiplied with, where the model says so; () where it does not
    layout  "row": X [K, N]; "column": X [tokens, K], as ``nn.Linear`` has it
    kind    "matrix", "linear", "conv 1x1" or "conv RxS"
    seen    problems of a convolution's calls, where the model says so
    groups  of a convolution, whose matrix has zeros between them
    """

    name: str
    matrix: SparseMatrix
    N: tuple[int, ...] = ()
    layout: Layout = "row"
    kind: str = "matrix"
    bias: bool = False
    seen: tuple[Problem, ...] = ()
    groups: int = 1

    @property
    def sparsity(self) -> float:
        """Share of zeros in the weight as the model has it."""
        return 1.0 - (1.0 - self.matrix.sparsity) * self.groups

    def problems(self, x_dtype: str | None = None) -> Iterator[Problem]:
        """What to tune; ``x_dtype``: of X, if not W's or the one that was seen."""
        for N in self.N:
            yield self.problem(N, x_dtype)
        for problem in self.seen:
            yield problem if x_dtype is None else replace(problem, x_dtype=x_dtype)

    def problem(self, N: int, x_dtype: str | None = None) -> SpmmProblem:
        """What to tune for this weight at N columns."""
        W = self.matrix
        w_dtype = str(W.dtype).removeprefix("torch.")
        return SpmmProblem(
            *W.shape, N, W.nnz,
            x_dtype=x_dtype or w_dtype, w_dtype=w_dtype,
            x_layout=self.layout, y_layout=self.layout, epilogue=Epilogue(bias=self.bias),
        )  # fmt: skip


def weight_of(name: str, t: torch.Tensor, bias: bool) -> Weight | None:
    """The weight in a tensor of rank 2 or 4, if it is one."""
    if t.ndim not in (2, 4) or t.dtype not in FLOAT_DTYPES or t.numel() == 0:
        return None
    matrix = SparseMatrix.from_torch(t if t.ndim == 2 else t.flatten(1))
    if t.ndim == 2:
        return Weight(name, matrix, layout="column", kind="linear", bias=bias)
    return Weight(name, matrix, kind=f"conv {t.shape[2]}x{t.shape[3]}", bias=bias)
