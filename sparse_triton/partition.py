"""How rows are cut into row blocks and a row block's columns into Gy groups."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import RowBlocks, ceil_div
from sparse_triton.pattern import CSR, Int32, Int64

NO_ROW = -1


@dataclass(frozen=True, eq=False)
class Partition:
    """Row blocks of equal size; ``rows[b, i]`` is the row at place i of block b, or ``NO_ROW``.

    Every row stands in exactly one place. Padding places come last in a block.
    """

    rows: Int32

    @property
    def blocks(self) -> int:
        return int(self.rows.shape[0])

    @property
    def block_m(self) -> int:
        return int(self.rows.shape[1])


def partition_rows(csr: CSR, block_m: int, row_blocks: RowBlocks) -> Partition:
    """Cut the M rows into ``ceil(M / block_m)`` row blocks of ``block_m`` places.

    even_rows  natural order
    even_nnz   rows dealt to blocks back and forth from the longest on: blocks weigh the same
    sorted     rows ordered by length, longest first: a block's rows are alike
    """
    M = csr.shape[0]
    blocks = max(1, ceil_div(M, block_m))
    if row_blocks == "even_rows":
        return Partition(_fill(np.arange(M), blocks, block_m))
    by_length = np.argsort(-csr.row_lengths, kind="stable")
    if row_blocks == "sorted":
        return Partition(_fill(by_length, blocks, block_m))
    dealt = np.full((block_m, blocks), NO_ROW, dtype=np.int32)
    dealt.flat[:M] = by_length
    dealt[1::2] = dealt[1::2, ::-1].copy()
    rows = np.ascontiguousarray(dealt.T)
    return Partition(_padding_last(rows))


def _fill(order: NDArray[np.int64], blocks: int, block_m: int) -> Int32:
    rows = np.full(blocks * block_m, NO_ROW, dtype=np.int32)
    rows[: len(order)] = order
    return rows.reshape(blocks, block_m)


def _padding_last(rows: Int32) -> Int32:
    order = np.argsort(rows == NO_ROW, axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1)


@dataclass(frozen=True, eq=False)
class Entries:
    """Non-zeros of one row block in (column, place) order: what its program has to compute."""

    columns: Int32
    places: Int32
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.columns)

    def slice(self, start: int, stop: int) -> Entries:
        return Entries(self.columns[start:stop], self.places[start:stop], self.values[start:stop])


def block_entries(csr: CSR, rows: Int32) -> Entries:
    """The entries of the rows of one block, ``rows`` as in ``Partition.rows[b]``."""
    real = rows[rows != NO_ROW]
    starts = csr.row_offsets[real].astype(np.int64)
    lengths = csr.row_lengths[real]
    places = np.repeat(np.arange(len(real), dtype=np.int32), lengths)
    within = np.arange(len(places)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    at = np.repeat(starts, lengths) + within
    columns = csr.column_indices[at]
    order = np.lexsort((places, columns))
    return Entries(columns[order], places[order], csr.values[at][order])


def group_entries(entries: Entries, Gy: int) -> list[Entries]:
    """Cut a block's entries into ``Gy`` runs of whole columns with even nnz, in column order."""
    cuts = _even_cuts(entries.columns, Gy)
    return [entries.slice(int(a), int(b)) for a, b in itertools.pairwise(cuts)]


def _even_cuts(columns: Int32, Gy: int) -> Int64:
    """[Gy + 1] positions nearest to even shares at which a new column begins."""
    n = len(columns)
    first = np.concatenate(([True], columns[1:] != columns[:-1])) if n else np.zeros(0, dtype=bool)
    begins = np.append(np.flatnonzero(first), n)
    ideal = np.arange(1, Gy) * n / Gy
    right = np.searchsorted(begins, ideal)
    left = np.maximum(right - 1, 0)
    nearer = np.where(ideal - begins[left] < begins[right] - ideal, left, right)
    return np.concatenate(([0], begins[nearer], [n])).astype(np.int64)
