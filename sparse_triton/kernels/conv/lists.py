"""The weight as the gather walk reads it: a list of (cell, value) for each row, chunk and group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparse_triton.kernels.conv.shape import Shape, gather_shape
from sparse_triton.kernels.conv.tile import Cells, cells_of
from sparse_triton.kernels.conv.walk import SMALLEST_TURN
from sparse_triton.kernels.family import Plan
from sparse_triton.partition import NO_ROW, partition_rows
from sparse_triton.pattern import CSR, Int32, Int64

if TYPE_CHECKING:
    from sparse_triton.problem import ConvProblem


@dataclass(frozen=True, eq=False)
class Lists:
    """pairs  [n, 2] int32: byte offset from a lane's point of the tile, bits of the float32 value;
           zeros of the tile times zero where a list is filled up to whole smallest turns
    runs   [blocks, K_blocks * chunks, Gy, block_m, 2] int32: first pair and length of each list
    rows   [blocks, block_m] int32: row at each place, -1: none
    """

    pairs: Int32
    runs: Int32
    rows: Int32


def lists_for(plan: Plan[ConvProblem]) -> Lists:
    """The packed weight of a plan, the lists of a program and chunk side by side."""
    shape = gather_shape(plan.problem, plan.config)
    rows = partition_rows(plan.csr, shape.block_m, plan.config.row_blocks).rows
    cells = cells_of(plan.problem, shape.tile)
    which = _list_of_entry(plan.csr, rows, cells, shape)
    lists = (rows.shape[0], shape.K_blocks * shape.tile.chunks, shape.Gy, shape.block_m)
    counts = np.bincount(which, minlength=int(np.prod(lists)))
    room = -(-counts // SMALLEST_TURN) * SMALLEST_TURN
    starts = np.cumsum(room) - room
    order = np.argsort(which, kind="stable")
    first = np.repeat(np.cumsum(counts) - counts, counts)
    at = np.repeat(starts, counts) + np.arange(len(order)) - first
    pairs = np.tile(np.array([4 * shape.tile.zeros, 0], dtype=np.int32), (int(room.sum()), 1))
    pairs[at, 0] = 4 * cells.cell[plan.csr.column_indices][order]
    pairs[at, 1] = plan.csr.values.view(np.int32)[order]
    runs = np.stack([starts, room], axis=-1).astype(np.int32)
    return Lists(pairs, runs.reshape(*lists, 2), rows)


def _list_of_entry(csr: CSR, rows: NDArray[np.int32], cells: Cells, shape: Shape) -> Int64:
    """[nnz] number of the list that each entry goes to: a row's entries of a chunk are dealt over
    the groups in turn."""
    chunks = shape.K_blocks * shape.tile.chunks
    block, place = np.nonzero(rows != NO_ROW)
    block_of, place_of = np.zeros((2, csr.shape[0]), dtype=np.int64)
    block_of[rows[block, place]], place_of[rows[block, place]] = block, place
    chunk = cells.chunk[csr.column_indices].astype(np.int64)
    run = csr.rows * np.int64(chunks) + chunk  # ascending: columns ascend within a row
    lengths = np.bincount(run, minlength=csr.shape[0] * chunks)
    within = np.arange(csr.nnz) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    group = within % shape.Gy
    row = csr.rows
    return np.asarray(
        ((block_of[row] * chunks + chunk) * shape.Gy + group) * shape.block_m + place_of[row]
    )
