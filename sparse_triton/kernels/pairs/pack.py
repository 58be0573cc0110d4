"""The weight as family ``pairs`` reads it: values in fragment order, selectors, order of K.

One step is ``BLOCK_K`` columns, paired: 16 slots a row. TF32 products take 8 of them each, the two
in bfloat16 all 16, in an order in which a thread's share is the same: of each 64-row tile the slots
t, t + 4, t + 8, t + 12 of rows g and g + 8 of its warp's 16 (g = lane / 4, t = lane % 4).

A thread has two words of selectors. The first, for TF32, has four bits for each of 4 slots of row
g, then of row g + 8: 0b0100 for the first column of a pair, 0b1110 for the second; lanes t = 0, 1
hold those of the step's first product, t = 2, 3 of its second, the lower slots first. The second,
for bfloat16, has four bits for each of 4 quads, of slots j and j + 4: their places among the quad's
columns, 0 or 1 and 2 or 3; lane t = 0 holds those of slots 0 to 7, t = 1 of 8 to 15. Here both lie
with the first columns' code taken off (xor).
(PTX ISA, wgmma.mma_async.sp: sparse matrix storage, register fragments, metadata.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import ceil_div
from sparse_triton.kernels.pairs.limits import BLOCK_K, GROUP_ROWS, GROUPS, MOST_TEAMS, TURNS, Tile
from sparse_triton.kernels.pairs.matching import NO_PARTNER, pair_columns
from sparse_triton.pattern import CSR

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
SLOTS = BLOCK_K // 2
CHUNK_OF = np.array([[0, 2], [1, 3], [4, 6], [5, 7]])  # fours of columns that a loader takes


class Packed(NamedTuple):
    """values     [blocks * longest, tiles, 2, 128, 4] float32
    selectors  [blocks * longest, tiles, 128, 2] int32
    order      [blocks * longest + MOST_TEAMS, 4, 4] int32: the rows of X of a step, two a word; a
               team fetches that of its next step, even after its last
    steps      [blocks] int32: of each row block, at most ``longest``
    """

    values: Float32
    selectors: Int32
    order: Int32
    steps: Int32

    @property
    def longest(self) -> int:
        return len(self.values) // len(self.steps)


def packed_for(csr: CSR, tile: Tile) -> Packed:
    """Made once for a weight and a height of row blocks."""
    return csr.remember(("pairs", tile.block_m), lambda: pack(csr, tile.block_m))


def pack(csr: CSR, block_m: int) -> Packed:
    M, K = csr.shape
    blocks = ceil_div(M, block_m)
    dense = np.zeros((blocks * block_m, K), np.float32)
    dense[csr.rows, csr.column_indices] = csr.values
    occupied = np.zeros(dense.shape, bool)
    occupied[csr.rows, csr.column_indices] = True
    cuts = [slice(b * block_m, (b + 1) * block_m) for b in range(blocks)]
    parts = [_pack_block(dense[rows], occupied[rows]) for rows in cuts]
    steps = np.array([len(order) for _, _, order in parts], np.int32)
    values, selectors, order = (_joined(arrays, max(steps)) for arrays in zip(*parts, strict=True))
    ahead = np.zeros((MOST_TEAMS, *order.shape[1:]), order.dtype)
    return Packed(values, selectors, np.concatenate([order, ahead]), steps)


def _joined(arrays: tuple[NDArray[Any], ...], longest: int) -> NDArray[Any]:
    """One after the other, each as long as the longest: where one begins needs no look-up."""
    out = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), arrays[0].dtype)
    for block, array in zip(out, arrays, strict=True):
        block[: len(array)] = array
    return out.reshape(-1, *arrays[0].shape[1:])


def _pack_block(dense: Float32, occupied: NDArray[np.bool_]) -> tuple[Float32, Int32, Int32]:
    """Values, selectors and order of one row block."""
    pairs = pair_columns(occupied)
    places = np.zeros((SLOTS * whole_turns(len(pairs), len(dense)), 2), np.int32)
    places[: len(pairs)] = np.where(pairs == NO_PARTNER, pairs[:, :1], pairs)
    real = np.zeros(len(places), bool)
    real[: len(pairs)] = pairs[:, 1] != NO_PARTNER
    second = occupied[:, places[:, 1]] & real
    slots = np.where(second, dense[:, places[:, 1]], dense[:, places[:, 0]])
    slots[:, len(pairs) :] = 0
    return fragments(slots), selector_words(second), loading_order(places.reshape(-1, BLOCK_K))


def whole_turns(pairs: int, block_m: int) -> int:
    """Steps: one round of the loop takes two where a group has 64 rows, one where it has 128. At
    least one for each team that fetches."""
    turn = TURNS * GROUPS * GROUP_ROWS // block_m
    return max(MOST_TEAMS, turn * ceil_div(pairs, SLOTS * turn))


def fragments(slots: Float32) -> Float32:
    """[steps, tiles, 2, 128, 4] of the slots [rows, steps * SLOTS]."""
    shape = (-1, 4, 2, 8, slots.shape[1] // SLOTS, 2, 2, 4)  # tile warp h g step product q t
    turned = slots.reshape(shape).transpose(4, 0, 5, 1, 3, 7, 6, 2)
    return turned.reshape((*turned.shape[:3], 128, 4))


def selector_words(second: NDArray[np.bool_]) -> Int32:
    """[steps, tiles, 128, 2] of whether each slot [rows, steps * SLOTS] takes its second column."""
    shape = (-1, 4, 2, 8, second.shape[1] // SLOTS, 2, 2, 4)  # tile warp h g step product half j
    bits = second.astype(np.uint32).reshape(shape)
    row = 16 * np.arange(2)[:, None] + 4 * np.arange(4)
    tf32 = np.einsum("twhgskqj,hj->stwgkq", bits, (0b1010 << row).astype(np.uint32))
    quad = row[:, None, :] + 2 * np.arange(2)[:, None]  # h half j
    bf16 = np.einsum("twhgskqj,hqj->stwgk", bits, (1 << quad).astype(np.uint32))
    both = np.stack([tf32, np.stack([bf16, bf16], axis=-2)], axis=-1)
    return np.asarray(both.reshape((*both.shape[:2], 128, 2)), np.uint32).view(np.int32)


def loading_order(places: Int32) -> Int32:
    """[steps, 4, 4] of the rows of X at each place [steps, BLOCK_K], each below 2**16."""
    fours = places.reshape(-1, BLOCK_K // 4, 2, 2).astype(np.uint32)
    words = fours[..., 0] | fours[..., 1] << 16
    return words[:, CHUNK_OF].reshape(-1, 4, 4).view(np.int32)
