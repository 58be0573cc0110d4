"""``SparseLinear``: ``torch.nn.Linear`` with a pruned weight, an activation and a residual."""

from __future__ import annotations

from typing import Any

import torch

import sparse_triton.ops  # noqa: F401  registers the operator
from sparse_triton.call import Call
from sparse_triton.matrix import SparseMatrix
from sparse_triton.nn.base import SparseModule
from sparse_triton.weights import as_matrix

Tensor = torch.Tensor


class SparseLinear(SparseModule):
    """``activation(X @ W.T + bias + residual)`` with W a constant; see ``sparse_triton.linear``.

    Shapes  W [M, K]: a ``SparseMatrix``, or a dense or torch.sparse tensor; bias [M];
            X [..., K]; residual and the result [..., M].
    Memory  the result is contiguous, or feature-major: see ``linear``.
    Error   ``sparse_triton.numerics.error_bound``, elementwise.

    >>> import torch
    >>> layer = SparseLinear(torch.tensor([[0.0, 2.0]]), activation="relu")
    >>> layer(torch.tensor([[1.0, 3.0], [1.0, -3.0]]))
    tensor([[6.],
            [0.]])
    """

    def __init__(
        self,
        W: SparseMatrix | Tensor,
        bias: Tensor | None = None,
        *,
        activation: str | None = None,
        feature_major: bool = False,
    ) -> None:
        super().__init__(as_matrix(W), bias, activation)
        self.feature_major = feature_major

    @property
    def out_features(self) -> int:
        return self.matrix_shape[0]

    @property
    def in_features(self) -> int:
        return self.matrix_shape[1]

    def forward(self, X: Tensor, residual: Tensor | None = None) -> Tensor:
        """X [..., K], residual [..., M] or None; the result is [..., M]."""
        if residual is None:
            return self._run(X, None, self.activation)
        return self._run_with(X, residual, (*X.shape[:-1], self.matrix_shape[0]))

    def call(self, X: Tensor, residual: Tensor | None, activation: str | None) -> Call:
        return Call(X, self.bias, residual, activation, True, feature_major=self.feature_major)

    def _traced(self, X: Tensor, residual: Tensor | None, activation: str | None) -> Tensor:
        M, K = self.matrix_shape
        Y: Tensor = torch.ops.sparse_triton.spmm.default(
            self.row_offsets, self.column_indices, self.values, X, self.bias, residual,
            activation, True, False, M, K, self.weight_id, "float32", self.feature_major,
        )  # fmt: skip
        return Y

    def spec(self) -> dict[str, Any]:
        return super().spec() | {"feature_major": self.feature_major}

    def extra_repr(self) -> str:
        return super().extra_repr() + (", feature-major" if self.feature_major else "")
