"""A warp's share of X for a record, in the registers of ``mma.m16n8k16``."""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.decode.bitmap_program import GROUP, Bitmap


def x_pointer(b: Bitmap, x: str, stride_k: str, stride_n: str, columns: str) -> Iterator[str]:
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


def load_x(b: Bitmap, u: int) -> Iterator[str]:
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
