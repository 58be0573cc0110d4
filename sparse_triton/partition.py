"""How rows are cut into row blocks and a row block's columns into Gy groups."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import RowBlocks, ceil_div
from sparse_triton.pattern import CSR, Int32, Int64

NO_ROW = -1
SHORTEST_PIECE = 4  # entries: shorter ones cost more to add up than they save


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


@dataclass(frozen=True, eq=False)
class Places:
    """Where each row stands, for blocks whose places hold equal work rather than one row each.

    block, first  [M] block of each row and its first place there
    span          [M] places it takes, side by side
    blocks        how many
    """

    block: Int64
    first: Int64
    span: Int64
    blocks: int


def one_place_a_row(rows: Int32, M: int) -> Places:
    """The places of a ``Partition.rows``."""
    block, first = np.zeros((2, M), dtype=np.int64)
    at_block, at_place = np.nonzero(rows != NO_ROW)
    numbers = rows[at_block, at_place]
    block[numbers], first[numbers] = at_block, at_place
    return Places(block, first, np.ones(M, dtype=np.int64), len(rows))


def split_rows(csr: CSR, blocks: int, places: int) -> Places:
    """Cut rows into pieces of equal length, as short as ``blocks`` blocks of ``places`` places
    allow; a row takes a place for each piece, all in one block.

    Wide rows go first, each to the block with the most room; the others are dealt over what is
    left, longest first. Where crumbs are left everywhere there is one block more.
    """
    span = _spans(csr.row_lengths, blocks * places, places)
    block, first = np.zeros((2, csr.shape[0]), dtype=np.int64)
    used = [(0, b) for b in range(max(1, ceil_div(int(span.sum()), places)))]
    wide = np.flatnonzero(span > 1)
    for row in wide[np.argsort(-span[wide], kind="stable")].tolist():
        if used[0][0] + int(span[row]) > places:
            heapq.heappush(used, (0, len(used)))
        first[row], block[row] = used[0]
        heapq.heapreplace(used, (used[0][0] + int(span[row]), used[0][1]))
    taken = np.zeros(len(used), dtype=np.int64)
    taken[[b for _, b in used]] = [n for n, _ in used]
    place, at = np.nonzero(np.arange(places)[:, None] >= taken)  # free, place by place
    narrow = np.flatnonzero(span == 1)
    narrow = narrow[np.argsort(-csr.row_lengths[narrow], kind="stable")]
    block[narrow], first[narrow] = at[: len(narrow)], place[: len(narrow)]
    return Places(block, first, span, len(used))


def _spans(lengths: Int64, room: int, most: int) -> Int64:
    """Pieces of each row, up to ``most``: the shortest pieces of which ``room`` are enough."""

    def spans(piece: int) -> Int64:
        return np.clip(-(-lengths // piece), 1, most)

    low, high = SHORTEST_PIECE, max(SHORTEST_PIECE, int(lengths.max(initial=0)))
    while low < high:
        middle = (low + high) // 2
        if spans(middle).sum() <= room:
            high = middle
        else:
            low = middle + 1
    return spans(low)


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
