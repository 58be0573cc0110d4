"""Family ``pairs`` in PTX: filling a stage, X split and turned on its way into shared memory.

X in pieces of 16 bytes, K fastest, swizzled as 128-byte rows are: a column of one step has eight of
high halves (four floats each), and in another such row four of X in bfloat16 and four of its low
halves. W follows as it lies in memory, copied by the unit for that.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.columns import UID
from sparse_triton.kernels.pairs.limits import (
    BLOCK_K,
    SELECTORS_BYTES,
    THREADS,
    VALUES_BYTES,
    WARP,
    Tile,
)
from sparse_triton.kernels.pairs.ring import EMPTY, advance, wait

ORDER_BYTES = 2 * BLOCK_K  # of a step
CHUNKS = BLOCK_K // 8  # of a column: two pieces of high halves, one of each other kind


def declare_stage(tile: Tile) -> Iterator[str]:
    """``order``: two rows' numbers, a lane each; ``x``: a column's elements; ``column``: where it
    goes in a stage, ``turn`` by what its pieces are swizzled there."""
    yield ".reg .b64 pv, ps, po, px, p;"
    yield f".reg .b32 order, column, turn, at, o, k, stride, x<{BLOCK_K}>, y<4>, z<8>;"
    yield ".reg .pred copies;"


def fill(tile: Tile, wait_for_inputs: list[str]) -> Iterator[str]:
    """What a warp that fetches does: every step of its team. One thread has W copied too. Teams
    take turns because a step is a long chain of waits."""
    yield from _begin(tile)
    yield from load_order(tile)
    yield from wait_for_inputs
    yield f"FILL{UID}:"
    yield from load_x()
    yield from load_order(tile)
    yield from wait(EMPTY, "FREE")
    yield from copy_weight(tile)
    yield from store_x(tile)
    yield "fence.proxy.async.shared::cta;"
    yield "bar.warp.sync -1;"
    yield "@leads mbarrier.arrive.shared::cta.b64 _, [full];"
    yield from advance(tile, tile.teams)
    yield f"sub.s32 left, left, {tile.teams};"
    yield "setp.gt.s32 more, left, 0;"
    yield f"@more bra FILL{UID};"


def _begin(tile: Tile) -> Iterator[str]:
    """Threads past the last column do what its thread does; warps past it end."""
    yield "shfl.sync.idx.b32 t, thread, 0, 31, -1;"
    yield f"sub.u32 t, t, {THREADS};"
    yield f"div.u32 at, t, {tile.team};"
    yield "sub.u32 left, left, at;"
    yield f"mad.lo.u32 cur, at, {tile.stage_bytes}, cur;"
    yield "mad.lo.u32 full, at, 8, full;"
    yield f"mad.wide.u32 pv, at, {tile.tiles * VALUES_BYTES}, pv;"
    yield f"mad.wide.u32 ps, at, {tile.tiles * SELECTORS_BYTES}, ps;"
    yield f"mad.wide.u32 po, at, {ORDER_BYTES}, po;"
    yield f"and.b32 t, t, {tile.team - 1};"
    yield f"setp.ge.u32 more, t, {tile.block_n};"
    yield "@more exit;"
    yield f"and.b32 column, thread, {tile.team - 1};"
    yield "setp.eq.u32 copies, column, 0;"
    yield f"min.u32 column, column, {tile.block_n - 1};"
    yield "and.b32 turn, column, 7;"
    yield "shl.b32 turn, turn, 4;"
    yield f"mul.lo.u32 column, column, {4 * BLOCK_K};"
    yield f"and.b32 t, thread, {WARP // 2 - 1};"
    yield "mad.wide.u32 po, t, 4, po;"
    yield "mov.b32 phase, 1;"


def copy_weight(tile: Tile) -> Iterator[str]:
    values, selectors = tile.tiles * VALUES_BYTES, tile.tiles * SELECTORS_BYTES
    copy = "@copies cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
    yield f"@copies mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], {values + selectors};"
    yield f"add.u32 o, cur, {2 * tile.half_bytes};"
    yield f"{copy} [o], [pv], {values}, [full];"
    yield f"add.u32 o, o, {values};"
    yield f"{copy} [o], [ps], {selectors}, [full];"
    yield f"add.s64 pv, pv, {tile.teams * values};"
    yield f"add.s64 ps, ps, {tile.teams * selectors};"


def load_order(tile: Tile) -> Iterator[str]:
    yield "ld.global.b32 order, [po];"
    yield f"add.s64 po, po, {tile.teams * ORDER_BYTES};"


def load_x() -> Iterator[str]:
    for i in range(BLOCK_K // 2):
        yield f"shfl.sync.idx.b32 k, order, {i}, 31, -1;"
        for j, word in enumerate(("and.b32 t, k, 0xffff;", "shr.u32 t, k, 16;")):
            yield word
            yield "mad.wide.u32 p, t, stride, px;"
            yield f"ld.global.b32 x{2 * i + j}, [p];"


def split(word: str, high: str, low: str) -> Iterator[str]:
    """High is rounded to the 11 significant bits of TF32, ties away from zero."""
    yield f"add.u32 t, {word}, 0x1000;"
    yield f"and.b32 {high}, t, 0xffffe000;"
    yield f"sub.f32 {low}, {word}, {high};"


def in_half(out: str, first: str, second: str) -> str:
    return f"cvt.rn.bf16x2.f32 {out}, {second}, {first};"


def store_x(tile: Tile) -> Iterator[str]:
    """Chunk q of a column, two columns of W each of slots s, s + 1, s + 4 and s + 5, is pieces a =
    q % 2 + q / 2 * 4 and a + 2 of the high halves, piece q of X in bfloat16, where s + 4 comes
    second, and q + 4 of its low halves. Piece i of column n lies at place i ^ n % 8."""
    yield "add.u32 at, cur, column;"
    for q in range(CHUNKS):
        x = 8 * q
        yield from _store_half(tile, q, "x", x)
        for four in (0, 4):
            for j in range(four, four + 4):
                yield from split(f"x{x + j}", f"y{j % 4}", f"z{j}")
            yield from _store(q % 2 + q // 2 * 4 + four // 2, 0, "y0, y1, y2, y3")
        yield from _store_half(tile, q + 4, "z", 0)


def _store_half(tile: Tile, piece: int, name: str, of: int) -> Iterator[str]:
    for place, (a, b) in enumerate(((0, 1), (4, 5), (2, 3), (6, 7))):
        yield in_half(f"y{place}", f"{name}{of + a}", f"{name}{of + b}")
    yield from _store(piece, tile.half_bytes, "y0, y1, y2, y3")


def _store(piece: int, offset: int, words: str) -> Iterator[str]:
    yield f"xor.b32 o, turn, {16 * piece};"
    yield "add.u32 o, o, at;"
    yield f"st.shared.v4.b32 [o+{offset}], {{{words}}};"
