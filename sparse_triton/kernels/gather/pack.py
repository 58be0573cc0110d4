"""The weight as family ``gather`` walks it: one list of (column, value) pairs per row and group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import RowBlocks
from sparse_triton.kernels.gather.limits import gather_shape
from sparse_triton.partition import NO_ROW, partition_rows
from sparse_triton.pattern import CSR, Int32, Int64

if TYPE_CHECKING:
    from sparse_triton.plan import Plan

ALIGN_PAIRS = 2  # a 16-byte load fetches two pairs


@dataclass(frozen=True, eq=False)
class Packed:
    """Lists of pairs, each beginning on a 16-byte boundary.

    pairs  [n, 2] int32: column, bits of the float32 value; padded so that a walk may fetch ahead
    runs   [blocks, Gy, block_m, 2] int32: first pair and number of pairs of each list
    rows   [blocks, block_m] int32: row at each place, -1: none
    """

    pairs: Int32
    runs: Int32
    rows: Int32


def packed_for(plan: Plan) -> Packed:
    """The packed weight of a plan; plans that differ in columns only share it."""
    config = plan.config
    block_m = gather_shape(plan.problem, config).block_m
    key = ("gather", block_m, config.Gy, config.row_blocks, config.prefetch)
    return plan.csr.remember(
        key, lambda: pack(plan.csr, block_m, config.Gy, config.row_blocks, 2 * config.prefetch)
    )


def pack(csr: CSR, block_m: int, Gy: int, row_blocks: RowBlocks, ahead: int) -> Packed:
    """Deal each row's entries over Gy lists, so that all lists walk K in step.

    ahead  pairs that may be read past the last list
    """
    rows = partition_rows(csr, block_m, row_blocks).rows
    counts = _counts(csr, rows, Gy)  # [blocks, Gy, block_m]
    room = -(-counts // ALIGN_PAIRS) * ALIGN_PAIRS
    starts = (np.cumsum(room) - room.reshape(-1)).reshape(counts.shape)
    if int(room.sum()) + ahead >= 2**30:
        raise AssertionError("nnz is limited to less than 2**30 by why_not")
    pairs = np.zeros((int(room.sum()) + ahead, 2), dtype=np.int32)
    at = _positions(csr, rows, starts, Gy)
    pairs[at, 0] = csr.column_indices
    pairs[at, 1] = csr.values.view(np.int32)
    return Packed(pairs, np.stack([starts, counts], axis=-1).astype(np.int32), rows)


def _counts(csr: CSR, rows: Int32, Gy: int) -> Int64:
    lengths = np.where(rows == NO_ROW, 0, csr.row_lengths[np.maximum(rows, 0)])
    return np.asarray((lengths[:, None, :] + np.arange(Gy)[::-1][None, :, None]) // Gy)


def _positions(csr: CSR, rows: Int32, starts: Int64, Gy: int) -> NDArray[np.int64]:
    """Where each entry of the matrix goes, in CSR order: entry i of a row to list i mod Gy."""
    block, place = np.nonzero(rows != NO_ROW)
    block_of, place_of = np.zeros((2, csr.shape[0]), dtype=np.int64)
    block_of[rows[block, place]], place_of[rows[block, place]] = block, place
    within = np.arange(csr.nnz) - np.repeat(csr.row_offsets[:-1].astype(np.int64), csr.row_lengths)
    lists = starts[block_of[csr.rows], within % Gy, place_of[csr.rows]]
    return np.asarray(lists + within // Gy)
