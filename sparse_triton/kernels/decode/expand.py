"""Decode on tensor cores, in PTX: a K chunk of a row block is written out dense, then multiplied.

A thread owns one piece of one row of the chunk and writes its values where their columns are, in a
tile of shared memory [block_m][chunk] that was zero before; after a barrier warps share the tile's
groups of 32 columns, multiply them by X read from memory, and leave zeros behind. While a chunk is
multiplied the steps of the next are on their way. The order of columns within a group of 32 is such
that one lane's share of a row is 16 adjacent bytes, of W as of X.

Zeros of the tile do multiply, so Inf or NaN in X would spread through them. They then make every
sum of their column non-finite; such sums are computed again from the lists, entry by entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sparse_triton.kernels.columns import (
    LAUNCH_DEPENDENTS,
    UID,
    WAIT_FOR_INPUTS,
    Asm,
    Operands,
)
from sparse_triton.kernels.decode.limits import STATIC_SHARED_BYTES, ExpandShape
from sparse_triton.kernels.decode.steps import STEP, addresses, nonzero

GROUP = 32  # columns of two tensor-core instructions


@dataclass(frozen=True)
class Expand:
    """Everything the PTX depends on.

    K            columns of W
    dtype        of W and X, which must be the same
    shape        of the program
    depth        steps a thread holds; a piece with more fetches the rest when it gets there
    vector_x     whether 8 values of X along K can be read as 16 aligned bytes
    """

    K: int
    dtype: str
    shape: ExpandShape
    gap_bits: int
    depth: int
    vector_x: bool
    dependent_launch: bool

    @property
    def gap_words(self) -> int:
        return self.gap_bits // 4

    @property
    def chunks(self) -> int:
        return -(-self.K // self.shape.chunk)

    @property
    def row_bytes(self) -> int:
        return self.shape.row_bytes

    @property
    def groups(self) -> int:
        """Groups of 32 columns of a warp and chunk."""
        return self.shape.chunk // GROUP // self.shape.warps

    @property
    def m_tiles(self) -> int:
        return self.shape.block_m // 16

    @property
    def n_tiles(self) -> int:
        return self.shape.columns // 8


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
    block_m = e.shape.block_m
    lines = [
        *_declare(e),
        *([LAUNCH_DEPENDENTS] if e.dependent_launch else []),
        "mov.u32 window, anchor;",
        f"add.u32 window, window, {STATIC_SHARED_BYTES};",
        "mov.u32 lane, %laneid;",
        f"shr.u32 warp, {thread}, 5;",
        f"and.b32 place, {thread}, {block_m - 1};",
        f"shr.u32 piece, {thread}, {block_m.bit_length() - 1};",
        f"mad.lo.u32 row, place, {e.row_bytes}, window;",
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
        "and.b32 t, lane, 3;",
        "shr.u32 g, lane, 2;",
        # this lane's share of the tile: row g, columns 8 t of a group; of X: token g, the same
        f"mad.lo.u32 tile, g, {e.row_bytes}, window;",
        "mad.lo.u32 tile, t, 16, tile;",
        f"mad.lo.u32 tile, warp, {2 * GROUP * e.groups}, tile;",
        f"mul.lo.u32 k, warp, {GROUP * e.groups};",
        "mad.lo.u32 k, t, 8, k;",
        "cvt.u64.u32 q, k;",
        f"mul.lo.s64 q, q, {stride_k};",
        "cvt.u64.u32 p, g;",
        f"mul.lo.s64 p, p, {stride_n};",
        "add.s64 q, q, p;",
        "shl.b64 q, q, 1;",
        f"add.s64 px, {x}, q;",
        f"shl.b64 token8, {stride_n}, 4;",  # bytes of 8 tokens
        f"shl.b64 sk, {stride_k}, 1;",
        f"sub.s32 tokens, {columns}, g;",  # real tokens from this lane's on
        "mov.b32 c, 0;",
        *([WAIT_FOR_INPUTS] if e.dependent_launch else []),
        "bar.sync 0;",
        f"CHUNK{UID}:",
        *_next_piece(e),
        *(line for i in range(e.depth) for line in _scatter_slot(e, i)),
        *_scatter_rest(e),
        *(_load_x_all(e) if e.n_tiles <= 2 else []),
        "bar.sync 0;",
        *_multiply(e),
        "bar.sync 0;",
        "mov.b32 n, nn;",
        "mov.b32 start, start1;",
        "mov.b64 cv, pv;",
        "mov.b64 cg, pg;",
        "add.s32 c, c, 1;",
        f"setp.lt.s32 more, c, {e.chunks};",
        f"@more bra CHUNK{UID};",
        *_exchange(e, thread, outs),
        *_repair(e, thread, outs, x, stride_k, stride_n, first, columns),
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))


def _declare(e: Expand) -> Iterator[str]:
    """``v``, ``g``: slots; ``b``: X; ``a``: addresses, later fragments of W; ``acc``: sums."""
    x_words = 4 * e.n_tiles * (e.groups if e.n_tiles <= 2 else 1)
    yield f".shared .align 16 .b8 anchor[{STATIC_SHARED_BYTES}];"
    yield ".reg .b64 pf, pb, pv, pg, cv, cg, px, p, q, r, token8, sk, values, gaps;"
    yield ".reg .b32 window, lane, warp, place, piece, row, end0, end1, end2, start, start1;"
    yield ".reg .b32 n, nn, t, g, tile, k, c, i, o, w, at, even, odd, both, zero, tokens, left;"
    yield f".reg .b32 v<{4 * (e.depth + 1)}>, g<{e.gap_words * (e.depth + 1)}>, a<{STEP}>;"
    yield f".reg .b32 b<{x_words}>, m<8>, begin, stop;"
    yield f".reg .f32 acc<{4 * e.m_tiles * e.n_tiles}>, f0, f1, sum;"
    yield ".reg .b16 lo, hi;"
    yield f".reg .pred there<{STEP}>, have, done, more, bad;"
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
    """The whole tile: 16 bytes a thread and turn."""
    yield f"mad.lo.u32 o, {thread}, 16, window;"
    yield f"mul.lo.u32 i, {thread}, 16;"
    yield f"ZERO{UID}:"
    yield "st.shared.v4.b32 [o], {zero, zero, zero, zero};"
    yield f"add.u32 o, o, {16 * e.shape.threads};"
    yield f"add.u32 i, i, {16 * e.shape.threads};"
    yield f"setp.lt.u32 more, i, {e.shape.tile_bytes};"
    yield f"@more bra ZERO{UID};"


def _next_piece(e: Expand) -> Iterator[str]:
    """Where the next chunk's piece lies, and when the one after it ends."""
    yield from _piece("end1", "end2", e, "nn")
    yield "mov.b32 end1, end2;"
    yield f"setp.lt.s32 more, c, {e.chunks - 2};"
    yield "@more ld.global.nc.b32 end2, [pf+12];"
    yield "add.s64 pf, pf, 4;"
    yield f"setp.lt.s32 more, c, {e.chunks - 1};"
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


def _load_x_all(e: Expand) -> Iterator[str]:
    for u in range(e.groups):
        yield from _load_x(e, u, u)


def _load_x(e: Expand, group: int, slot: int) -> Iterator[str]:
    """8 values along K for each 8 tokens; zeros past K and N."""
    yield f"mad.lo.u32 i, c, {e.shape.chunk}, k;"
    yield f"add.u32 i, i, {GROUP * group};"
    yield f"mad.lo.s32 w, c, {e.shape.chunk}, {GROUP * group};"
    yield "cvt.s64.s32 p, w;"
    yield "mad.lo.s64 p, p, sk, px;"
    for tile in range(e.n_tiles):
        words = [f"b{4 * (slot * e.n_tiles + tile) + j}" for j in range(4)]
        yield from (f"mov.b32 {word}, 0;" for word in words)
        yield f"setp.gt.s32 more, tokens, {8 * tile};"
        if e.vector_x:
            yield f"setp.lt.and.u32 have, i, {e.K}, more;"
            yield f"@have ld.global.v4.b32 {{{', '.join(words)}}}, [p];"
        else:
            yield "mov.b64 q, p;"
            for j, word in enumerate(words):
                for half in range(2):
                    at = 2 * j + half
                    yield f"setp.lt.and.s32 have, i, {e.K - at}, more;"
                    yield "mov.b32 w, 0;"
                    yield "@have ld.global.u16 w, [q];"
                    yield f"shl.b32 w, w, {16 * half};" if half else ""
                    yield f"or.b32 {word}, {word}, w;"
                    yield "add.s64 q, q, sk;"
        if tile + 1 < e.n_tiles:
            yield "add.s64 p, p, token8;"


def _multiply(e: Expand) -> Iterator[str]:
    kind = "f16" if e.dtype == "float16" else "bf16"
    for u in range(e.groups):
        if e.n_tiles > 2:
            yield from _load_x(e, u, 0)
        slot = u if e.n_tiles <= 2 else 0
        for m in range(e.m_tiles):
            for half in range(2):
                at = (16 * m + 8 * half) * e.row_bytes + 2 * GROUP * u
                words = ", ".join(f"m{4 * half + j}" for j in range(4))
                yield f"ld.shared.v4.b32 {{{words}}}, [tile+{at}];"
                yield f"st.shared.v4.b32 [tile+{at}], {{zero, zero, zero, zero}};"
            for tile in range(e.n_tiles):
                first = 4 * (m * e.n_tiles + tile)
                acc = ", ".join(f"acc{first + j}" for j in range(4))
                for j in (0, 2):
                    x = 4 * (slot * e.n_tiles + tile) + j
                    yield (
                        f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 {{{acc}}}, "
                        f"{{m{j}, m{4 + j}, m{j + 1}, m{5 + j}}}, {{b{x}, b{x + 1}}}, {{{acc}}};"
                    )


def _exchange(e: Expand, thread: str, outs: list[str]) -> Iterator[str]:
    """Sums of the warps, laid out [warp][row][column], added in warp order."""
    columns, sums = e.shape.columns, e.shape.block_m * e.shape.columns
    yield f"mad.lo.u32 o, warp, {4 * sums}, window;"
    yield f"mad.lo.u32 o, g, {4 * columns}, o;"
    yield "mad.lo.u32 o, t, 8, o;"
    for m in range(e.m_tiles):
        for tile in range(e.n_tiles):
            first = 4 * (m * e.n_tiles + tile)
            for half in range(2):
                at = 4 * ((16 * m + 8 * half) * columns + 8 * tile)
                pair = f"acc{first + 2 * half}, acc{first + 2 * half + 1}"
                yield f"st.shared.v2.f32 [o+{at}], {{{pair}}};"
    yield "bar.sync 0;"
    for j, out in enumerate(outs):
        yield "mov.f32 sum, 0f00000000;"
        yield f"add.u32 i, {thread}, {j * e.shape.threads};"
        yield f"setp.ge.u32 done, i, {sums};"
        yield f"@done bra SUMMED{j}{UID};"
        yield "mad.lo.u32 o, i, 4, window;"
        for w in range(e.shape.warps):
            yield f"ld.shared.f32 f0, [o+{4 * sums * w}];"
            yield "add.rn.f32 sum, sum, f0;"
        yield f"SUMMED{j}{UID}:"
        yield f"mov.f32 {out}, sum;"


def _repair(
    e: Expand, thread: str, outs: list[str], x: str, stride_k: str, stride_n: str, first: str,
    columns: str,
) -> Iterator[str]:  # fmt: skip
    """A sum that is not finite is computed again from its list, stored weights alone."""
    width, block_m = e.shape.columns, e.shape.block_m
    for j, out in enumerate(outs):
        end = f"REPAIRED{j}{UID}"
        yield f"testp.finite.f32 done, {out};"
        yield f"@done bra {end};"
        yield f"add.u32 i, {thread}, {j * e.shape.threads};"
        yield f"and.b32 t, i, {width - 1};"
        yield f"setp.ge.s32 done, t, {columns};"
        yield f"@done bra {end};"
        yield f"shr.u32 place, i, {width.bit_length() - 1};"
        yield "cvt.u64.u32 p, t;"
        yield f"mul.lo.s64 p, p, {stride_n};"
        yield "shl.b64 p, p, 1;"
        yield f"add.s64 p, p, {x};"
        yield "mov.f32 sum, 0f00000000;"
        yield "mov.b32 c, 0;"
        yield f"mov.b64 pf, {first};"
        yield f"LISTS{j}{UID}:"
        yield "ld.global.nc.b32 begin, [pf];"
        yield "ld.global.nc.b32 stop, [pf+4];"
        yield "add.s64 pf, pf, 4;"
        yield f"mul.lo.u32 k, c, {e.shape.chunk};"
        yield f"STEPS{j}{UID}:"
        yield "setp.ge.s32 done, begin, stop;"
        yield f"@done bra LISTED{j}{UID};"
        yield f"mad.lo.u32 o, begin, {block_m}, place;"
        yield "mad.wide.u32 pv, o, 16, values;"
        yield f"mad.wide.u32 pg, o, {4 * e.gap_words}, gaps;"
        for entry in range(STEP):
            if entry % (STEP // e.gap_words) == 0:
                yield f"ld.global.nc.b32 w, [pg+{4 * (entry * e.gap_words // STEP)}];"
            yield f"and.b32 o, w, {(1 << e.gap_bits) - 1};"
            yield f"shr.u32 w, w, {e.gap_bits};"
            yield "add.u32 k, k, o;"
            yield f"ld.global.nc.b16 lo, [pv+{2 * entry}];"
            yield "setp.ne.b16 have, lo, 0;"
            yield "cvt.u64.u32 q, k;"
            yield "mad.lo.s64 q, q, sk, p;"
            yield "@have ld.global.b16 hi, [q];"
            yield from _float("f0", "lo", e.dtype)
            yield from _float("f1", "hi", e.dtype)
            yield "@have fma.rn.f32 sum, f0, f1, sum;"
            yield "add.u32 k, k, 1;"
        yield "add.s32 begin, begin, 1;"
        yield f"bra STEPS{j}{UID};"
        yield f"LISTED{j}{UID}:"
        yield "add.s32 c, c, 1;"
        yield f"setp.lt.s32 more, c, {e.chunks};"
        yield f"@more bra LISTS{j}{UID};"
        yield f"mov.f32 {out}, sum;"
        yield f"{end}:"


def _float(out: str, half: str, dtype: str) -> Iterator[str]:
    if dtype == "float16":
        yield f"cvt.f32.f16 {out}, {half};"
    else:
        yield f"cvt.u32.u16 o, {half};"
        yield "shl.b32 o, o, 16;"
        yield f"mov.b32 {out}, o;"
