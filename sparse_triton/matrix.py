"""``SparseMatrix``: a pruned weight, taken from whatever form the user has it in."""

from __future__ import annotations

import operator
import weakref
from functools import cached_property
from os import PathLike
from typing import Any, Literal

import numpy as np
import torch

from sparse_triton import files
from sparse_triton.device import refuse_capture
from sparse_triton.errors import DtypeError, InputError, PatternError, ShapeError
from sparse_triton.pattern import CSR, hash_arrays, validate_csr

# Every matrix that is alive, so that a traced call can name its weight by id.
LIVE: weakref.WeakValueDictionary[tuple[str, torch.device], SparseMatrix] = (
    weakref.WeakValueDictionary()
)

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class SparseMatrix:
    """A weight W [M, K] with exactly its non-zeros, as CSR tensors on one device.

    Explicit zeros and -0.0 are dropped; NaN and Inf are kept; no threshold is ever applied. Values
    are float32, float16 or bfloat16. The matrix is immutable: its hashes name it in plans and
    stores. Build one with a ``from_*`` method; the constructor trusts its arguments.

    >>> W = SparseMatrix.from_dense(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
    >>> W.shape, W.nnz, W.sparsity
    ((2, 2), 1, 0.75)
    """

    def __init__(
        self,
        row_offsets: torch.Tensor,
        column_indices: torch.Tensor,
        values: torch.Tensor,
        shape: tuple[int, int],
        hashes: tuple[str, str] | None = None,
    ) -> None:
        self.shape = shape
        self.row_offsets = row_offsets
        self.column_indices = column_indices
        self.values = values
        self.pattern_hash, self.value_hash = hashes or self._hash()
        self.weight_id = f"{shape[0]}x{shape[1]}-{self.pattern_hash[:16]}-{self.value_hash[:16]}"
        # Equal matrices are one: they share the first one's tensors and launches and keep it alive.
        first = LIVE.setdefault((self.weight_id, self.device), self)
        self._first: SparseMatrix | None = None if first is self else first
        self.launchers: dict[Any, Any] = {}  # the executor's: problem -> ready launch
        self.retired: list[dict[Any, Any]] = []
        self.built: dict[Any, Any] = {}  # (problem, config) -> kernel compiled ahead of its call
        if self._first is not None:
            self.launchers, self.retired = first.launchers, first.retired
            self.built = first.built
            self.row_offsets, self.column_indices = first.row_offsets, first.column_indices
            self.values = first.values

    # -- facts -------------------------------------------------------------------------------

    @property
    def nnz(self) -> int:
        return int(self.column_indices.shape[0])

    @property
    def sparsity(self) -> float:
        """Share of zeros, ``1 - nnz / (M * K)``; 0.0 for a matrix without elements."""
        elements = self.shape[0] * self.shape[1]
        return 1.0 - self.nnz / elements if elements else 0.0

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    @cached_property
    def csr(self) -> CSR:
        """The matrix on the host, values widened to float32."""
        if self._first is not None:
            return self._first.csr
        return CSR(
            self.shape,
            self.row_offsets.cpu().numpy(),
            self.column_indices.cpu().numpy(),
            self.values.float().cpu().numpy(),
        )

    @cached_property
    def transposed(self) -> SparseMatrix:
        """W^T [K, M]: what the gradient with respect to X multiplies by."""
        if self._first is not None:
            return self._first.transposed
        refuse_capture(self.device, "the gradient through this W was never computed before")
        rows = _rows_of(self.row_offsets, self.nnz)
        order = torch.argsort(self.column_indices, stable=True)
        return _from_sorted_coo(
            self.column_indices[order],
            rows[order],
            self.values[order],
            (self.shape[1], self.shape[0]),
        )

    def _hash(self) -> tuple[str, str]:
        pattern = hash_arrays(
            np.asarray(self.shape, dtype=np.int64),
            self.row_offsets.cpu().numpy(),
            self.column_indices.cpu().numpy(),
        )
        bits = self.values.view(torch.int16 if self.values.element_size() == 2 else torch.int32)
        return pattern, hash_arrays(
            np.frombuffer(str(self.dtype).encode(), np.uint8), bits.cpu().numpy()
        )

    def __repr__(self) -> str:
        M, K = self.shape
        return (
            f"SparseMatrix({M}x{K}, nnz={self.nnz}, sparsity={self.sparsity:.1%}, "
            f"{str(self.dtype).removeprefix('torch.')}, {self.device})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.row_offsets, self.column_indices, self.values)
        return SparseMatrix, (*parts, self.shape, (self.pattern_hash, self.value_hash))

    def __copy__(self) -> SparseMatrix:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseMatrix:
        return self

    # -- conversions -------------------------------------------------------------------------

    def to(self, device: torch.device | str) -> SparseMatrix:
        """The same matrix on ``device``; itself if it is there already."""
        where = torch.empty(0, device=device).device
        if where == self.device:
            return self
        with torch.inference_mode(False):
            offsets, columns = self.row_offsets.to(where), self.column_indices.to(where)
            values = self.values.to(where)
        hashes = (self.pattern_hash, self.value_hash)
        moved = SparseMatrix(offsets, columns, values, self.shape, hashes)
        if "csr" in self.__dict__:
            moved.__dict__["csr"] = self.csr
        return moved

    def to_dense(self) -> torch.Tensor:
        """[M, K] tensor of the matrix's dtype on its device."""
        dense = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        dense[_rows_of(self.row_offsets, self.nnz), self.column_indices.long()] = self.values
        return dense

    @staticmethod
    def from_dense(w: torch.Tensor | np.ndarray[Any, Any]) -> SparseMatrix:
        """From a dense [M, K] tensor or array with zeros.

        Raises ``ShapeError`` for another rank, ``DtypeError`` unless float32, float16 or bfloat16.
        """
        t = _from_array(w) if isinstance(w, np.ndarray) else w
        if not isinstance(t, torch.Tensor):
            raise InputError(f"W must be a tensor or an array, got {type(w).__name__}")
        _check_weight(t)
        t = t.detach()
        rows, columns = (t != 0).nonzero(as_tuple=True)
        return _from_sorted_coo(rows, columns, t[rows, columns], (t.shape[0], t.shape[1]))

    @staticmethod
    def from_torch(t: torch.Tensor) -> SparseMatrix:
        """From a torch tensor of any layout: strided, COO, CSR, CSC, BSR or BSC.

        Duplicate COO entries are summed, as torch defines them.
        """
        if t.layout is torch.strided:
            return SparseMatrix.from_dense(t)
        _check_weight(t)
        t = t.detach()
        if t.layout is torch.sparse_csr:
            return SparseMatrix.from_csr(
                t.crow_indices(), t.col_indices(), t.values(), (t.shape[0], t.shape[1])
            )
        coo = t if t.layout is torch.sparse_coo else t.to_sparse_coo()
        if coo.sparse_dim() != 2:
            raise ShapeError(
                f"a sparse W needs 2 sparse dimensions, got {coo.sparse_dim()} sparse and "
                f"{coo.dense_dim()} dense; use W.to_dense()"
            )
        coo = coo.coalesce()
        rows, columns = coo.indices()
        values = coo.values()
        keep = values != 0
        return _from_sorted_coo(rows[keep], columns[keep], values[keep], (t.shape[0], t.shape[1]))

    @staticmethod
    def from_scipy(a: Any) -> SparseMatrix:
        """From any two-dimensional scipy.sparse matrix or array; duplicates are summed."""
        if len(a.shape) != 2:
            raise ShapeError(f"W must have rank 2, got shape {a.shape}")
        csr = a.tocsr(copy=True)
        csr.sum_duplicates()
        return SparseMatrix.from_csr(csr.indptr, csr.indices, csr.data, csr.shape)

    @staticmethod
    def from_csr(
        row_offsets: Any, column_indices: Any, values: Any, shape: tuple[int, int]
    ) -> SparseMatrix:
        """From raw CSR arrays or tensors: validated, then explicit zeros are dropped.

        Raises ``PatternError`` for offsets or columns that are out of range, out of order or
        repeated.
        """
        v = torch.as_tensor(values).detach()
        check_dtype(v.dtype)
        if v.ndim != 1:
            raise PatternError(f"values must have rank 1, got shape {tuple(v.shape)}")
        M, K = _extents(shape)
        offsets, columns = (
            _integers(t, name)
            for t, name in ((row_offsets, "row_offsets"), (column_indices, "column_indices"))
        )
        validate_csr(offsets.cpu().numpy(), columns.cpu().numpy(), v.numel(), (M, K))
        rows = _rows_of(offsets.to(v.device), v.numel())
        keep = v != 0
        return _from_sorted_coo(rows[keep], columns.to(v.device)[keep], v[keep], (M, K))

    @staticmethod
    def from_smtx(
        path: str | PathLike[str],
        values: Literal["normal", "ones"] = "normal",
        seed: int = 0,
    ) -> SparseMatrix:
        """From a DLMC ``.smtx`` pattern, with standard normal values (seeded) or ones.

        Raises ``FileFormatError`` for a file that is not one.
        """
        pattern = files.read_smtx(path)
        if values not in ("normal", "ones"):
            raise InputError(f'values must be "normal" or "ones", got {values!r}')
        nnz = len(pattern.column_indices)
        drawn = np.random.default_rng(seed).standard_normal(nnz, dtype=np.float32)
        drawn[drawn == 0] = 1.0  # a pattern's entry must stay an entry
        return SparseMatrix.from_csr(
            pattern.row_offsets,
            pattern.column_indices,
            drawn if values == "normal" else np.ones(nnz, dtype=np.float32),
            pattern.shape,
        )

    @staticmethod
    def from_npz(path: str | PathLike[str]) -> SparseMatrix:
        """From an ``.npz`` with ``shape``, ``row_offsets``, ``column_indices`` and ``values``."""
        return SparseMatrix.from_csr(*files.read_npz(path))


def _check_weight(t: torch.Tensor) -> None:
    if t.ndim != 2:
        raise ShapeError(f"W must have rank 2 [M, K], got shape {tuple(t.shape)}")
    check_dtype(t.dtype)


def check_dtype(dtype: torch.dtype) -> None:
    """Raise ``DtypeError`` unless a weight can have this dtype."""
    if dtype not in FLOAT_DTYPES:
        raise DtypeError(
            f"W must be float32, float16 or bfloat16, got {dtype}; use W.float() for a tensor, "
            "W.astype('float32') for an array"
        )


def _from_array(w: np.ndarray[Any, Any]) -> torch.Tensor:
    try:
        return torch.from_numpy(np.require(w, requirements=("C", "W")))
    except TypeError as e:
        raise DtypeError(f"W must hold float32 or float16, got {w.dtype}: {e}") from e


def _extents(shape: Any) -> tuple[int, int]:
    try:
        M, K = (operator.index(n) for n in shape)
    except (TypeError, ValueError):
        raise PatternError(f"shape must be two integers in [0, 2**31), got {shape!r}") from None
    return M, K


def _integers(t: Any, name: str) -> torch.Tensor:
    array = torch.as_tensor(t).detach()
    whole = not (array.dtype.is_floating_point or array.dtype.is_complex)
    if array.numel() and (not whole or array.dtype is torch.bool):  # an empty list has no dtype
        raise PatternError(f"{name} must be integers, got {array.dtype}")
    if array.ndim != 1:
        raise PatternError(f"{name} must have rank 1, got shape {tuple(array.shape)}")
    return array.to(torch.int64)


def _rows_of(row_offsets: torch.Tensor, nnz: int) -> torch.Tensor:
    """[nnz] int64 row of each entry."""
    lengths = row_offsets[1:].long() - row_offsets[:-1].long()
    every = torch.arange(len(lengths), device=row_offsets.device)
    return torch.repeat_interleave(every, lengths, output_size=nnz)


def _from_sorted_coo(
    rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]
) -> SparseMatrix:
    if max(shape) >= 2**31 or len(rows) >= 2**31:
        raise ShapeError(f"extents and nnz must be below 2**31, got {shape} with {len(rows)}")
    with torch.inference_mode(False):  # plain tensors: usable in and out of inference mode
        return _assemble(rows, columns, values, shape)


def _assemble(
    rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]
) -> SparseMatrix:
    every_row = torch.arange(shape[0] + 1, device=rows.device)
    offsets = torch.searchsorted(rows.long(), every_row).to(torch.int32)
    return SparseMatrix(offsets, columns.to(torch.int32), values.clone(), shape)
