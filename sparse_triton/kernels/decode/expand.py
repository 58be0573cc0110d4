"""Decode on tensor cores, in PTX: a K chunk of a row block is written out dense, then multiplied.

A thread owns one piece of one row of the chunk and writes its values where their columns are, in a
tile of shared memory [block_m][chunk] that was zero before; after a barrier warps share the tile's
groups of 32 columns, multiply them by X read from memory, and leave zeros behind. There are two
tiles: while a chunk is multiplied the next is written out and the steps of the one after it are on
their way. The order of columns within a group of 32 is such that one lane's share of a row is 16
adjacent bytes, of W as of X.

Zeros of the tile do multiply, so Inf or NaN in X would spread through them. They then make every
sum of their column non-finite; such sums are computed again from the lists, entry by entry.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.columns import (
    LAUNCH_DEPENDENTS,
    UID,
    WAIT_FOR_INPUTS,
    Asm,
    Operands,
)
from sparse_triton.kernels.decode.expand_multiply import load_x_all, multiply, x_pointer
from sparse_triton.kernels.decode.expand_program import GROUP, Expand
from sparse_triton.kernels.decode.expand_sums import exchange, repair
from sparse_triton.kernels.decode.limits import STATIC_SHARED_BYTES
from sparse_triton.kernels.decode.steps import STEP, addresses, nonzero


def emit_expand(e: Expand) -> Asm:
    """Inputs, in order: pointers to all values and gaps, to the block's first entry of
    ``first_step``, to this thread's column before the first chunk's piece, to the tile of X;
    element strides of X along K and N; columns of the tile; thread number.
    Outputs: sums number ``thread + j * threads`` of the [block_m][columns] of the program."""
    operands = Operands()
    outs = [operands.new("=f") for _ in range(e.shape.outputs)]
    values, gaps, first, before, x, stride_k, stride_n, columns, thread = (
        operands.new(c) for c in "lllllllrr"
    )
    lines = [
        *_declare(e),
        *([LAUNCH_DEPENDENTS] if e.dependent_launch else []),
        *_places(e, thread),
        f"mov.b64 pf, {first};",
        f"mov.b64 pb, {before};",
        f"mov.b64 values, {values};",
        f"mov.b64 gaps, {gaps};",
        "ld.global.nc.b32 end0, [pf];",
        "ld.global.nc.b32 end1, [pf+4];",
        "ld.global.nc.b32 end2, [pf+8];" if e.chunks > 1 else "mov.b32 end2, end1;",
        "ld.global.nc.s16 start, [pb];",
        *_piece("end0", "end1", e, "n"),
        *(line for i in range(e.depth) for line in _fetch(e, i, "n")),
        "mov.b64 cv, pv;",
        "mov.b64 cg, pg;",
        *_zero(e, thread),
        *x_pointer(e, x, stride_k, stride_n, columns),
        "mov.b32 c, -1;",
        "bar.sync 0;",
        # Turn c writes chunk c + 1 into one tile while it multiplies chunk c in the other.
        f"TURN{UID}:",
        "setp.lt.s32 before, c, 0;",
        f"@before bra WRITE{UID};",
        *_wait(e),
        *(load_x_all(e) if e.n_tiles <= 2 else []),
        f"WRITE{UID}:",
        *_next_piece(e),
        *(line for i in range(e.depth) for line in _scatter_slot(e, i)),
        *_scatter_rest(e),
        f"@before bra TURNED{UID};",
        *multiply(e),
        f"TURNED{UID}:",
        "bar.sync 0;",
        "mov.b32 n, nn;",
        "mov.b32 start, start1;",
        "mov.b64 cv, pv;",
        "mov.b64 cg, pg;",
        "add.u32 row, row, other;",
        "sub.u32 tile, tile, other;",
        "neg.s32 other, other;",
        "add.s32 c, c, 1;",
        f"setp.lt.s32 more, c, {e.chunks};",
        f"@more bra TURN{UID};",
        *exchange(e, thread, outs),
        *repair(e, thread, outs, x, stride_k, stride_n, first, columns),
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))


def _places(e: Expand, thread: str) -> Iterator[str]:
    """``row``: where this thread writes its row, in the first tile; ``tile``: where it reads, in
    the other; ``other``: from one to the other. Row r is shifted by 16 bytes times
    r / 2 + 4 (r mod 2), modulo 8: rows side by side lie in other banks, for writes and reads."""
    block_m = e.shape.block_m
    yield "mov.u32 window, anchor;"
    yield f"add.u32 window, window, {STATIC_SHARED_BYTES};"
    yield "mov.u32 lane, %laneid;"
    yield f"shr.u32 warp, {thread}, 5;"
    yield f"and.b32 place, {thread}, {block_m - 1};"
    yield f"shr.u32 piece, {thread}, {block_m.bit_length() - 1};"
    yield "and.b32 t, lane, 3;"
    yield "shr.u32 g, lane, 2;"
    for name, r in (("row", "place"), ("tile", "g")):
        yield f"mad.lo.u32 {name}, {r}, {e.row_bytes}, window;"
        yield f"and.b32 o, {r}, 6;"
        yield f"mad.lo.u32 {name}, o, 8, {name};"
        yield f"and.b32 o, {r}, 1;"
        yield f"mad.lo.u32 {name}, o, 64, {name};"
    # this lane's share of the tile: row g, columns 8 t of a group of 32
    yield "mad.lo.u32 tile, t, 16, tile;"
    yield f"mad.lo.u32 tile, warp, {2 * GROUP * e.groups}, tile;"
    yield f"add.u32 tile, tile, {e.shape.tile_bytes};"
    yield f"mov.b32 other, {e.shape.tile_bytes};"


def _wait(e: Expand) -> Iterator[str]:
    """X is first read in turn 0."""
    if e.dependent_launch:
        yield "setp.ne.s32 more, c, 0;"
        yield f"@more bra WAITED{UID};"
        yield WAIT_FOR_INPUTS
        yield f"WAITED{UID}:"


def _declare(e: Expand) -> Iterator[str]:
    """``v``, ``g``: slots; ``b``: X; ``a``: addresses, later fragments of W; ``acc``: sums."""
    x_words = 4 * e.n_tiles * (e.groups if e.n_tiles <= 2 else 1)
    yield f".shared .align 16 .b8 anchor[{STATIC_SHARED_BYTES}];"
    yield ".reg .b64 pf, pb, pv, pg, cv, cg, px, p, q, r, token8, sk, values, gaps;"
    yield ".reg .b32 window, lane, warp, place, piece, row, end0, end1, end2, start, start1;"
    yield ".reg .b32 n, nn, t, g, tile, other, k, c, i, o, w, at, even, odd, both, zero, tokens;"
    yield f".reg .b32 v<{4 * (e.depth + 1)}>, g<{e.gap_words * (e.depth + 1)}>, a<{STEP}>;"
    yield f".reg .b32 b<{x_words}>, m<8>, begin, stop;"
    yield f".reg .f32 acc<{4 * e.m_tiles * e.n_tiles}>, f0, f1, sum;"
    yield ".reg .b16 lo, hi;"
    yield f".reg .pred there<{STEP}>, have, done, more, before;"
    yield "mov.b32 zero, 0;"
    yield from (f"mov.f32 acc{j}, 0f00000000;" for j in range(4 * e.m_tiles * e.n_tiles))


def _piece(begin: str, end: str, e: Expand, count: str) -> Iterator[str]:
    """``count`` steps of this thread's piece of the list [begin, end); pointers to the first."""
    log2 = e.shape.Gy.bit_length() - 1
    yield f"sub.s32 w, {end}, {begin};"
    yield "mul.lo.s32 o, w, piece;"
    yield "add.s32 w, o, w;"
    yield f"shr.s32 o, o, {log2};"
    yield f"shr.s32 w, w, {log2};"
    yield f"sub.s32 {count}, w, o;"
    yield f"add.s32 o, o, {begin};"
    yield f"mad.lo.u32 o, o, {e.shape.block_m}, place;"
    yield "mad.wide.u32 pv, o, 16, values;"
    yield f"mad.wide.u32 pg, o, {4 * e.gap_words}, gaps;"


def _fetch(e: Expand, slot: int, count: str, at: int | None = None) -> Iterator[str]:
    """Step ``slot`` of the piece at ``pv, pg`` into its slot, if there is one."""
    stream = "ld.global.nc.L1::no_allocate"
    v = ", ".join(f"v{4 * slot + j}" for j in range(4))
    g = [f"g{e.gap_words * slot + j}" for j in range(e.gap_words)]
    words = g[0] if len(g) == 1 else f"{{{', '.join(g)}}}"
    kind = "b32" if len(g) == 1 else "v2.b32"
    yield f"setp.gt.s32 have, {count}, {slot};"
    yield f"@have {stream}.v4.b32 {{{v}}}, [pv+{slot * 16 * e.shape.block_m}];"
    yield f"@have {stream}.{kind} {words}, [pg+{slot * 4 * e.gap_words * e.shape.block_m}];"


def _zero(e: Expand, thread: str) -> Iterator[str]:
    """Both tiles: 16 bytes a thread and turn."""
    yield f"mad.lo.u32 o, {thread}, 16, window;"
    yield f"mul.lo.u32 i, {thread}, 16;"
    yield f"ZERO{UID}:"
    yield "st.shared.v4.b32 [o], {zero, zero, zero, zero};"
    yield f"add.u32 o, o, {16 * e.shape.threads};"
    yield f"add.u32 i, i, {16 * e.shape.threads};"
    yield f"setp.lt.u32 more, i, {2 * e.shape.tile_bytes};"
    yield f"@more bra ZERO{UID};"


def _next_piece(e: Expand) -> Iterator[str]:
    """Where the piece of chunk c + 2 lies, and when the one after it ends."""
    yield from _piece("end1", "end2", e, "nn")
    yield "mov.b32 end1, end2;"
    yield f"setp.lt.s32 more, c, {e.chunks - 3};"
    yield "@more ld.global.nc.b32 end2, [pf+12];"
    yield "add.s64 pf, pf, 4;"
    yield f"setp.lt.s32 more, c, {e.chunks - 2};"
    yield f"@more ld.global.nc.s16 start1, [pb+{2 * e.shape.threads}];"
    yield f"add.s64 pb, pb, {2 * e.shape.threads};"
    yield "@!more mov.b32 nn, 0;"
    yield "mad.lo.s32 at, start, 2, row;"


def _scatter_slot(e: Expand, slot: int) -> Iterator[str]:
    """Write out a step of this chunk, then fetch that of the next chunk into its slot."""
    yield f"setp.le.s32 done, n, {slot};"
    yield f"@done bra SKIP{slot}{UID};"
    yield from _scatter(e, slot)
    yield f"SKIP{slot}{UID}:"
    yield from _fetch(e, slot, "nn")


def _scatter(e: Expand, slot: int) -> Iterator[str]:
    yield from addresses(e.gap_bits, 2, slot)
    for first in (0, STEP // 2):
        for j in range(first, first + STEP // 2, 2):
            yield nonzero(e.dtype, f"v{4 * slot + j // 2}", j)
        for j in range(first, first + STEP // 2):
            if j % 2 == 0:
                yield f"mov.b32 {{lo, hi}}, v{4 * slot + j // 2};"
            yield f"@there{j} st.shared.b16 [a{j}+{2 * j + 2}], {'hi' if j % 2 else 'lo'};"


def _scatter_rest(e: Expand) -> Iterator[str]:
    """Steps past the slots, of chunks that are denser than most."""
    slot = e.depth
    yield f"mov.b32 i, {e.depth};"
    yield f"REST{UID}:"
    yield "setp.ge.s32 done, i, n;"
    yield f"@done bra WRITTEN{UID};"
    yield f"mad.wide.u32 p, i, {16 * e.shape.block_m}, cv;"
    yield f"mad.wide.u32 q, i, {4 * e.gap_words * e.shape.block_m}, cg;"
    v = ", ".join(f"v{4 * slot + j}" for j in range(4))
    yield f"ld.global.nc.v4.b32 {{{v}}}, [p];"
    for j in range(e.gap_words):
        yield f"ld.global.nc.b32 g{e.gap_words * slot + j}, [q+{4 * j}];"
    yield from _scatter(e, slot)
    yield "add.s32 i, i, 1;"
    yield f"bra REST{UID};"
    yield f"WRITTEN{UID}:"
