"""``SparseConv2d`` and ``SparseConvPool2d``: convolutions with a pruned weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Self

import torch

from sparse_triton.conv_call import ConvCall
from sparse_triton.conv_operators import conv2d_op, spelled
from sparse_triton.filter import SparseFilter
from sparse_triton.geometry import geometry_of, pool_of
from sparse_triton.matrix import SparseMatrix
from sparse_triton.nn.base import SparseModule
from sparse_triton.problem import Pool
from sparse_triton.weights import as_filter

Tensor = torch.Tensor
Numbers = int | Sequence[int]


class _SparseConv(SparseModule):
    """What both have in common: the filter and how it slides."""

    def __init__(
        self, W: SparseFilter | Tensor, bias: Tensor | None, stride: Numbers,
        padding: str | Numbers, dilation: Numbers, groups: int, activation: str | None,
        pool: Pool | None,
    ) -> None:  # fmt: skip
        prepared = as_filter(W, groups)
        super().__init__(prepared.matrix, bias, activation)
        self.filter_shape = prepared.shape
        self.padding = padding if isinstance(padding, int | str) else tuple(padding)
        self.geometry = geometry_of(
            prepared.kernel, stride, padding, dilation, prepared.groups, pool
        )

    @property
    def out_channels(self) -> int:
        return self.filter_shape[0]

    @property
    def in_channels(self) -> int:
        return self.filter_shape[1] * self.geometry.groups

    @property
    def weight(self) -> Tensor:
        """The dense weight [M, C/groups, R, S], made anew on each access."""
        return SparseFilter(self.matrix, self.filter_shape, self.geometry.groups).to_dense()

    @property
    def sparsity(self) -> float:
        return SparseFilter(self.matrix, self.filter_shape, self.geometry.groups).sparsity

    def call(self, X: Tensor, residual: Tensor | None, activation: str | None) -> ConvCall:
        return ConvCall(X, self.bias, residual, activation, self.geometry)

    def _traced(self, X: Tensor, residual: Tensor | None, activation: str | None) -> Tensor:
        parts = (self.row_offsets, self.column_indices, self.values)
        operands = (X, self.bias, residual, activation, *spelled(self.geometry))
        Y: Tensor = conv2d_op(*parts, *operands, self.filter_shape, self.weight_id)
        return Y

    def spec(self) -> dict[str, Any]:
        g = self.geometry
        padding = list(self.padding) if isinstance(self.padding, tuple) else self.padding
        return super().spec() | {
            "shape": list(self.filter_shape),
            "stride": list(g.stride),
            "padding": padding,
            "dilation": list(g.dilation),
            "groups": g.groups,
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any], matrix: SparseMatrix, bias: Tensor | None) -> Self:
        M, C, R, S = spec["shape"]
        rest = {name: value for name, value in spec.items() if name != "shape"}
        W = SparseFilter.from_matrix(matrix, (M, C, R, S), spec["groups"])
        return cls(W, bias, **rest)

    def extra_repr(self) -> str:
        g = self.geometry
        M, C, R, S = self.filter_shape
        form = f"{C * g.groups} -> {M}, {R}x{S}, stride={g.stride}, padding={self.padding}"
        groups = f", groups={g.groups}" if g.groups != 1 else ""
        epilogue = f", {self.activation}" if self.activation else ""
        weights = f"{len(self.values)} of {M * C * R * S} weights"
        return f"{form}{groups}, {weights}{epilogue}"


class SparseConv2d(_SparseConv):
    """``activation(conv2d(X, W) + bias + residual)`` with W a constant; see ``conv2d``.

    Shapes  W [M, C/groups, R, S]: a ``SparseFilter``, or a dense or torch.sparse tensor; bias [M];
            X [B, C, H, W] or [C, H, W]; residual and the result [B, M, P, Q] or [M, P, Q].
    Error   ``sparse_triton.numerics.error_bound``, elementwise.

    >>> import torch
    >>> layer = SparseConv2d(torch.eye(3).view(1, 1, 3, 3), padding=1)
    >>> layer(torch.ones(1, 1, 2, 2))
    tensor([[[[2., 1.],
              [1., 2.]]]])
    """

    def __init__(
        self,
        W: SparseFilter | Tensor,
        bias: Tensor | None = None,
        stride: Numbers = 1,
        padding: str | Numbers = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__(W, bias, stride, padding, dilation, groups, activation, None)

    def forward(self, X: Tensor, residual: Tensor | None = None) -> Tensor:
        if X.ndim == 3:
            return self.forward(X[None], None if residual is None else residual[None])[0]
        if residual is None:
            return self._run(X, None, self.activation)
        size = self.geometry.conv_size(X.shape[2], X.shape[3])
        return self._run_with(X, residual, (X.shape[0], self.out_channels, *size))


class SparseConvPool2d(_SparseConv):
    """``pool(activation(conv2d(X, W) + bias))`` with W a constant; see ``conv2d_pool``.

    >>> import torch
    >>> layer = SparseConvPool2d(torch.full((1, 1, 1, 1), 2.0), activation="relu")
    >>> layer(torch.arange(16.0).view(1, 4, 4))
    tensor([[[10., 14.],
             [26., 30.]]])
    """

    def __init__(
        self,
        W: SparseFilter | Tensor,
        bias: Tensor | None = None,
        stride: Numbers = 1,
        padding: str | Numbers = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        *,
        activation: str | None = "relu",
        pool: str = "max",
        pool_kernel: Numbers = 2,
        pool_stride: Numbers | None = None,
        pool_padding: Numbers = 0,
    ) -> None:
        found = pool_of(pool, pool_kernel, pool_stride, pool_padding)
        super().__init__(W, bias, stride, padding, dilation, groups, activation, found)

    def forward(self, X: Tensor) -> Tensor:
        return (
            self._run(X[None], None, self.activation)[0]
            if X.ndim == 3
            else self._run(X, None, self.activation)
        )

    def spec(self) -> dict[str, Any]:
        pool = self.geometry.pool
        assert pool is not None
        named = {f"pool_{name}": list(v) for name, v in asdict(pool).items() if name != "kind"}
        return super().spec() | {"pool": pool.kind} | named
