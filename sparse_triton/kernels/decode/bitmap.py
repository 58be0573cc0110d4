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
from sparse_triton.kernels.decode.bitmap_program import FOURS, MAX_RECORD_BYTES, Bitmap
from sparse_triton.kernels.decode.bitmap_sums import exchange, repair
from sparse_triton.kernels.decode.bitmap_tiles import multiply_tile, scan
from sparse_triton.kernels.decode.bitmap_x import load_x, x_pointer
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
        *(line for i in range(b.shape.stages - 1) for line in _copy_first(i, stage)),
        f"add.u32 to, to, {stage};",
        *x_pointer(b, x, stride_k, stride_n, columns),
        *([WAIT_FOR_INPUTS] if b.dependent_launch else []),
        f"STRIP{UID}:",
        "setp.le.s32 done, left, 0;",
        f"@done bra MULTIPLIED{UID};",
        f"cp.async.wait_group {b.shape.stages - 2};",
        "bar.warp.sync 0xffffffff;",
        *(line for u in range(b.groups if b.n_tiles <= 2 else 1) for line in load_x(b, u)),
        "add.u32 o, at, word;",
        "ld.shared.b32 bits, [o];",
        *_copy_next(b.shape.stages - 1),
        *scan(),
        *(line for m in range(FOURS // 2) for line in multiply_tile(b, m)),
        "mov.b32 to, at;",
        f"add.u32 at, at, {stage};",
        "setp.ge.u32 more, at, end;",
        "@more sub.u32 at, at, ring;",
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
    yield ".reg .b32 left, from, until, then, length, at, to, ring, end, bits;"
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


def _copy_next(ahead: int) -> Iterator[str]:
    """The record ``ahead`` of this one into the stage ``to``; a group of its own even if there is
    none."""
    yield "sub.u32 length, until, from;"
    yield f"setp.gt.s32 more, left, {ahead};"
    yield "selp.b32 length, length, 0, more;"
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


def _copy_first(i: int, stage: str) -> Iterator[str]:
    """Record i into stage i; then ``to`` is the stage that is free next."""
    yield f"add.u32 to, to, {stage};" if i else ""
    yield from _copy_next(i)
