"""Family ``pairs`` in PTX: W split in registers, its products with a stage of X.

Two sets of registers hold W: products read the one while the other is made. With ``stack`` 2 they
take turns in each step, else from step to step.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.columns import UID
from sparse_triton.kernels.pairs.limits import (
    ALIGNMENT,
    GROUP_THREADS,
    SELECTORS_BYTES,
    STAGES,
    TURNS,
    VALUES_BYTES,
    Tile,
)
from sparse_triton.kernels.pairs.ring import EMPTY, advance, wait
from sparse_triton.kernels.pairs.stage import in_half, split

# Shared-memory descriptor of X: 128-byte swizzle, 1024 bytes from 8 columns to the next 8.
DESCRIPTOR_HIGH = (1 << 30) | (ALIGNMENT >> 4)
DESCRIPTOR_LOW = 1 << 16
# Selectors lie in memory with this taken off. Some instruction has to come between their fetching
# and the products that read them anyway: ptxas (12.8, 13.0) else lets no two products overlap.
FIRST_OF_ALL = (0x44444444, 0x88888888)


def declare_products(tile: Tile) -> Iterator[str]:
    """``v, w``: values and selectors of 64 rows as they are fetched. In two sets, what products
    read: ``h``, high halves; ``m``, those and the low halves in bfloat16; ``s``, selectors.
    ``free``: the barrier of the stage that is given back next, from ``last`` steps before the end
    on."""
    yield ".reg .b64 d<4>;"
    yield ".reg .b32 e, u, free, last, weight, selector;"
    yield f".reg .b32 v<8>, w<2>, l<8>, h<{8 * TURNS}>, m<{8 * TURNS}>, s<{2 * TURNS}>;"
    yield f".reg .f32 large<{tile.outputs}>, small<{tile.outputs}>;"
    yield ".reg .pred yes, gives;"


def multiply(tile: Tile, outs: list[str]) -> Iterator[str]:
    """What a warp that multiplies does, all steps."""
    yield "mov.b32 phase, 0;"
    yield "setp.eq.u32 yes, 0, 0;"
    for j in range(tile.outputs):
        yield f"mov.f32 large{j}, 0f00000000;"
        if tile.sums == 2:
            yield f"mov.f32 small{j}, 0f00000000;"
    yield f"shr.u32 t, thread, {GROUP_THREADS.bit_length() - 1};"
    yield f"and.b32 u, thread, {GROUP_THREADS - 1};"
    values, selectors = tile.stack * VALUES_BYTES, tile.stack * SELECTORS_BYTES
    at = 2 * tile.half_bytes
    yield f"mad.lo.u32 weight, t, {values}, {at};"
    yield "mad.lo.u32 weight, u, 16, weight;"
    yield f"mad.lo.u32 selector, t, {selectors}, {at + tile.tiles * VALUES_BYTES};"
    yield "mad.lo.u32 selector, u, 8, selector;"
    lag = TURNS // tile.stack  # steps until all products of one are known to have ended
    yield f"sub.s32 last, left, {lag};"
    yield f"add.u32 free, first, {8 * (STAGES - lag)};"
    yield f"STEP{UID}:"
    for turn in range(TURNS):
        yield from _turn(tile, turn)
    yield "setp.gt.s32 more, left, 0;"
    yield f"@more bra STEP{UID};"
    yield "wgmma.wait_group.sync.aligned 0;"
    for j, out in enumerate(outs):
        yield (
            f"add.f32 {out}, large{j}, small{j};" if tile.sums == 2 else f"mov.f32 {out}, large{j};"
        )


def _turn(tile: Tile, turn: int) -> Iterator[str]:
    """One 64-row tile of this group, one step: turn ``turn`` of the loop. What the next turn splits
    is fetched before the products, whose issue takes until they run, but nobody waits before."""
    r = turn if tile.stack == TURNS else 0
    ends = r == tile.stack - 1
    if r == 0:
        yield from wait(0, f"FULL{turn}")
        yield from _load_weight(0)
        yield from _descriptors(tile)
    yield "wgmma.wait_group.sync.aligned 1;"
    yield from _split_weight(turn)
    if ends:
        yield from _give_back()
    else:
        yield from _load_weight(r + 1)
    yield "wgmma.fence.sync.aligned;"
    yield from _products(tile, r, turn)
    yield "wgmma.commit_group.sync.aligned;"
    if ends:
        yield from advance(tile)
        yield "sub.s32 left, left, 1;"


def _load_weight(r: int) -> Iterator[str]:
    yield "add.u32 t, cur, weight;"
    for product in range(2):
        names = ", ".join(f"v{4 * product + j}" for j in range(4))
        at = r * VALUES_BYTES + product * VALUES_BYTES // 2
        yield f"ld.shared.v4.b32 {{{names}}}, [t+{at}];"
    yield "add.u32 t, cur, selector;"
    yield f"ld.shared.v2.b32 {{w0, w1}}, [t+{r * SELECTORS_BYTES}];"


def _give_back() -> Iterator[str]:
    yield "setp.le.and.s32 gives, left, last, leads;"
    yield f"@gives mbarrier.arrive.shared::cta.b64 _, [free+{EMPTY}];"
    yield "add.u32 free, free, 8;"
    yield f"add.u32 t, first, {EMPTY};"
    yield "setp.ge.u32 more, free, t;"
    yield "@more mov.b32 free, first;"


def _split_weight(turn: int) -> Iterator[str]:
    of = 8 * turn
    for j, first in enumerate((0, 1, 4, 5)):
        for i in (first, first + 2):
            yield from split(f"v{i}", f"h{of + i}", f"l{i}")
        yield in_half(f"m{of + j}", f"h{of + first}", f"h{of + first + 2}")
        yield in_half(f"m{of + 4 + j}", f"l{first}", f"l{first + 2}")
    for j, code in enumerate(FIRST_OF_ALL):
        yield f"xor.b32 s{2 * turn + j}, w{j}, {code};"


def _descriptors(tile: Tile) -> Iterator[str]:
    """d0, d1: X's high halves of the two TF32 products; d2, d3: X and its low halves."""
    yield "shr.u32 u, cur, 4;"
    yield f"or.b32 u, u, {DESCRIPTOR_LOW};"
    yield f"mov.b32 e, {DESCRIPTOR_HIGH};"
    for i in range(4):
        yield f"add.u32 t, u, {(i // 2 * tile.half_bytes + i % 2 * 64) >> 4};"
        yield f"mov.b64 d{i}, {{t, e}};"


def _products(tile: Tile, r: int, turn: int) -> Iterator[str]:
    for half, of, d, lanes in (
        (True, 4, 2, 0),
        (False, 0, 0, 0),
        (True, 0, 3, 0),
        (False, 4, 1, 1),
    ):
        acc = "small" if half and tile.sums == 2 else "large"
        each = tile.block_n // 2
        sums = ", ".join(f"{acc}{r * each + j}" for j in range(each))
        words = ", ".join(f"{'m' if half else 'h'}{8 * turn + of + j}" for j in range(4))
        kind = "k32.f32.bf16.bf16" if half else "k16.f32.tf32.tf32"
        yield (
            f"wgmma.mma_async.sp.sync.aligned.m64n{tile.block_n}{kind} {{{sums}}}, {{{words}}}, "
            f"d{d}, s{2 * turn + half}, {lanes}, yes, 1, 1{', 0' * half};"
        )
