"""The weight as family ``decode`` reads it: gaps and values of the rows of a block, interleaved.

A row is a list of entries (gap, value): the gap is the distance to the entry before, 1 or more. A
wider gap than the format holds is bridged by entries of value zero, which a stored weight never
has: the kernel neither loads nor multiplies for them. Eight entries are a step. Rows are ordered by
length, so that the rows of a block have about the same number of steps; within a step all rows of
the block lie side by side, 16 bytes of values each, so that a warp reads whole lines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_triton.kernels.decode.limits import INDEX_BITS, block_rows
from sparse_triton.kernels.decode.steps import STEP
from sparse_triton.kernels.family import Plan
from sparse_triton.partition import NO_ROW, partition_rows
from sparse_triton.pattern import CSR, Int32, Int64

Columns = NDArray[np.int16] | NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Lists:
    """Rows as lists of entries, in steps.

    values      [steps, block_m, 8] int16: bits of the 16-bit values
    gaps        [steps, block_m, gap_bits / 4] int32: gap - 1 of the eight entries, low bits first;
                of 16 bits: their columns
    columns     [steps + 1, block_m] int16 or int32: column of the entry before each step; -1: none
    first_step  [blocks + 1] int32
    rows        [blocks, block_m] int32: row at each place, -1: none
    """

    values: NDArray[np.int16]
    gaps: Int32
    columns: Columns
    first_step: Int32
    rows: Int32


def lists_for(plan: Plan) -> Lists:
    """The lists of a plan; plans that differ in columns and Gy only share them."""
    problem, config = plan.problem, plan.config
    block_m = block_rows(problem, config)
    bits = INDEX_BITS[config.format]
    key = ("decode", block_m, bits, problem.w_dtype)
    return plan.csr.remember(key, lambda: pack(plan.csr, block_m, bits, problem.w_dtype))


def starts_for(plan: Plan) -> Columns:
    """``starts`` of a plan's lists."""
    lists, Gy = lists_for(plan), plan.config.Gy
    key = ("decode starts", id(lists), Gy)
    return plan.csr.remember(key, lambda: starts(lists, Gy))


def pack(csr: CSR, block_m: int, gap_bits: int, w_dtype: str) -> Lists:
    """Each row's entries in column order; a block's lists are as long as the longest."""
    from sparse_triton.kernels.decode.fill import count, fill

    rows = partition_rows(csr, block_m, "sorted").rows
    entries = count(csr.row_offsets, csr.column_indices, 1 << gap_bits)
    longest = np.where(rows == NO_ROW, 0, entries[rows]).max(axis=1)
    first = np.concatenate(([0], np.cumsum(-(-longest // STEP))))
    total = int(first[-1])
    if total * block_m >= 2**31:
        raise AssertionError("nnz is limited by why_not")
    values = np.zeros((total, block_m, STEP), dtype=np.int16)
    gaps = np.zeros((total, block_m, gap_bits // 4), dtype=np.int32)
    columns = np.full((total + 1, block_m), -1, np.int16 if csr.shape[1] <= 2**15 else np.int32)
    fill(
        csr.row_offsets, csr.column_indices, bits16(csr.values, w_dtype), first, rows,
        gap_bits, values, gaps.view(np.uint32), columns,
    )  # fmt: skip
    return Lists(values, gaps, columns, first.astype(np.int32), rows)


def starts(lists: Lists, Gy: int) -> Columns:
    """[blocks, Gy, block_m] column before each piece of a list of S steps; piece g begins
    at step S * g // Gy."""
    steps = np.diff(lists.first_step.astype(np.int64))
    at = lists.first_step[:-1, None] + steps[:, None] * np.arange(Gy) // Gy
    return np.ascontiguousarray(lists.columns[at])


def bits16(values: NDArray[np.float32], w_dtype: str) -> NDArray[np.int16]:
    """The 16-bit patterns of values that are exact in ``w_dtype``."""
    if w_dtype == "float16":
        return values.astype(np.float16).view(np.int16)
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.int16)


def entries_of(lists: Lists, block: int, place: int) -> tuple[Int64, NDArray[np.int16]]:
    """(columns, value bits) of one list's stored entries: what the format means."""
    steps = slice(lists.first_step[block], lists.first_step[block + 1])
    words = lists.gaps[steps, place].view(np.uint32)
    bits = 4 * words.shape[1]
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    gaps = (words[:, :, None] >> shifts) & np.uint32((1 << bits) - 1)
    stored = gaps.reshape(-1).astype(np.int64)
    columns = stored if bits == 16 else np.cumsum(stored + 1) - 1
    values = lists.values[steps, place].reshape(-1)
    return columns[values != 0], values[values != 0]
