"""A sparse weight as few bytes: its values, and its pattern in the smallest of three encodings.

==========  ============================================  ======================================
bitmap      one bit an element, in row order              M * K / 8 bytes
index16     row lengths and 16-bit columns (K <= 65536)   2 nnz + 2 or 4 bytes a row
index32     row lengths and 32-bit columns                4 nnz + 2 or 4 bytes a row
==========  ============================================  ======================================

The values follow in row order, bit for bit. At 90 % zeros and float32 the bitmap is taken: 13 % of
the dense bytes. Reading trusts nothing: whatever is not such a matrix raises ``FileFormatError``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_triton.errors import FileFormatError, SparseTritonError
from sparse_triton.matrix import SparseMatrix

Encoding = Literal["bitmap", "index16", "index32"]
ENCODINGS: tuple[str, ...] = get_args(Encoding)
Parts = dict[str, torch.Tensor]
COLUMN_DTYPES: dict[str, type] = {"index16": np.uint16, "index32": np.uint32}


@dataclass(frozen=True)
class Packing:
    """How a matrix [M, K] with ``nnz`` non-zeros is stored."""

    encoding: Encoding
    M: int
    K: int
    nnz: int

    @property
    def pattern_bytes(self) -> int:
        """Bytes of the pattern; the values come on top."""
        if self.encoding == "bitmap":
            return -(-self.M * self.K // 8)
        return self.nnz * _itemsize(self.encoding) + self.M * _lengths_dtype(self.K)().itemsize


def smallest(M: int, K: int, nnz: int) -> Packing:
    """The packing of fewest bytes; the bitmap on a tie."""
    legal: tuple[Encoding, ...] = ("bitmap", "index16", "index32")
    packings = [Packing(e, M, K, nnz) for e in legal if e != "index16" or K <= 2**16]
    return min(packings, key=lambda p: p.pattern_bytes)


def encode(W: SparseMatrix, packing: Packing | None = None) -> tuple[Packing, Parts]:
    """The matrix as named tensors on the CPU, in the smallest packing unless one is given.

    >>> packing, parts = encode(SparseMatrix.from_dense(torch.eye(4)))
    >>> packing.encoding, sorted(parts), parts["bitmap"].tolist()
    ('bitmap', ['bitmap', 'values'], [132, 33])
    """
    packing = packing or smallest(*W.shape, W.nnz)
    offsets = W.row_offsets.cpu().numpy().astype(np.int64)
    columns = W.column_indices.cpu().numpy()
    if packing.encoding == "bitmap":
        keep = np.zeros(W.shape, dtype=bool)
        keep[np.repeat(np.arange(W.shape[0]), np.diff(offsets)), columns] = True
        pattern = {"bitmap": np.packbits(keep)}
    else:
        pattern = {
            "columns": columns.astype(COLUMN_DTYPES[packing.encoding]),
            "lengths": np.diff(offsets).astype(_lengths_dtype(W.shape[1])),
        }
    parts = {name: torch.from_numpy(a) for name, a in pattern.items()}
    return packing, parts | {"values": W.values.detach().cpu()}


def part_names(packing: Packing) -> tuple[str, ...]:
    return (
        ("bitmap", "values") if packing.encoding == "bitmap" else ("columns", "lengths", "values")
    )


def decode(packing: Packing, parts: Mapping[str, torch.Tensor]) -> SparseMatrix:
    """The matrix, the same to the bit. Raises ``FileFormatError`` for parts that do not fit."""
    _check_parts(packing, parts)
    if packing.encoding == "bitmap":
        offsets, columns = _from_bitmap(packing, parts["bitmap"].numpy())
    else:
        lengths = parts["lengths"].numpy().astype(np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        columns = parts["columns"].numpy().astype(np.int64)
    try:
        W = SparseMatrix.from_csr(offsets, columns, parts["values"], (packing.M, packing.K))
    except SparseTritonError as e:
        raise FileFormatError(f"not a packed {packing.M}x{packing.K} matrix: {e}") from e
    if W.nnz != packing.nnz:
        raise FileFormatError(f"{packing.nnz} non-zeros are promised, {W.nnz} are stored")
    return W


def _from_bitmap(
    packing: Packing, bitmap: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row offsets and columns of the bits that are set."""
    M, K = packing.M, packing.K
    bits = np.unpackbits(bitmap)
    if bits[M * K :].any():
        raise FileFormatError(f"bits are set after the last of {M}x{K} elements")
    keep = bits[: M * K].reshape(M, K)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep.sum(1, dtype=np.int64))])
    return offsets, keep.nonzero()[1]


def _check_parts(packing: Packing, parts: Mapping[str, torch.Tensor]) -> None:
    M, K, nnz = packing.M, packing.K, packing.nnz
    lengths = torch.uint16 if _lengths_dtype(K) is np.uint16 else torch.uint32
    wanted = {
        "bitmap": (torch.uint8, -(-M * K // 8)),
        "columns": (torch.uint16 if packing.encoding == "index16" else torch.uint32, nnz),
        "lengths": (lengths, M),
        "values": (None, nnz),
    }
    for name in part_names(packing):
        dtype, extent = wanted[name]
        found = parts.get(name)
        if found is None:
            raise FileFormatError(f"a {packing.encoding} weight needs {name}; it is missing")
        if tuple(found.shape) != (extent,) or dtype not in (None, found.dtype):
            raise FileFormatError(
                f"{name} must be {dtype or 'values'} [{extent}], got {found.dtype} "
                f"{list(found.shape)}"
            )


def _itemsize(encoding: Encoding) -> int:
    return 2 if encoding == "index16" else 4


def _lengths_dtype(K: int) -> type[np.uint16] | type[np.uint32]:
    """A row has at most K entries."""
    return np.uint16 if K < 2**16 else np.uint32
