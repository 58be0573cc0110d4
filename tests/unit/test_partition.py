"""Cuts: every row and every entry in exactly one place, evenly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_triton.matrix import SparseMatrix
from sparse_triton.partition import NO_ROW, block_entries, group_entries, partition_rows
from tests.strategies import matrices
from tests.support import weight

WAYS = st.sampled_from(["even_rows", "even_nnz", "sorted"])


@given(W=matrices(most=20), block_m=st.integers(1, 25), way=WAYS)
def test_each_row_once_and_padding_last(W: SparseMatrix, block_m: int, way: str) -> None:
    rows = partition_rows(W.csr, block_m, way).rows  # type: ignore[arg-type]
    assert rows.shape == (-(-W.shape[0] // block_m), block_m)
    assert sorted(rows[rows != NO_ROW].tolist()) == list(range(W.shape[0]))
    for block in rows:
        real = int((block != NO_ROW).sum())
        assert (block[:real] != NO_ROW).all()


def test_orders() -> None:
    csr = weight("ragged", 10, 64, 0.2).csr
    assert partition_rows(csr, 4, "even_rows").rows.tolist() == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, NO_ROW, NO_ROW]
    ]  # fmt: skip
    by_length = partition_rows(csr, 4, "sorted").rows.ravel()[:10]
    assert (np.diff(csr.row_lengths[by_length]) <= 0).all()


@given(W=matrices(most=30), block_m=st.integers(1, 8))
def test_even_nnz_blocks_weigh_the_same(W: SparseMatrix, block_m: int) -> None:
    """Dealt back and forth, two blocks differ by at most the longest row."""
    rows = partition_rows(W.csr, block_m, "even_nnz").rows
    weights = [int(W.csr.row_lengths[b[b != NO_ROW]].sum()) for b in rows]
    assert max(weights) - min(weights) <= W.csr.row_lengths.max()


@given(W=matrices(most=16), block_m=st.integers(1, 16), Gy=st.sampled_from([1, 2, 3, 4, 8, 16, 64]))
def test_groups_cut_at_columns_and_evenly(W: SparseMatrix, block_m: int, Gy: int) -> None:
    csr = W.csr
    for rows in partition_rows(csr, block_m, "even_nnz").rows:
        entries = block_entries(csr, rows)
        groups = group_entries(entries, Gy)
        assert len(groups) == Gy
        assert sum(len(g) for g in groups) == len(entries)
        columns = [set(g.columns.tolist()) for g in groups]
        assert sum(len(c) for c in columns) == len(set().union(*columns)), "a column in two groups"
        if len(entries):
            heaviest = int(np.bincount(entries.columns).max())
            cuts = np.cumsum([len(g) for g in groups])
            ideal = np.arange(1, Gy + 1) * len(entries) / Gy
            assert np.abs(cuts - ideal).max() <= heaviest / 2, "the nearest column begins there"
        for name in ("columns", "places", "values"):
            joined = np.concatenate([getattr(g, name) for g in groups])
            assert np.array_equal(joined, getattr(entries, name), equal_nan=True)


@given(W=matrices(most=16), block_m=st.integers(1, 16))
def test_entries_are_the_rows_of_the_block(W: SparseMatrix, block_m: int) -> None:
    dense = W.csr.to_dense()
    for rows in partition_rows(W.csr, block_m, "sorted").rows:
        entries = block_entries(W.csr, rows)
        order = list(zip(entries.columns.tolist(), entries.places.tolist(), strict=True))
        assert order == sorted(set(order))
        rebuilt = np.zeros((block_m, W.shape[1]), dtype=np.float32)
        rebuilt[entries.places, entries.columns] = entries.values
        want = np.where((rows != NO_ROW)[:, None], dense[np.maximum(rows, 0)], 0)
        assert np.array_equal(rebuilt, want)


@pytest.mark.parametrize("Gy", [2, 5, 100])
def test_more_groups_than_columns(Gy: int) -> None:
    W = weight("one", 3, 4)
    groups = group_entries(block_entries(W.csr, np.arange(3, dtype=np.int32)), Gy)
    assert sorted(len(g) for g in groups) == [0] * (Gy - 1) + [1]


def test_no_rows_at_all() -> None:
    import torch

    W = SparseMatrix.from_dense(torch.zeros(0, 3))
    rows = partition_rows(W.csr, 4, "even_nnz").rows
    assert rows.tolist() == [[NO_ROW] * 4]
    assert len(block_entries(W.csr, rows[0])) == 0
