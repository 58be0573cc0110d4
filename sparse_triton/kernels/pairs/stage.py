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
    Tile,
)
from sparse_triton.kernels.pairs.ring import EMPTY, WARP, advance, wait

ORDER_BYTES = 2 * BLOCK_K  # of a step


def ahead(tile: Tile) -> int:
    """Steps that X is fetched before it is stored: 16 registers."""
    return 2 // tile.units


def declare_stage(tile: Tile) -> Iterator[str]:
    """``k``: numbers of rows of X, two a word; ``x``: their elements; ``wide, half``: where pieces
    of high halves and of bfloat16 go in a stage."""
    yield ".reg .b64 pv, ps, po, px, p;"
    yield ".reg .b32 at, o, c, n, stride, y<8>, z<8>;"
    yield f".reg .b32 wide<{tile.units}>, half<{tile.units}>;"
    yield f".reg .b32 k<{4 * tile.units}>, x<{8 * tile.units * ahead(tile)}>;"
    yield ".reg .pred copies;"


def fill(tile: Tile, wait_for_inputs: list[str]) -> Iterator[str]:
    """What a warp that fetches does, all steps. One thread has W copied too."""
    yield f"sub.u32 thread, thread, {THREADS};"
    yield "setp.eq.u32 copies, thread, 0;"
    yield f"and.b32 t, thread, {-WARP};"
    yield f"setp.ge.u32 more, t, {tile.loaders};"
    yield "@more exit;"
    yield "mov.b32 phase, 1;"
    yield from window(tile)
    yield from load_order(tile)
    yield from wait_for_inputs
    for i in range(ahead(tile)):
        yield from load_x(tile, i)
        yield from load_order(tile)
    yield f"FILL{UID}:"
    for i in range(ahead(tile)):
        yield from wait(EMPTY, f"FREE{i}")
        yield from copy_weight(tile)
        yield from store_x(tile, i)
        yield "fence.proxy.async.shared::cta;"
        yield "bar.warp.sync -1;"
        yield "@leads mbarrier.arrive.shared::cta.b64 _, [full];"
        yield from load_x(tile, i)
        yield from load_order(tile)
        yield from advance(tile)
    yield f"sub.s32 left, left, {ahead(tile)};"
    yield "setp.gt.s32 more, left, 0;"
    yield f"@more bra FILL{UID};"


def copy_weight(tile: Tile) -> Iterator[str]:
    values, selectors = tile.tiles * VALUES_BYTES, tile.tiles * SELECTORS_BYTES
    copy = "@copies cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
    yield f"@copies mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], {values + selectors};"
    yield f"add.u32 o, cur, {2 * tile.half_bytes};"
    yield f"{copy} [o], [pv], {values}, [full];"
    yield f"add.u32 o, o, {values};"
    yield f"{copy} [o], [ps], {selectors}, [full];"
    yield f"add.s64 pv, pv, {values};"
    yield f"add.s64 ps, ps, {selectors};"


def window(tile: Tile) -> Iterator[str]:
    """This thread's elements. Piece i of 16 bytes of column n lies at place i ^ n % 8 of its 128
    bytes. Load q takes pieces a = q % 2 + q / 2 * 4 and a + 2 of the high halves, and is piece q of
    X in bfloat16 and q + 4 of its low halves. Threads past the last do what it does."""
    yield f"min.u32 t, thread, {tile.loaders - 1};"
    yield f"rem.u32 n, t, {tile.block_n};"
    yield f"div.u32 c, t, {tile.block_n};"
    yield "and.b32 t, n, 7;"
    for i in range(tile.units):
        yield f"add.u32 o, c, {i * (tile.loaders // tile.block_n)};"
        yield "and.b32 at, o, 2;"
        yield "add.u32 at, at, o;"
        yield "xor.b32 at, at, t;"
        yield "shl.b32 at, at, 4;"
        yield f"mad.lo.u32 wide{i}, n, {4 * BLOCK_K}, at;"
        yield "xor.b32 o, o, t;"
        yield "shl.b32 o, o, 4;"
        yield f"mad.lo.u32 half{i}, n, {4 * BLOCK_K}, o;"


def load_order(tile: Tile) -> Iterator[str]:
    for i in range(tile.units):
        names = ", ".join(f"k{4 * i + j}" for j in range(4))
        at = i * 16 * (tile.loaders // tile.block_n)
        yield f"ld.global.v4.b32 {{{names}}}, [po+{at}];"
    yield f"add.s64 po, po, {ORDER_BYTES};"


def load_x(tile: Tile, turn: int) -> Iterator[str]:
    of = 8 * tile.units * turn
    for i in range(4 * tile.units):
        yield f"and.b32 t, k{i}, 0xffff;"
        yield "mad.wide.u32 p, t, stride, px;"
        yield f"ld.global.b32 x{of + 2 * i}, [p];"
        yield f"shr.u32 t, k{i}, 16;"
        yield "mad.wide.u32 p, t, stride, px;"
        yield f"ld.global.b32 x{of + 2 * i + 1}, [p];"


def split(word: str, high: str, low: str) -> Iterator[str]:
    """High is rounded to the 11 significant bits of TF32, ties away from zero."""
    yield f"add.u32 t, {word}, 0x1000;"
    yield f"and.b32 {high}, t, 0xffffe000;"
    yield f"sub.f32 {low}, {word}, {high};"


def in_half(out: str, first: str, second: str) -> str:
    return f"cvt.rn.bf16x2.f32 {out}, {second}, {first};"


def store_x(tile: Tile, turn: int) -> Iterator[str]:
    """Two columns each of slots s, s + 1, s + 4 and s + 5; in bfloat16 s + 4 comes second."""
    pairs = ((0, 1), (4, 5), (2, 3), (6, 7))
    for i in range(tile.units):
        x = 8 * (tile.units * turn + i)
        yield f"add.u32 at, cur, half{i};"
        for place, (a, b) in enumerate(pairs):
            yield in_half(f"y{place}", f"x{x + a}", f"x{x + b}")
        yield f"st.shared.v4.b32 [at+{tile.half_bytes}], {{y0, y1, y2, y3}};"
        yield f"add.u32 o, cur, wide{i};"
        for four in (0, 4):
            for j in range(four, four + 4):
                yield from split(f"x{x + j}", f"y{j}", f"z{j}")
            words = ", ".join(f"y{j}" for j in range(four, four + 4))
            yield f"st.shared.v4.b32 [o], {{{words}}};"
            yield "xor.b32 o, o, 32;"
        for place, (a, b) in enumerate(pairs):
            yield in_half(f"y{place}", f"z{a}", f"z{b}")
        yield "xor.b32 at, at, 64;"
        yield f"st.shared.v4.b32 [at+{tile.half_bytes}], {{y0, y1, y2, y3}};"
