"""The weight as a bitmap and values: records of 16 rows x 64 columns or 32 x 32.

A record is 128 bytes of bitmap, one 32-bit word a lane, and the values of the bits that are set, up
to a multiple of 16 bytes. A lane has 8 elements of each of the record's 4 tiles, in the order of
the registers of ``mma.m16n8k16``, four and four; values lie in the order (four, lane, element). Bit
8 i + q of a word is element i of the q-th four: a shift and a mask take it apart into bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import ceil_div
from sparse_triton.kernels.decode.bitmap_program import (
    RECORD_ELEMENTS,
    RECORD_HEAD,
    BitmapShape,
)
from sparse_triton.kernels.decode.limits import bitmap_shape
from sparse_triton.kernels.decode.pack import bits16
from sparse_triton.kernels.family import Plan
from sparse_triton.partition import partition_rows
from sparse_triton.pattern import CSR, Int32

UNIT = 16  # bytes that records are counted in
PADDING = 2  # offsets read past the last record's end


@dataclass(frozen=True, eq=False)
class Records:
    """Records along K of each unit of 16 or 32 rows.

    words  [size * 4] int32: the records
    first  [units * strips + 1 + padding] int32: where a record begins, in 16 bytes
    rows   [blocks, block_m] int32: row at each place, -1: none
    """

    words: Int32
    first: Int32
    rows: Int32

    @property
    def stage_bytes(self) -> int:
        """Room for the longest record, a multiple of 128 bytes."""
        return ceil_div(int(np.diff(self.first).max()) * UNIT, 128) * 128


def records_for(plan: Plan) -> Records:
    shape, w_dtype = bitmap_shape(plan.problem, plan.config), plan.problem.w_dtype
    key = ("decode bitmap", shape.block_m, w_dtype)
    return plan.csr.remember(key, lambda: pack_bitmap(plan.csr, shape, w_dtype))


def pack_bitmap(csr: CSR, shape: BitmapShape, w_dtype: str) -> Records:
    from sparse_triton.kernels.decode.fill import count_strips, fill_records

    rows = partition_rows(csr, shape.block_m, "sorted").rows
    strips = ceil_div(csr.shape[1], shape.width)
    units = rows.reshape(-1, shape.rows)
    offsets, columns = csr.row_offsets, csr.column_indices
    entries = count_strips(offsets, columns, units, strips, shape.width).reshape(-1)
    sizes = RECORD_HEAD // UNIT + -(-2 * entries // UNIT)
    first = np.concatenate(([0], np.cumsum(sizes)))
    if first[-1] >= 2**31:
        raise AssertionError("nnz is limited by why_not")
    words = np.zeros(int(first[-1]) * UNIT // 4, dtype=np.int32)
    fill_records(
        offsets, columns, bits16(csr.values, w_dtype), units, strips, first,
        words.view(np.uint32), words.view(np.int16),
    )  # fmt: skip
    first = np.concatenate((first, np.repeat(first[-1], PADDING)))
    return Records(words, first.astype(np.int32), rows)


def place_of(row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of (row, column) of a record in the order (four, lane, element)."""
    four = (row // 16 + column // 32) * 4 + column // 2 % 4
    lane = row % 8 * 4 + column // 8 % 4
    return four * 128 + lane * 4 + row // 8 % 2 * 2 + column % 2


def unpack(records: Records, shape: BitmapShape, unit: int, strips: int) -> NDArray[np.int16]:
    """[rows, strips * width] bits of a unit's values, zero where none is stored: what the format
    means."""
    return np.hstack([_record(records, shape, unit * strips + s) for s in range(strips)])


def _record(records: Records, shape: BitmapShape, at: int) -> NDArray[np.int16]:
    start = int(records.first[at]) * UNIT // 4
    words = records.words[start : start + 32].view(np.uint32)
    fours = words[None, :, None] >> np.arange(8, dtype=np.uint32).reshape(8, 1, 1)
    bits = fours >> np.arange(0, 32, 8, dtype=np.uint32) & 1
    there = bits.reshape(-1).astype(bool)  # (four, lane, element)
    values = records.words.view(np.int16)[2 * start + RECORD_HEAD // 2 :]
    out = np.zeros(RECORD_ELEMENTS, dtype=np.int16)
    out[there] = values[: int(there.sum())]
    row, column = np.indices((shape.rows, shape.width))
    return out[place_of(row, column)]
