"""The weight as family ``gather`` walks it: lists of (column, value) pairs, ``Gy`` for a place.

A row has one place, or as many side by side as its length asks for (``row_blocks="split"``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sparse_triton.config import KernelConfig, RowBlocks, ceil_div
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.gather.limits import gather_shape
from sparse_triton.partition import NO_ROW, Places, one_place_a_row, partition_rows, split_rows
from sparse_triton.pattern import CSR, Int32, Int64
from sparse_triton.problem import SpmmProblem

ALIGN_PAIRS = 2  # a 16-byte load fetches two pairs


@dataclass(frozen=True, eq=False)
class Packed:
    """Lists of pairs, each beginning on a 16-byte boundary.

    pairs  [n, 2] int32: column, bits of the float32 value; padded so that a walk may fetch ahead
    runs   [blocks, Gy, places, 2] int32: first pair and number of pairs of each list
    rows   [blocks, places, 2] int32: row that begins at each place, -1: none; its further places
    """

    pairs: Int32
    runs: Int32
    rows: Int32


class Cut(NamedTuple):
    """How a weight is cut into lists: ``Gy`` for each place of ``blocks`` blocks."""

    blocks: int
    places: int
    Gy: int
    row_blocks: RowBlocks
    ahead: int  # pairs that may be read past the last list


def cut_of(problem: SpmmProblem, config: KernelConfig) -> Cut:
    """Split rows have one list a place, and as many places as else places times lists."""
    block_m, ahead = gather_shape(problem, config).block_m, 2 * config.prefetch
    if config.row_blocks == "split":
        blocks = ceil_div(config.M_blocks * (100 + config.spare), 100)
        return Cut(blocks, block_m * config.Gy, 1, "split", ahead)
    return Cut(config.M_blocks, block_m, config.Gy, config.row_blocks, ahead)


def packed_for(plan: Plan) -> Packed:
    """The packed weight of a plan; plans that differ in columns only share it."""
    cut = cut_of(plan.problem, plan.config)
    return plan.csr.remember(("gather", *cut), lambda: pack(plan.csr, cut))


def pack(csr: CSR, cut: Cut) -> Packed:
    """Deal each row's entries over its lists, so that all lists walk K in step."""
    if cut.row_blocks == "split":
        places = split_rows(csr, cut.blocks, cut.places)
    else:
        rows_of = partition_rows(csr, cut.places, cut.row_blocks).rows
        places = one_place_a_row(rows_of, csr.shape[0])
    rows = np.zeros((places.blocks, cut.places, 2), dtype=np.int32)
    rows[..., 0] = NO_ROW
    rows[places.block, places.first] = np.stack([np.arange(csr.shape[0]), places.span - 1], axis=-1)
    counts = _counts(csr, places, cut)
    room = -(-counts // ALIGN_PAIRS) * ALIGN_PAIRS
    starts = (np.cumsum(room) - room.reshape(-1)).reshape(counts.shape)
    if int(room.sum()) + cut.ahead >= 2**30:
        raise AssertionError("nnz is limited to less than 2**30 by why_not")
    pairs = np.zeros((int(room.sum()) + cut.ahead, 2), dtype=np.int32)
    at = _positions(csr, places, cut.Gy, starts)
    pairs[at, 0] = csr.column_indices
    pairs[at, 1] = csr.values.view(np.int32)
    return Packed(pairs, np.stack([starts, counts], axis=-1).astype(np.int32), rows)


def _counts(csr: CSR, places: Places, cut: Cut) -> Int64:
    """[blocks, Gy, places] pairs of each list."""
    counts = np.zeros((places.blocks, cut.Gy, cut.places), dtype=np.int64)
    for further in range(int(places.span.max(initial=1))):
        there = np.flatnonzero(places.span > further)
        lists = places.span[there] * cut.Gy
        for g in range(cut.Gy):
            share = (csr.row_lengths[there] + lists - 1 - (further * cut.Gy + g)) // lists
            counts[places.block[there], g, places.first[there] + further] = share
    return counts


def _positions(csr: CSR, places: Places, Gy: int, starts: Int64) -> Int64:
    """Where each entry of the matrix goes, in CSR order: entry i of a row to list i mod lists."""
    within = np.arange(csr.nnz) - np.repeat(csr.row_offsets[:-1].astype(np.int64), csr.row_lengths)
    rows = csr.rows
    lists = places.span[rows] * Gy
    mine = within % lists
    first = starts[places.block[rows], mine % Gy, places.first[rows] + mine // Gy]
    return np.asarray(first + within // lists)
