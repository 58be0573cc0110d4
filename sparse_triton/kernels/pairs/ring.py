"""Family ``pairs`` in PTX: the ring of stages, and the barriers of its ends.

Every warp walks the ring on its own: ``cur`` is its stage, ``full`` the barrier that tells that it
is full; the one that tells that it is empty lies behind all of these. ``phase`` is what it waits
for at either.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.config import ceil_div
from sparse_triton.kernels.columns import UID
from sparse_triton.kernels.pairs.limits import (
    ALIGNMENT,
    STAGES,
    STATIC_SHARED_BYTES,
    THREADS,
    WARP,
    Tile,
)

EMPTY = 8 * STAGES  # from the one barrier to the other


def declare_ring() -> Iterator[str]:
    yield f".shared .align 16 .b8 anchor[{STATIC_SHARED_BYTES}];"
    yield ".reg .b32 thread, left, base, end, cur, first, full, phase, t;"
    yield ".reg .pred more, leads;"


def begin(tile: Tile) -> Iterator[str]:
    """Full takes the bytes of W and a word from each warp that fetches, empty one from each that
    multiplies."""
    yield "mov.u32 first, anchor;"
    yield "mov.b32 full, first;"
    yield f"add.u32 base, first, {STATIC_SHARED_BYTES + ALIGNMENT - 1};"
    yield f"and.b32 base, base, {-ALIGNMENT};"
    yield f"add.u32 end, base, {STAGES * tile.stage_bytes};"
    yield "mov.b32 cur, base;"
    yield f"and.b32 t, thread, {WARP - 1};"
    yield "setp.eq.u32 leads, t, 0;"
    yield "setp.eq.u32 more, thread, 0;"
    for stage in range(STAGES):
        fetching = 1 + ceil_div(tile.block_n, WARP)
        yield f"@more mbarrier.init.shared::cta.b64 [first+{8 * stage}], {fetching};"
        multiplying = THREADS // WARP
        yield f"@more mbarrier.init.shared::cta.b64 [first+{EMPTY + 8 * stage}], {multiplying};"
    yield "fence.mbarrier_init.release.cluster;"
    yield "bar.sync 0;"


def wait(at: int, label: str) -> Iterator[str]:
    """Until the barrier ``at`` bytes from ``full`` has ended its phase."""
    yield f"{label}{UID}:"
    yield f"mbarrier.try_wait.parity.shared::cta.b64 more, [full+{at}], phase;"
    yield f"@!more bra {label}{UID};"


def advance(tile: Tile, steps: int = 1) -> Iterator[str]:
    yield f"add.u32 cur, cur, {steps * tile.stage_bytes};"
    yield f"add.u32 full, full, {steps * 8};"
    yield "setp.ge.u32 more, cur, end;"
    yield f"@more sub.u32 cur, cur, {STAGES * tile.stage_bytes};"
    yield f"@more sub.u32 full, full, {STAGES * 8};"
    yield "@more xor.b32 phase, phase, 1;"
