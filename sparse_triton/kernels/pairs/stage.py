"""Family ``pairs`` in PTX: X, split and turned on its way into shared memory.

Pieces of 16 bytes, K fastest, swizzled as 128-byte rows are: a column of one step has eight of high
halves (four floats each), and in another such row four of X in bfloat16 and four of its low halves.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.pairs.limits import (
    ALIGNMENT,
    BLOCK_K,
    STAGES,
    STATIC_SHARED_BYTES,
    Tile,
)

ORDER_BYTES = 2 * BLOCK_K  # of a step


def declare_x(tile: Tile) -> Iterator[str]:
    """``k``: numbers of rows of X, two a word; ``x``: their elements; ``wide, half``: where pieces
    of high halves and of bfloat16 go in a stage, which begins at ``cur``."""
    yield f".shared .align 16 .b8 anchor[{STATIC_SHARED_BYTES}];"
    yield ".reg .b64 po, px, p;"
    yield ".reg .b32 base, end, cur, at, o, c, n, stride, t, y<8>, z<8>;"
    yield f".reg .b32 wide<{tile.units}>, half<{tile.units}>;"
    yield f".reg .b32 k<{4 * tile.units}>, x<{8 * tile.units * tile.ahead}>;"
    yield ".reg .pred loads;"


def window(tile: Tile, thread: str) -> Iterator[str]:
    """Where stages are, and this thread's elements in one. Piece i of 16 bytes of column n lies at
    place i ^ n % 8 of its 128 bytes. Load q takes pieces a = q % 2 + q / 2 * 4 and a + 2 of the
    high halves, and is piece q of X in bfloat16 and q + 4 of its low halves."""
    yield "mov.u32 base, anchor;"
    yield f"add.u32 base, base, {STATIC_SHARED_BYTES + ALIGNMENT - 1};"
    yield f"and.b32 base, base, {-ALIGNMENT};"
    yield f"add.u32 end, base, {STAGES * tile.stage_bytes};"
    yield "mov.b32 cur, base;"
    yield f"rem.u32 n, {thread}, {tile.block_n};"
    yield f"div.u32 c, {thread}, {tile.block_n};"
    yield f"setp.lt.u32 loads, {thread}, {tile.loaders};"
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
        yield f"@loads ld.global.v4.b32 {{{names}}}, [po+{at}];"
    yield f"add.s64 po, po, {ORDER_BYTES};"


def load_x(tile: Tile, step: int) -> Iterator[str]:
    of = 8 * tile.units * (step % tile.ahead)
    for i in range(4 * tile.units):
        yield f"and.b32 t, k{i}, 0xffff;"
        yield "mad.wide.u32 p, t, stride, px;"
        yield f"@loads ld.global.b32 x{of + 2 * i}, [p];"
        yield f"shr.u32 t, k{i}, 16;"
        yield "mad.wide.u32 p, t, stride, px;"
        yield f"@loads ld.global.b32 x{of + 2 * i + 1}, [p];"


def split(word: str, high: str, low: str) -> Iterator[str]:
    """High is rounded to the 11 significant bits of TF32, ties away from zero."""
    yield f"add.u32 t, {word}, 0x1000;"
    yield f"and.b32 {high}, t, 0xffffe000;"
    yield f"sub.f32 {low}, {word}, {high};"


def in_half(out: str, first: str, second: str) -> str:
    return f"cvt.rn.bf16x2.f32 {out}, {second}, {first};"


def store_x(tile: Tile, step: int) -> Iterator[str]:
    """Two columns each of slots s, s + 1, s + 4 and s + 5; in bfloat16 s + 4 comes second."""
    pairs = ((0, 1), (4, 5), (2, 3), (6, 7))
    for i in range(tile.units):
        x = 8 * (tile.units * (step % tile.ahead) + i)
        yield f"add.u32 at, cur, half{i};"
        for place, (a, b) in enumerate(pairs):
            yield in_half(f"y{place}", f"x{x + a}", f"x{x + b}")
        yield f"@loads st.shared.v4.b32 [at+{tile.half_bytes}], {{y0, y1, y2, y3}};"
        yield f"add.u32 o, cur, wide{i};"
        for four in (0, 4):
            for j in range(four, four + 4):
                yield from split(f"x{x + j}", f"y{j}", f"z{j}")
            words = ", ".join(f"y{j}" for j in range(four, four + 4))
            yield f"@loads st.shared.v4.b32 [o], {{{words}}};"
            yield "xor.b32 o, o, 32;"
        for place, (a, b) in enumerate(pairs):
            yield in_half(f"y{place}", f"z{a}", f"z{b}")
        yield "xor.b32 at, at, 64;"
        yield f"@loads st.shared.v4.b32 [at+{tile.half_bytes}], {{y0, y1, y2, y3}};"
