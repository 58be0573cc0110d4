"""The instructions an unrolled program is made of. ``interpreter.py`` is their meaning."""

from __future__ import annotations

from typing import NamedTuple


class Rebase(NamedTuple):
    """Move the pointer that loads are relative to onto row k of X."""

    k: int


class Load(NamedTuple):
    """slot <- X[k, this lane's columns]"""

    slot: int
    k: int


class Widen(NamedTuple):
    """slot <- float32(slot): only 16-bit inputs need it"""

    slot: int


class Fma(NamedTuple):
    """acc[place] <- slot * weight + acc[place]"""

    place: int
    slot: int
    weight: float


class HalfFma(NamedTuple):
    """half[place] <- float16(slot * float16(weight) + half[place]), on columns in pairs"""

    place: int
    slot: int
    weight: float


class Flush(NamedTuple):
    """acc[place] <- acc[place] + float32(half[place]); half[place] <- 0"""

    place: int


class Sync(NamedTuple):
    """Wait for the other warps of the program, so that they share fetched code."""


Op = Rebase | Load | Widen | Fma | HalfFma | Flush | Sync
