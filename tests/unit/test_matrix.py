"""``SparseMatrix``: every way in gives the same matrix, and only zeros are dropped."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given

from sparse_triton import SparseMatrix, errors
from sparse_triton.matrix import LIVE
from tests.strategies import dense_weights

Make = Callable[[torch.Tensor], SparseMatrix]


def coo_uncoalesced(w: torch.Tensor) -> SparseMatrix:
    """Every entry as two halves, in reverse order."""
    at = w.nonzero().flip(0)
    values = w[at[:, 0], at[:, 1]].double() / 2
    if not torch.equal((values.to(w.dtype).double() * 2).to(w.dtype), w[at[:, 0], at[:, 1]]):
        return SparseMatrix.from_torch(w.to_sparse_coo())  # halves are not exact: subnormal
    t = torch.sparse_coo_tensor(
        torch.cat([at, at]).T, torch.cat([values, values]).to(w.dtype), w.shape
    )
    assert len(at) == 0 or not t.is_coalesced()
    return SparseMatrix.from_torch(t)


def blocked(w: torch.Tensor, to: str) -> SparseMatrix:
    M, K = w.shape
    block = (2 if M % 2 == 0 else 1, 3 if K % 3 == 0 else 1)
    return SparseMatrix.from_torch(getattr(w, to)(block))


def raw_csr(w: torch.Tensor) -> SparseMatrix:
    at = w.nonzero()
    offsets = torch.searchsorted(at[:, 0].contiguous(), torch.arange(w.shape[0] + 1))
    return SparseMatrix.from_csr(
        offsets.tolist(), at[:, 1].numpy().astype(np.uint16), w[at[:, 0], at[:, 1]], w.shape
    )


SOURCES: dict[str, Make] = {
    "dense view": lambda w: SparseMatrix.from_dense(
        torch.cat([w, w + 1], dim=1)[:, : w.shape[1]].T.contiguous().T
    ),
    "coo": lambda w: SparseMatrix.from_torch(w.to_sparse_coo()),
    "coo, uncoalesced": coo_uncoalesced,
    "csr": lambda w: SparseMatrix.from_torch(w.to_sparse_csr()),
    "csc": lambda w: SparseMatrix.from_torch(w.to_sparse_csc()),
    "bsr": lambda w: blocked(w, "to_sparse_bsr"),
    "bsc": lambda w: blocked(w, "to_sparse_bsc"),
    "raw csr": raw_csr,
    "parameter": lambda w: SparseMatrix.from_torch(torch.nn.Parameter(w)),
    "strided": SparseMatrix.from_torch,
}


@pytest.mark.filterwarnings("ignore:Sparse (BSR|CSC|BSC|CSR|invariant)")
@pytest.mark.parametrize("source", SOURCES)
@given(w=dense_weights())
def test_every_source_gives_the_same_matrix(source: str, w: torch.Tensor) -> None:
    want, got = SparseMatrix.from_dense(w), SOURCES[source](w)
    assert got.dtype == w.dtype
    assert got.shape == tuple(w.shape)
    assert got.nnz == int((w != 0).sum())
    assert torch.equal(got.to_dense(), w)
    assert (got.pattern_hash, got.value_hash) == (want.pattern_hash, want.value_hash)
    assert got.row_offsets.dtype == got.column_indices.dtype == torch.int32
    assert torch.equal(got.row_offsets, want.row_offsets)
    assert torch.equal(got.column_indices, want.column_indices)


@given(w=dense_weights(dtypes=(torch.float32,)))
def test_arrays_and_scipy(w: torch.Tensor) -> None:
    want, a = SparseMatrix.from_dense(w), w.numpy()
    frozen = a.copy()
    frozen.flags.writeable = False
    sources = [SparseMatrix.from_dense(x) for x in (a, np.asfortranarray(a), frozen)]
    for make in ("csr_array", "csc_array", "coo_matrix", "lil_matrix", "dok_array", "dia_matrix"):
        sources.append(SparseMatrix.from_scipy(getattr(scipy.sparse, make)(a)))
    for got in sources:
        assert torch.equal(got.to_dense(), w)
        assert got.weight_id == want.weight_id


@given(w=dense_weights())
def test_host_copy_and_transpose(w: torch.Tensor) -> None:
    W = SparseMatrix.from_dense(w)
    assert np.array_equal(W.csr.to_dense(), w.float().numpy())
    assert np.array_equal(W.csr.row_lengths, (w != 0).sum(1).numpy())
    assert torch.equal(W.transposed.to_dense(), w.T)
    assert W.transposed.pattern_hash == SparseMatrix.from_dense(w.T).pattern_hash
    assert W.transposed.transposed.weight_id == W.weight_id


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (3, 4)])
def test_nothing_stored(shape: tuple[int, int]) -> None:
    W = SparseMatrix.from_dense(torch.zeros(shape))
    assert (W.nnz, W.shape) == (0, shape)
    assert W.sparsity == (1.0 if 0 not in shape else 0.0)
    assert torch.equal(W.to_dense(), torch.zeros(shape))
    assert W.transposed.shape == shape[::-1]


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_zeros_of_both_signs_are_dropped_and_nothing_else() -> None:
    tiny, nan, inf = 2.0**-149, float("nan"), float("inf")
    w = torch.tensor([[0.0, -0.0, tiny, nan], [-tiny, inf, -inf, 1.0]])
    W = SparseMatrix.from_dense(w)
    assert W.nnz == 6
    assert W.column_indices.tolist() == [2, 3, 0, 1, 2, 3]
    csr = SparseMatrix.from_csr([0, 4, 8], [0, 1, 2, 3] * 2, w.flatten(), (2, 4))
    assert csr.weight_id == W.weight_id
    coo = torch.sparse_coo_tensor([[0, 0, 1], [1, 1, 0]], [2.0, -2.0, -0.0], (2, 2))
    assert SparseMatrix.from_torch(coo).nnz == 0


def test_hashes_tell_matrices_apart() -> None:
    w = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    W = SparseMatrix.from_dense(w)
    other_value = SparseMatrix.from_dense(torch.tensor([[0.0, 2.0], [-3.0, 0.0]]))
    assert other_value.pattern_hash == W.pattern_hash
    assert other_value.value_hash != W.value_hash
    for other in (
        w.flip(0),
        torch.cat([w, torch.zeros(1, 2)]),
        torch.cat([w, torch.zeros(2, 1)], 1),
    ):
        assert SparseMatrix.from_dense(other).pattern_hash != W.pattern_hash
    half, bfloat = SparseMatrix.from_dense(w.half()), SparseMatrix.from_dense(w.bfloat16())
    assert len({W.value_hash, half.value_hash, bfloat.value_hash}) == 3
    assert half.pattern_hash == W.pattern_hash


def test_equal_matrices_share_launches_whichever_dies_first() -> None:
    w = torch.tensor([[0.0, 41.0], [3.0, 0.0]])
    first, second = SparseMatrix.from_dense(w), SparseMatrix.from_dense(w.clone())
    first.launchers["key"] = "launch"
    key = (first.weight_id, first.device)
    del first
    gc.collect()
    assert second.launchers == {"key": "launch"}
    third = SparseMatrix.from_dense(w)
    del second
    gc.collect()
    assert LIVE[key].launchers is third.launchers
    del third
    gc.collect()
    assert key not in LIVE


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda W: pickle.loads(pickle.dumps(W))]
)
def test_copies(clone: Callable[[SparseMatrix], SparseMatrix]) -> None:
    W = SparseMatrix.from_dense(torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
    W.launchers["key"] = lambda: None  # a launch is not something to pickle
    other = clone(W)
    assert other.weight_id == W.weight_id
    assert torch.equal(other.to_dense(), W.to_dense())


def test_inference_mode_leaves_plain_tensors() -> None:
    with torch.inference_mode():
        W = SparseMatrix.from_dense(torch.tensor([[0.0, 2.0]]))
        moved = W.to("meta")
    for t in (W.values, W.row_offsets, W.column_indices, W.transposed.values, moved.values):
        assert not t.is_inference()
    assert W.to("cpu") is W


def test_the_weight_is_not_aliased() -> None:
    values = torch.tensor([1.0, 2.0])
    W = SparseMatrix.from_csr([0, 2], [0, 1], values, (1, 2))
    values.zero_()
    assert W.values.tolist() == [1.0, 2.0]


def test_repr_is_short() -> None:
    W = SparseMatrix.from_dense(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
    assert repr(W) == "SparseMatrix(2x2, nnz=1, sparsity=75.0%, float32, cpu)"


def test_smtx_and_npz(tmp_path: Path) -> None:
    smtx = tmp_path / "w.smtx"
    smtx.write_text("2, 3, 3\n0 2 3 \n0 2 1 \n")
    W = SparseMatrix.from_smtx(smtx, values="ones")
    assert W.to_dense().tolist() == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    normal = SparseMatrix.from_smtx(smtx, seed=1)
    assert normal.pattern_hash == W.pattern_hash
    assert normal.weight_id == SparseMatrix.from_smtx(smtx, seed=1).weight_id
    assert normal.value_hash != SparseMatrix.from_smtx(smtx, seed=2).value_hash
    npz = tmp_path / "w.npz"
    np.savez(
        npz, row_offsets=W.row_offsets, column_indices=W.column_indices,
        values=W.values, shape=np.array(W.shape),
    )  # fmt: skip
    assert SparseMatrix.from_npz(npz).weight_id == W.weight_id
    with pytest.raises(errors.InputError, match='values must be "normal" or "ones"'):
        SparseMatrix.from_smtx(smtx, values="zeros")  # type: ignore[arg-type]


DENSE_MISTAKES = [
    (torch.zeros(3), errors.ShapeError, r"W must have rank 2 \[M, K\], got shape \(3,\)"),
    (torch.zeros(2, 2, dtype=torch.float64), errors.DtypeError, "got torch.float64; use W.float"),
    (torch.zeros(2, 2, dtype=torch.int32), errors.DtypeError, "got torch.int32"),
    (np.zeros((2, 2)), errors.DtypeError, r"W.astype\('float32'\)"),
    (np.zeros((2, 2), dtype=object), errors.DtypeError, "got object"),
    ([[1.0]], errors.InputError, "W must be a tensor or an array, got list"),
]


@pytest.mark.parametrize(("w", "error", "words"), DENSE_MISTAKES)
def test_dense_mistakes(w: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        SparseMatrix.from_dense(w)  # type: ignore[arg-type]


def test_sparse_mistakes() -> None:
    hybrid = torch.sparse_coo_tensor([[0, 1]], torch.ones(2, 3), (2, 3))
    with pytest.raises(errors.ShapeError, match="needs 2 sparse dimensions, got 1 sparse and 1"):
        SparseMatrix.from_torch(hybrid)
    with pytest.raises(errors.DtypeError, match=r"got torch\.float64"):
        SparseMatrix.from_scipy(scipy.sparse.csr_array(np.eye(2)))
    with pytest.raises(errors.ShapeError, match="rank 2"):
        SparseMatrix.from_scipy(scipy.sparse.coo_array(np.ones(3, dtype=np.float32)))


CSR_MISTAKES = [
    ([0, 1], [0], [1.0], (2, 2), r"row_offsets needs M \+ 1 = 3 entries"),
    ([1, 1, 1], [0], [1.0], (2, 2), "must start at 0 and end at nnz = 1, got 1 and 1"),
    ([0, 1, 2], [0], [1.0], (2, 2), "end at nnz = 1, got 0 and 2"),
    ([0, 2, 1, 2], [0, 1], [1.0, 1.0], (3, 2), "must not fall, they do after row 1"),
    ([0, 1, 2], [0, 1], [1.0], (2, 2), "one value per column index is needed: 1 values, 2 ind"),
    ([0, 1, 2], [0, 2], [1.0, 1.0], (2, 2), r"must lie in \[0, 2\), found 2"),
    ([0, 1, 2], [-1, 1], [1.0, 1.0], (2, 2), r"must lie in \[0, 2\), found -1"),
    ([0, 0, 2], [1, 0], [1.0, 1.0], (2, 2), "not ascending in row 1: 1, then 0; sort each row"),
    ([0, 2, 2], [1, 1], [1.0, 1.0], (2, 2), "repeated in row 0: 1, then 1"),
    ([0, 1], [0.5], [1.0], (1, 2), "column_indices must be integers, got torch.float32"),
    ([[0, 1]], [0], [1.0], (1, 2), "row_offsets must have rank 1"),
    ([0, 1], [0], [[1.0]], (1, 2), r"values must have rank 1, got shape \(1, 1\)"),
    ([0], [], [], (-1, 2), r"two integers in \[0, 2\*\*31\)"),
    ([0, 0], [], [], (1, 2**31), r"two integers in \[0, 2\*\*31\)"),
    ([0, 0], [], [], (1, float("inf")), r"two integers in \[0, 2\*\*31\), got \(1, inf\)"),
    ([0, 0], [], [], (1, float("nan")), "two integers"),
    ([0, 0], [], [], (1, 2, 3), "two integers"),
]


@pytest.mark.parametrize(("offsets", "columns", "values", "shape", "words"), CSR_MISTAKES)
def test_csr_mistakes(
    offsets: object, columns: object, values: list[float], shape: tuple[int, int], words: str
) -> None:
    with pytest.raises(errors.PatternError, match=words):
        SparseMatrix.from_csr(offsets, columns, torch.tensor(values), shape)


def test_csr_of_the_wrong_dtype() -> None:
    with pytest.raises(errors.DtypeError, match=r"got torch\.int64"):
        SparseMatrix.from_csr([0, 1], [0], [1], (1, 1))
