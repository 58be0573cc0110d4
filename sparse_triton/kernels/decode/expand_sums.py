"""The sums of an expanding program: over its warps, and again where one is not finite."""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.columns import UID
from sparse_triton.kernels.decode.expand_program import Expand
from sparse_triton.kernels.decode.steps import STEP


def exchange(e: Expand, thread: str, outs: list[str]) -> Iterator[str]:
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


def repair(
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
