"""Which columns of a row block share a slot: pairs that no row has non-zeros in both of."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Words = NDArray[np.uint64]
NO_PARTNER = -1


def pair_columns(occupied: NDArray[np.bool_]) -> Int32:
    """[pairs, 2] columns of ``occupied`` [rows, K]; ``NO_PARTNER`` where a column stays alone.

    Each column with an entry is in exactly one pair; empty columns are in none. Densest first, each
    takes the densest column that it goes with; who is left swaps partners with a pair where that
    makes two pairs. Deterministic.
    """
    used = np.flatnonzero(occupied.any(axis=0))
    lengths = occupied[:, used].sum(axis=0)
    used = used[np.argsort(-lengths, kind="stable")]
    partner = np.full(len(used), NO_PARTNER, dtype=np.int32)
    words = _bits(occupied[:, used])
    _greedy(words, partner)
    _swap(words, partner)
    first = np.flatnonzero((partner == NO_PARTNER) | (partner > np.arange(len(used))))
    second = partner[first]
    pairs = np.stack([used[first], np.where(second < 0, NO_PARTNER, used[second])], axis=1)
    return pairs[np.argsort(pairs[:, 0], kind="stable")].astype(np.int32)


def _bits(occupied: NDArray[np.bool_]) -> Words:
    """[columns, words]: the rows of each column, 64 a word."""
    rows, columns = occupied.shape
    padded = np.zeros((columns, -(-rows // 64) * 64), dtype=bool)
    padded[:, :rows] = occupied.T
    return np.packbits(padded, axis=1).view(np.uint64)


@njit(cache=True)
def _apart(words, a, b):  # type: ignore[no-untyped-def]
    together = words[a, 0] & words[b, 0]
    for w in range(1, words.shape[1]):
        together |= words[a, w] & words[b, w]
    return together == 0


@njit(cache=True)
def _greedy(words, partner):  # type: ignore[no-untyped-def]
    """Columns come densest first."""
    n = len(partner)
    for a in range(n):
        if partner[a] >= 0:
            continue
        for b in range(a + 1, n):
            if partner[b] < 0 and _apart(words, a, b):
                partner[a], partner[b] = b, a
                break


@njit(cache=True)
def _swap(words, partner):  # type: ignore[no-untyped-def]
    """Two columns that are left, a and b, and a pair c, d: a with c and b with d, if they may."""
    n = len(partner)
    alone = np.flatnonzero(partner < 0)
    for i in range(len(alone)):
        a = alone[i]
        for j in range(i + 1, len(alone)):
            b = alone[j]
            if partner[a] >= 0:
                break
            if partner[b] >= 0:
                continue
            for c in range(n):
                d = partner[c]
                if d >= 0 and _apart(words, a, c) and _apart(words, b, d):
                    partner[a], partner[c] = c, a
                    partner[b], partner[d] = d, b
                    break
