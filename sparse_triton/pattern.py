"""``CSR``: the host side of a weight, as plain NumPy: what analysis and code generation read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from sparse_triton.errors import PatternError

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class CSR:
    """A sparse matrix [M, K] in compressed rows.

    row_offsets     [M + 1] int32, row r owns entries row_offsets[r] .. row_offsets[r + 1]
    column_indices  [nnz] int32, ascending within a row, no duplicates
    values          [nnz] float32 (16-bit weights widen exactly)
    """

    shape: tuple[int, int]
    row_offsets: Int32
    column_indices: Int32
    values: Float32
    _memo: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        """``make()``, once per key: packed forms shared by every problem of this weight."""
        if key not in self._memo:
            self._memo[key] = make()
        return cast(T, self._memo[key])

    @property
    def nnz(self) -> int:
        return len(self.column_indices)

    @cached_property
    def row_lengths(self) -> Int64:
        """[M] non-zeros of each row."""
        return np.diff(self.row_offsets.astype(np.int64))

    @cached_property
    def rows(self) -> Int32:
        """[nnz] row of each entry."""
        return np.repeat(np.arange(self.shape[0], dtype=np.int32), self.row_lengths)

    def to_dense(self) -> Float32:
        """[M, K] in float32: the exact weight."""
        dense = np.zeros(self.shape, dtype=np.float32)
        dense[self.rows, self.column_indices] = self.values
        return dense


def hash_arrays(*arrays: NDArray[Any]) -> str:
    """SHA-256 over dtype, shape and bytes of each array, in order."""
    digest = hashlib.sha256()
    for a in arrays:
        digest.update(f"{a.dtype.str}{a.shape}".encode())
        digest.update(np.ascontiguousarray(a).data)
    return digest.hexdigest()


def validate_csr(
    row_offsets: Int64, column_indices: Int64, n_values: int, shape: tuple[int, int]
) -> None:
    """Raise ``PatternError`` unless the arrays are a CSR matrix of that shape."""
    M, K = shape
    if M < 0 or K < 0 or max(M, K) >= 2**31:
        raise PatternError(f"shape must be two integers in [0, 2**31), got {shape}")
    if row_offsets.shape != (M + 1,):
        raise PatternError(
            f"row_offsets needs M + 1 = {M + 1} entries for shape {shape}, got {row_offsets.shape}"
        )
    nnz = len(column_indices)
    if nnz >= 2**31:
        raise PatternError(f"at most 2**31 - 1 non-zeros are supported, got {nnz}; split the rows")
    if row_offsets[0] != 0 or row_offsets[-1] != nnz:
        raise PatternError(
            "row_offsets must start at 0 and end at nnz = "
            f"{nnz}, got {row_offsets[0]} and {row_offsets[-1]}"
        )
    if n_values != nnz:
        raise PatternError(
            f"one value per column index is needed: {n_values} values, {nnz} indices"
        )
    lengths = np.diff(row_offsets)
    if (lengths < 0).any():
        row = int(np.argmax(lengths < 0))
        raise PatternError(f"row_offsets must not fall, they do after row {row}")
    if nnz:
        _validate_columns(row_offsets, column_indices, K)


def _validate_columns(row_offsets: Int64, column_indices: Int64, K: int) -> None:
    low, high = int(column_indices.min()), int(column_indices.max())
    if low < 0 or high >= K:
        raise PatternError(f"column_indices must lie in [0, {K}), found {low if low < 0 else high}")
    step = np.diff(column_indices)
    inside = np.ones(len(column_indices), dtype=bool)
    starts = row_offsets[:-1]
    inside[starts[starts < len(column_indices)]] = False
    bad = inside[1:] & (step <= 0)
    if bad.any():
        at = int(np.argmax(bad)) + 1
        row = int(np.searchsorted(row_offsets, at, side="right")) - 1
        law = "repeated" if step[at - 1] == 0 else "not ascending"
        raise PatternError(
            f"column_indices are {law} in row {row}: {column_indices[at - 1]}, then "
            f"{column_indices[at]}; sort each row and sum duplicates first (scipy: "
            "sum_duplicates())"
        )
