"""``SparseFilter``: the pruned weight of a convolution, prepared once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_triton.errors import ShapeError
from sparse_triton.matrix import SparseMatrix, check_dtype
from sparse_triton.pattern import CSR, Float32

Shape4 = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class SparseFilter:
    """A convolution's weight [M, C/groups, R, S] as the sparse matrix the kernels read.

    matrix  [M, C*R*S]: one column for each tap (c, r, s), c slowest, over all C input channels;
            the groups are written out block-diagonally
    shape   (M, C/groups, R, S), as ``torch.nn.Conv2d.weight`` has it
    groups  of the input channels

    Explicit zeros are dropped, NaN and Inf kept, no threshold is applied. Immutable. Build one with
    ``from_dense`` or ``from_matrix``; the constructor trusts its arguments.

    >>> import torch
    >>> F = SparseFilter.from_dense(torch.eye(4).view(4, 1, 2, 2), groups=2)
    >>> F.shape, F.groups, F.nnz, F.sparsity, F.matrix.shape
    ((4, 1, 2, 2), 2, 4, 0.75, (4, 8))
    """

    matrix: SparseMatrix
    shape: Shape4
    groups: int = 1

    @property
    def nnz(self) -> int:
        return self.matrix.nnz

    @property
    def sparsity(self) -> float:
        """Share of zeros in ``shape``: what the groups leave out anyway does not count."""
        elements = int(np.prod(self.shape))
        return 1.0 - self.nnz / elements if elements else 0.0

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    @property
    def kernel(self) -> tuple[int, int]:
        """(R, S)"""
        return self.shape[2:]

    def to(self, device: torch.device | str) -> SparseFilter:
        """The same weight on ``device``; itself if it is there already."""
        moved = self.matrix.to(device)
        return self if moved is self.matrix else SparseFilter(moved, self.shape, self.groups)

    def to_dense(self) -> torch.Tensor:
        """[M, C/groups, R, S] tensor of the weight's dtype on its device."""
        dense = torch.zeros(self.shape, dtype=self.dtype, device=self.device).flatten(1)
        csr = self.matrix.csr
        columns = torch.from_numpy(_within_group(csr, self.shape, self.groups)).to(self.device)
        rows = torch.from_numpy(csr.rows.astype(np.int64)).to(self.device)
        dense[rows, columns] = self.matrix.values
        return dense.view(self.shape)

    def __repr__(self) -> str:
        form = "x".join(map(str, self.shape))
        return (
            f"SparseFilter({form}, groups={self.groups}, nnz={self.nnz}, "
            f"sparsity={self.sparsity:.1%}, {str(self.dtype).removeprefix('torch.')}, "
            f"{self.device})"
        )

    def __copy__(self) -> SparseFilter:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> SparseFilter:
        return self

    @staticmethod
    def from_dense(w: torch.Tensor, groups: int = 1) -> SparseFilter:
        """From a tensor [M, C/groups, R, S] with zeros, dense or torch.sparse.

        Raises ``ShapeError`` for another rank, an empty kernel, or M that groups do not divide;
        ``DtypeError`` unless float32, float16 or bfloat16.
        """
        check_dtype(w.dtype)
        dense = w.detach() if w.layout is torch.strided else w.detach().to_dense()
        shape = check_filter_shape(tuple(dense.shape), groups)
        return SparseFilter(SparseMatrix.from_dense(_written_out(dense, groups)), shape, groups)

    @staticmethod
    def from_matrix(matrix: SparseMatrix, shape: Shape4, groups: int = 1) -> SparseFilter:
        """From the matrix [M, C*R*S] itself, e.g. out of a file.

        Raises ``ShapeError`` unless the matrix has the extents that ``shape`` and ``groups`` ask
        for, with no entry between the groups.
        """
        M, C, R, S = check_filter_shape(shape, groups)
        if matrix.shape != (M, groups * C * R * S):
            raise ShapeError(
                f"a filter of shape {shape} with groups = {groups} is a matrix of shape "
                f"{(M, groups * C * R * S)} (all channels), got {matrix.shape}"
            )
        columns = _within_group(matrix.csr, (M, C, R, S), groups)
        if len(columns) and (columns.min() < 0 or columns.max() >= C * R * S):
            raise ShapeError(f"the matrix has entries outside the blocks of its {groups} groups")
        return SparseFilter(matrix, (M, C, R, S), groups)


def check_filter_shape(shape: tuple[int, ...], groups: int) -> Shape4:
    """The four extents of a filter, if they and the groups are possible."""
    if len(shape) != 4:
        raise ShapeError(f"W must have rank 4 [M, C/groups, R, S], got shape {shape}")
    M, C, R, S = shape
    if min(C, R, S) < 1:
        raise ShapeError(f"W needs at least one channel, row and column, got shape {shape}")
    if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1 or M % groups:
        raise ShapeError(f"groups must be a divisor of W's {M} filters, got {groups!r}")
    return M, C, R, S


def dense_filter(csr: CSR, shape: Shape4, groups: int) -> Float32:
    """[M, C/groups, R, S] float32 of the written-out matrix."""
    dense = np.zeros((shape[0], int(np.prod(shape[1:]))), dtype=np.float32)
    dense[csr.rows, _within_group(csr, shape, groups)] = csr.values
    return dense.reshape(shape)


def _within_group(csr: CSR, shape: Shape4, groups: int) -> NDArray[np.int64]:
    """[nnz] column of each entry within its own group's channels."""
    M, C, R, S = shape
    group = csr.rows.astype(np.int64) // max(1, M // groups)
    return csr.column_indices - group * (C * R * S)


def _written_out(w: torch.Tensor, groups: int) -> torch.Tensor:
    """[M, C*R*S] with each group's filters at its own channels."""
    M, columns = w.shape[0], w.shape[1:].numel()
    if groups == 1:
        return w.reshape(M, columns)
    out = w.new_zeros(groups, M // groups, groups, columns)
    each = torch.arange(groups, device=w.device)
    out[each, :, each] = w.reshape(groups, M // groups, columns)
    return out.view(M, groups * columns)
