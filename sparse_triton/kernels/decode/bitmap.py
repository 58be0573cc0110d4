"""Decode on tensor cores, in PTX: tiles of W are expanded from a bitmap and values in registers.

A warp owns 16 or 32 rows and a piece of K. It copies records (1024 elements: a bitmap and the
values, see ``bitmap_pack``) into a ring of shared memory of its own, ``stages`` - 1 ahead, and
needs no barrier with other warps before the sums. A lane's word of the bitmap has its 8 elements of
each of the record's four tiles, four and four; the values of one such four of all lanes lie in the
order of lanes, so a scan over the lanes of how many each has tells where its own begin. Which of
the columns a tile has is such that a lane's share of X is 16 adjacent bytes.

Absent elements multiply as zeros, so Inf or NaN in X would spread through them. They then make
every sum of their column non-finite; such sums are computed again, entry by entry.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.columns import LAUNCH_DEPENDENTS, UID, WAIT_FOR_INPUTS, Asm, Operands
from sparse_triton.kernels.decode.bitmap_program import (
    FOURS,
    GROUP,
    MAX_RECORD_BYTES,
    RECORD_HEAD,
    Bitmap,
)
from sparse_triton.kernels.decode.bitmap_sums import exchange, repair
from sparse_triton.kernels.decode.limits import STATIC_SHARED_BYTES

COPY = 16 * 32  # bytes that a warp copies at once


def emit_bitmap(b: Bitmap) -> Asm:
    """Inputs, in order: pointers to all records, to where the program's first record begins, to the
    tile of X; element strides of X along K and N; columns of the tile; bytes of a stage; thread
    number. Outputs: sums number ``thread + j * threads`` of the [block_m][columns] of the program.
    """
    operands = Operands()
    outs = [operands.new("=f") for _ in range(b.shape.outputs)]
    records, first, x, stride_k, stride_n, columns, stage, thread = (
        operands.new(c) for c in "lllllrrr"
    )
    lines = [
        *_declare(b),
        *([LAUNCH_DEPENDENTS] if b.dependent_launch else []),
        *_places(b, records, first, stage, thread),
        *(line for _ in range(b.shape.stages - 1) for line in _copy_next(b, stage)),
        *_x_pointer(b, x, stride_k, stride_n, columns),
        *([WAIT_FOR_INPUTS] if b.dependent_launch else []),
        f"STRIP{UID}:",
        "setp.le.s32 done, left, 0;",
        f"@done bra MULTIPLIED{UID};",
        f"cp.async.wait_group {b.shape.stages - 2};",
        "bar.warp.sync 0xffffffff;",
        *(line for u in range(b.groups if b.n_tiles <= 2 else 1) for line in _load_x(b, u)),
        "add.u32 o, at, word;",
        "ld.shared.b32 bits, [o];",
        *_copy_next(b, stage),
        *_scan(),
        *(line for m in range(FOURS // 2) for line in _tile(b, m)),
        *_turn(b, "at", stage),
        f"add.s64 px, px, {2 * b.shape.width};" if b.vector_x else "add.s64 px, px, strip_x;",
        f"add.u32 k, k, {b.shape.width};" if b.K % b.shape.width else "",
        "sub.s32 left, left, 1;",
        f"bra STRIP{UID};",
        f"MULTIPLIED{UID}:",
        "cp.async.wait_all;",
        "bar.sync 0;",
        *exchange(b, thread, outs),
        *repair(b, thread, outs, x, stride_k, stride_n, records, first, columns),
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))


def _declare(b: Bitmap) -> Iterator[str]:
    """``b``: X; ``a``: a tile of W; ``pos``: of this lane's values; ``acc``: sums."""
    yield f".shared .align 16 .b8 anchor[{STATIC_SHARED_BYTES}];"
    yield ".reg .b64 pf, px, p, q, r, token8, strip_x, sk;"
    yield ".reg .b32 window, lane, lane16, word, warp, unit, piece, t, g, k, o, w, i, c, tokens;"
    yield ".reg .b32 left, ahead, from, until, then, length, at, to, ring, end, bits;"
    yield f".reg .b32 e<2>, own<2>, all<2>, base<{FOURS}>, pos<4>, v<4>, a<4>;"
    yield f".reg .b32 b<{4 * b.groups * b.n_tiles}>, place, strip, entry, run;"
    yield f".reg .f32 acc<{4 * b.m_tiles * b.n_tiles}>, f0, f1, sum;"
    yield ".reg .b16 lo, hi;"
    yield f".reg .pred token<{b.n_tiles}>, have, done, more;"
    yield from (f"mov.f32 acc{j}, 0f00000000;" for j in range(4 * b.m_tiles * b.n_tiles))


def _places(b: Bitmap, records: str, first: str, stage: str, thread: str) -> Iterator[str]:
    """Strips of this warp, where its records begin, and its ring of stages."""
    log2 = b.shape.Gy.bit_length() - 1
    yield "mov.u32 window, anchor;"
    yield f"add.u32 window, window, {STATIC_SHARED_BYTES};"
    yield "mov.u32 lane, %laneid;"
    yield "shl.b32 lane16, lane, 4;"
    yield "shl.b32 word, lane, 2;"
    yield "and.b32 t, lane, 3;"
    yield "shr.u32 g, lane, 2;"
    yield f"shr.u32 warp, {thread}, 5;"
    yield f"and.b32 unit, warp, {b.shape.units - 1};"
    yield f"shr.u32 piece, warp, {b.shape.units.bit_length() - 1};"
    yield f"mul.lo.u32 k, piece, {b.strips};"
    yield f"add.u32 left, k, {b.strips};"
    yield f"shr.u32 k, k, {log2};"
    yield f"shr.u32 left, left, {log2};"
    yield "sub.s32 left, left, k;"
    yield "mov.b32 ahead, left;"
    yield f"mad.lo.u32 o, unit, {b.strips}, k;"
    yield f"mad.wide.u32 pf, o, 4, {first};"
    yield "ld.global.nc.b32 from, [pf];"
    yield "ld.global.nc.b32 until, [pf+4];"
    yield "ld.global.nc.b32 then, [pf+8];"
    yield "add.s64 pf, pf, 12;"
    yield "cvt.u64.u32 q, lane16;"
    yield f"add.s64 q, q, {records};"
    yield f"mul.lo.u32 ring, {stage}, {b.shape.stages};"
    yield "mad.lo.u32 at, warp, ring, window;"
    yield "add.u32 end, at, ring;"
    yield "mov.b32 to, at;"


def _copy_next(b: Bitmap, stage: str) -> Iterator[str]:
    """The next record into the next stage; a group of its own even if there is none left."""
    yield "sub.u32 length, until, from;"
    yield "setp.gt.s32 more, ahead, 0;"
    yield "selp.b32 length, length, 0, more;"
    yield "sub.s32 ahead, ahead, 1;"
    yield "sub.s32 length, length, lane;"
    yield "mad.wide.u32 p, from, 16, q;"
    yield "add.u32 o, to, lane16;"
    for r in range(-(-MAX_RECORD_BYTES // COPY)):
        yield f"setp.gt.s32 have, length, {32 * r};"
        yield f"@have cp.async.cg.shared.global.L2::128B [o+{COPY * r}], [p+{COPY * r}], 16;"
    yield "cp.async.commit_group;"
    yield "mov.b32 from, until;"
    yield "mov.b32 until, then;"
    yield "ld.global.nc.b32 then, [pf];"
    yield "add.s64 pf, pf, 4;"
    yield from _turn(b, "to", stage)


def _turn(b: Bitmap, pointer: str, stage: str) -> Iterator[str]:
    """To the next stage of the ring."""
    yield f"add.u32 {pointer}, {pointer}, {stage};"
    yield f"setp.ge.u32 more, {pointer}, end;"
    yield f"@more sub.u32 {pointer}, {pointer}, ring;"


def _x_pointer(b: Bitmap, x: str, stride_k: str, stride_n: str, columns: str) -> Iterator[str]:
    """``px``: token g, columns 8 t of this warp's first strip; ``k``: that column."""
    yield f"mul.lo.u32 k, k, {b.shape.width};"
    yield "mad.lo.u32 k, t, 8, k;"
    yield f"shl.b64 sk, {stride_k}, 1;"
    yield "cvt.u64.u32 px, k;"
    yield f"mad.lo.s64 px, px, sk, {x};"
    yield "cvt.u64.u32 p, g;"
    yield f"mul.lo.s64 p, p, {stride_n};"
    yield "shl.b64 p, p, 1;"
    yield "add.s64 px, px, p;"
    yield f"shl.b64 token8, {stride_n}, 4;"  # bytes of 8 tokens
    yield f"mul.lo.s64 strip_x, sk, {b.shape.width};"
    yield f"sub.s32 tokens, {columns}, g;"  # real tokens from this lane's on
    for n in range(b.n_tiles):
        yield f"setp.gt.s32 token{n}, tokens, {8 * n};"
    yield from (f"mov.b32 b{j}, 0;" for j in range(4 * b.groups * b.n_tiles))


def _load_x(b: Bitmap, u: int) -> Iterator[str]:
    """8 values along K for each 8 tokens, of one half of the strip; zeros past K and N."""
    if b.vector_x:
        yield f"add.s64 p, px, {2 * GROUP * u};"
    else:
        yield f"mad.lo.s64 p, sk, {GROUP * u}, px;"
    for n in range(b.n_tiles):
        words = [f"b{4 * (u * b.n_tiles + n) + j}" for j in range(4)]
        if b.K % b.shape.width:
            yield from (f"mov.b32 {word}, 0;" for word in words)
        if b.vector_x:
            yield from _load_vector(b, u, n, words)
        else:
            yield from _load_halves(b, u, n, words)
        if n + 1 < b.n_tiles:
            yield "add.s64 p, p, token8;"


def _load_vector(b: Bitmap, u: int, n: int, words: list[str]) -> Iterator[str]:
    guard = "" if b.all_columns else f"@token{n} "
    if b.K % b.shape.width:
        yield f"setp.lt.and.s32 have, k, {b.K - GROUP * u}, token{n};"
        guard = "@have "
    yield f"{guard}ld.global.v4.b32 {{{', '.join(words)}}}, [p];"


def _load_halves(b: Bitmap, u: int, n: int, words: list[str]) -> Iterator[str]:
    yield "mov.b64 r, p;"
    for j, word in enumerate(words):
        for half in range(2):
            at = GROUP * u + 2 * j + half
            yield f"setp.lt.and.s32 have, k, {b.K - at}, token{n};"
            if not half:
                yield f"mov.b32 {word}, 0;"
                yield f"@have ld.global.u16 {word}, [r];"
            else:
                yield "@have ld.global.u16 w, [r];"
                yield f"@have prmt.b32 {word}, {word}, w, 0x5410;"
            yield "add.s64 r, r, sk;"


def _scan() -> Iterator[str]:
    """``e<h>``: in byte i, values of fours 4 h + i that lower lanes have; ``base<q>``: where the
    values of the q-th fours begin."""
    # Bit q of each byte is of the q-th four: added up over the bytes, two fours at a time.
    for q in range(4):
        yield f"shr.u32 w, bits, {q};" if q else "mov.b32 w, bits;"
        yield "and.b32 w, w, 0x11111111;"
        yield f"dp4a.u32.u32 {'w' if q else 'c'}, w, 0x01010101, 0;"
        if q:
            yield f"mad.lo.u32 c, w, {1 << 8 * q}, c;"
    yield "shr.u32 w, c, 4;"
    for half, counts in enumerate("cw"):
        yield f"and.b32 own{half}, {counts}, 0x0f0f0f0f;"
    for half in range(2):  # at most 32 * 4, which a byte holds
        yield f"mov.b32 e{half}, own{half};"
        for distance in (1, 2, 4, 8, 16):
            yield f"shfl.sync.up.b32 w|have, e{half}, {distance}, 0, 0xffffffff;"
            yield f"@have add.u32 e{half}, e{half}, w;"
        yield f"shfl.sync.idx.b32 all{half}, e{half}, 31, 31, 0xffffffff;"
        yield f"sub.u32 e{half}, e{half}, own{half};"
    yield f"add.u32 base0, at, {RECORD_HEAD};"
    for q in range(FOURS - 1):  # two bytes a value
        yield f"dp4a.u32.u32 base{q + 1}, all{q // 4}, {2 << 8 * (q % 4)}, base{q};"


def _tile(b: Bitmap, m: int) -> Iterator[str]:
    """Expand this lane's 8 elements of a tile and multiply."""
    if m == 2 and b.groups == 2 and b.n_tiles > 2:
        yield from _load_x(b, 1)
    yield from _four(2 * m)
    yield from _four(2 * m + 1)
    kind = "f16" if b.dtype == "float16" else "bf16"
    group, row_tile = (m // 2, 0) if b.groups == 2 else (0, m // 2)
    for n in range(b.n_tiles):
        first = 4 * (row_tile * b.n_tiles + n)
        acc = ", ".join(f"acc{first + j}" for j in range(4))
        x = 4 * (group * b.n_tiles + n) + m % 2 * 2
        yield (
            f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 {{{acc}}}, "
            f"{{a0, a1, a2, a3}}, {{b{x}, b{x + 1}}}, {{{acc}}};"
        )


def _four(q: int) -> Iterator[str]:
    """Four elements: where each one's value is if it has one, all loaded, absent ones made zero."""
    one = 1 << q % 2  # what a set bit is after the shift
    yield f"dp4a.u32.u32 pos0, e{q // 4}, {2 << 8 * (q % 4)}, base{q};"
    yield f"shr.u32 w, bits, {q - q % 2};"
    yield f"and.b32 w, w, {0x01010101 * one};"
    for i in range(1, 4):
        yield f"dp4a.u32.u32 pos{i}, w, {0x02020202 // one >> 8 * (4 - i)}, pos0;"
    for i in range(4):
        yield f"ld.shared.u16 v{i}, [pos{i}];"
    # Selects bytes 0 and 1 of a value that is there, else 2 and 3, which are zero.
    yield f"mad.lo.u32 w, w, {2**32 - 0x22 // one}, 0x76327632;"
    yield f"prmt.b32 a{q % 2 * 2}, v0, v1, w;"
    yield "shr.u32 w, w, 16;"
    yield f"prmt.b32 a{q % 2 * 2 + 1}, v2, v3, w;"
