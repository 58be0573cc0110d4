"""The loops of ``pack`` in numba: two passes over the entries, rows in parallel."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(nogil=True, cache=True, parallel=True)
def count(row_offsets, column_indices, most, chunk, chunks):  # type: ignore[no-untyped-def]
    """[M, chunks] entries of each list, with those that bridge gaps wider than ``most``."""
    M = len(row_offsets) - 1
    out = np.zeros((M, chunks), dtype=np.int64)
    for row in prange(M):
        before, current = -1, 0
        for i in range(row_offsets[row], row_offsets[row + 1]):
            column = column_indices[i]
            if column >= (current + 1) * chunk:
                current = column // chunk
                before = current * chunk - 1
            out[row, current] += (column - before + most - 1) // most
            before = column
    return out


@njit(nogil=True, cache=True, parallel=True)
def fill(  # type: ignore[no-untyped-def]
    row_offsets, column_indices, bits, first_step, rows, gap_bits, chunk, values, gaps, columns
):
    """Write ``values``, ``gaps`` and ``columns`` (zero, zero and -1 before), see ``Lists``."""
    blocks, block_m = rows.shape
    chunks = (len(first_step) - 1) // blocks
    most = 1 << gap_bits
    per_word = 32 // gap_bits
    for block in prange(blocks):
        for place in range(block_m):
            row = rows[block, place]
            if row < 0:
                continue
            current = 0
            at, before, base = first_step[block * chunks] * 8, -1, 0
            for i in range(row_offsets[row], row_offsets[row + 1]):
                column = column_indices[i]
                if column >= base + chunk:
                    current = column // chunk
                    base = current * chunk
                    at, before = first_step[block * chunks + current] * 8, base - 1
                while before < column:
                    if at % 8 == 0:
                        columns[at // 8, place] = before - base
                    gap = min(most, column - before)
                    before += gap
                    slot = at % 8
                    word = np.uint32(gap - 1) << np.uint32(slot % per_word * gap_bits)
                    gaps[at // 8, place, slot // per_word] |= word
                    if before == column:
                        values[at // 8, place, slot] = bits[i]
                    at += 1
