"""The sums of a bitmap program: over its pieces of K, and again where one is not finite."""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.columns import UID
from sparse_triton.kernels.decode.bitmap_program import (
    FOURS,
    GROUP,
    RECORD_HEAD,
    TILE_ROWS,
    Bitmap,
)
from sparse_triton.kernels.decode.sums import add_up


def exchange(b: Bitmap, thread: str, outs: list[str]) -> Iterator[str]:
    """Sums of the pieces, laid out [piece][row][column], added in piece order."""
    columns, sums = b.shape.columns, b.shape.block_m * b.shape.columns
    yield f"mad.lo.u32 o, piece, {b.shape.block_m}, g;"
    yield f"mad.lo.u32 o, unit, {b.shape.rows}, o;"
    yield f"mad.lo.u32 o, o, {4 * columns}, window;"
    yield "mad.lo.u32 o, t, 8, o;"
    for m in range(b.m_tiles):
        for n in range(b.n_tiles):
            first = 4 * (m * b.n_tiles + n)
            for half in range(2):
                at = 4 * ((TILE_ROWS * m + 8 * half) * columns + 8 * n)
                pair = f"acc{first + 2 * half}, acc{first + 2 * half + 1}"
                yield f"st.shared.v2.f32 [o+{at}], {{{pair}}};"
    yield "bar.sync 0;"
    for j, out in enumerate(outs):
        yield f"add.u32 i, {thread}, {j * b.shape.threads};"
        address = iter(["mad.lo.u32 o, i, 4, window;"])
        yield from add_up(out, j, "i", sums, address, b.shape.Gy, 4 * sums)


def repair(
    b: Bitmap, thread: str, outs: list[str], x: str, stride_k: str, stride_n: str, records: str,
    first: str, columns: str,
) -> Iterator[str]:  # fmt: skip
    """A sum that is not finite is computed again from its records, stored weights alone."""
    width = b.shape.columns
    for j, out in enumerate(outs):
        end = f"REPAIRED{j}{UID}"
        yield f"testp.finite.f32 done, {out};"
        yield f"@done bra {end};"
        yield f"add.u32 i, {thread}, {j * b.shape.threads};"
        yield f"and.b32 o, i, {width - 1};"
        yield f"setp.ge.s32 done, o, {columns};"
        yield f"@done bra {end};"
        yield "cvt.u64.u32 px, o;"
        yield f"mul.lo.s64 px, px, {stride_n};"
        yield "shl.b64 px, px, 1;"
        yield f"add.s64 px, px, {x};"
        yield f"shr.u32 place, i, {width.bit_length() - 1};"
        yield f"shr.u32 unit, place, {b.shape.rows.bit_length() - 1};"
        yield f"mul.lo.u32 o, unit, {b.strips};"
        yield f"mad.wide.u32 pf, o, 4, {first};"
        yield "and.b32 g, place, 7;"
        yield "shr.u32 piece, place, 2;"  # 2 for rows 8 to 15 of a tile: their first element
        yield "and.b32 piece, piece, 2;"
        yield "mov.f32 sum, 0f00000000;"
        yield "mov.b32 strip, 0;"
        yield f"RECORDS{j}{UID}:"
        yield "ld.global.nc.b32 from, [pf];"
        yield "add.s64 pf, pf, 4;"
        yield f"mad.wide.u32 p, from, 16, {records};"
        yield f"add.s64 q, p, {RECORD_HEAD};"
        yield "mov.b32 entry, 0;"
        yield f"LANES{j}{UID}:"  # entry = 32 q + lane: the q-th four of that lane
        yield "and.b32 o, entry, 31;"
        yield "mad.wide.u32 r, o, 4, p;"
        yield "ld.global.nc.b32 bits, [r];"
        yield "shr.u32 w, entry, 5;"
        yield "shr.u32 bits, bits, w;"
        yield "and.b32 bits, bits, 0x01010101;"
        yield "mul.lo.u32 bits, bits, 0x01020408;"  # bit 8 i to bit 24 + i
        yield "shr.u32 bits, bits, 24;"
        yield "shr.u32 t, o, 2;"
        yield "setp.ne.u32 done, t, g;"
        yield f"@done bra OTHERS{j}{UID};"
        if b.m_tiles == 2:  # fours 4 to 7 are of rows 16 to 31
            yield "shr.u32 i, w, 2;"
            yield "shr.u32 t, place, 4;"
            yield "and.b32 t, t, 1;"
            yield "setp.ne.u32 done, t, i;"
            yield f"@done bra OTHERS{j}{UID};"
        yield from _entries(b)
        yield f"OTHERS{j}{UID}:"
        yield "popc.b32 run, bits;"
        yield "mad.wide.u32 q, run, 2, q;"
        yield "add.u32 entry, entry, 1;"
        yield f"setp.lt.u32 more, entry, {32 * FOURS};"
        yield f"@more bra LANES{j}{UID};"
        yield "add.u32 strip, strip, 1;"
        yield f"setp.lt.u32 more, strip, {b.strips};"
        yield f"@more bra RECORDS{j}{UID};"
        yield f"mov.f32 {out}, sum;"
        yield f"{end}:"


def _entries(b: Bitmap) -> Iterator[str]:
    """A row's two elements of a four: of ``bits``, their values from ``q`` on."""
    yield "and.b32 t, o, 3;"
    yield "mov.b32 k, strip;"
    if b.groups == 2:
        yield "shr.u32 i, w, 2;"
        yield "mad.lo.u32 k, strip, 2, i;"
    yield f"mad.lo.u32 k, k, {GROUP // 8}, t;"
    yield "and.b32 w, w, 3;"
    yield "mad.lo.u32 k, k, 4, w;"
    for element in range(2):
        yield f"add.u32 i, piece, {element};"
        yield "mov.b32 w, 1;"
        yield "shl.b32 w, w, i;"
        yield "and.b32 o, bits, w;"
        yield "setp.ne.u32 have, o, 0;"
        yield "sub.u32 w, w, 1;"
        yield "and.b32 w, w, bits;"
        yield "popc.b32 w, w;"
        yield "mad.wide.u32 r, w, 2, q;"
        yield "@have ld.global.nc.b16 lo, [r];"
        yield f"mad.lo.u32 o, k, 2, {element};"
        yield "cvt.u64.u32 r, o;"
        yield "mad.lo.s64 r, r, sk, px;"
        yield "@have ld.global.b16 hi, [r];"
        yield from _float("f0", "lo", b.dtype)
        yield from _float("f1", "hi", b.dtype)
        yield "@have fma.rn.f32 sum, f0, f1, sum;"


def _float(out: str, half: str, dtype: str) -> Iterator[str]:
    if dtype == "float16":
        yield f"cvt.f32.f16 {out}, {half};"
    else:
        yield f"cvt.u32.u16 o, {half};"
        yield "shl.b32 o, o, 16;"
        yield f"mov.b32 {out}, o;"
