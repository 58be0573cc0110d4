"""The loops of ``pack`` in numba: two passes over the entries, rows in parallel."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(nogil=True, cache=True, parallel=True)
def count(row_offsets, column_indices, most):  # type: ignore[no-untyped-def]
    """[M] entries of each list, with those that bridge gaps wider than ``most``."""
    M = len(row_offsets) - 1
    out = np.zeros(M, dtype=np.int64)
    for row in prange(M):
        before = -1
        for i in range(row_offsets[row], row_offsets[row + 1]):
            out[row] += (column_indices[i] - before + most - 1) // most
            before = column_indices[i]
    return out


@njit(nogil=True, cache=True, parallel=True)
def fill(  # type: ignore[no-untyped-def]
    row_offsets, column_indices, bits, first_step, rows, gap_bits, values, gaps, columns
):
    """Write ``values``, ``gaps`` and ``columns`` (zero, zero and -1 before), see ``Lists``."""
    blocks, block_m = rows.shape
    most = 1 << gap_bits
    absolute = gap_bits == 16
    per_word = 32 // gap_bits
    for block in prange(blocks):
        for place in range(block_m):
            row = rows[block, place]
            if row < 0:
                continue
            at, before = first_step[block] * 8, -1
            for i in range(row_offsets[row], row_offsets[row + 1]):
                column = column_indices[i]
                while before < column:
                    if at % 8 == 0:
                        columns[at // 8, place] = before
                    gap = min(most, column - before)
                    before += gap
                    slot = at % 8
                    stored = column if absolute else gap - 1
                    word = np.uint32(stored) << np.uint32(slot % per_word * gap_bits)
                    gaps[at // 8, place, slot // per_word] |= word
                    if before == column:
                        values[at // 8, place, slot] = bits[i]
                    at += 1


@njit(nogil=True, cache=True, parallel=True)
def count_strips(row_offsets, column_indices, units, strips, width):  # type: ignore[no-untyped-def]
    """[units, strips] entries of each record of ``width`` columns."""
    out = np.zeros((len(units), strips), dtype=np.int64)
    for unit in prange(len(units)):
        for row in units[unit]:
            if row >= 0:
                for i in range(row_offsets[row], row_offsets[row + 1]):
                    out[unit, column_indices[i] // width] += 1
    return out


@njit(nogil=True, cache=True, parallel=True)
def fill_records(  # type: ignore[no-untyped-def]
    row_offsets, column_indices, bits, units, strips, first, words, halves
):
    """Write the records into ``words`` (zero before), which ``halves`` is another view of."""
    rows = units.shape[1]
    width = 1024 // rows
    for unit in prange(len(units)):
        at = np.zeros(rows, dtype=np.int64)
        for r in range(rows):
            if units[unit, r] >= 0:
                at[r] = row_offsets[units[unit, r]]
        there = np.zeros(1024, dtype=np.bool_)
        dense = np.zeros(1024, dtype=np.int16)
        for strip in range(strips):
            there[:] = False
            for r in range(rows):
                row = units[unit, r]
                if row < 0:
                    continue
                while at[r] < row_offsets[row + 1]:
                    c = column_indices[at[r]] - width * strip
                    if c >= width:
                        break
                    four = ((r >> 4) + (c >> 5)) * 4 + ((c >> 1) & 3)
                    lane = (r & 7) * 4 + ((c >> 3) & 3)
                    place = four * 128 + lane * 4 + ((r >> 3) & 1) * 2 + (c & 1)
                    there[place] = True
                    dense[place] = bits[at[r]]
                    at[r] += 1
            start = first[unit * strips + strip]
            to = start * 8 + 64
            for place in range(1024):
                if there[place]:
                    bit = np.uint32((place & 3) * 8 + (place >> 7))
                    words[start * 4 + ((place >> 2) & 31)] |= np.uint32(1) << bit
                    halves[to] = dense[place]
                    to += 1
