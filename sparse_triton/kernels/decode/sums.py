"""Partial sums of the pieces of K, in shared memory, added in piece order: the same bits always."""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.columns import UID


def add_up(
    out: str, j: int, number: str, count: int, address: Iterator[str], pieces: int, stride: int
) -> Iterator[str]:
    """``out``: the sum of ``pieces`` floats ``stride`` bytes apart, for numbers below ``count``.

    ``address`` puts where the first one lies into ``o``; j keeps labels apart. Needs ``f0, sum, o,
    done``.
    """
    yield "mov.f32 sum, 0f00000000;"
    yield f"setp.ge.u32 done, {number}, {count};"
    yield f"@done bra SUMMED{j}{UID};"
    yield from address
    for piece in range(pieces):
        yield f"ld.shared.f32 f0, [o+{stride * piece}];"
        yield "add.rn.f32 sum, sum, f0;"
    yield f"SUMMED{j}{UID}:"
    yield f"mov.f32 {out}, sum;"
