"""A tile of W by X on tensor cores: 16-bit operands, float32 sums, zeros left behind."""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.decode.expand_program import GROUP, Expand


def x_pointer(e: Expand, x: str, stride_k: str, stride_n: str, columns: str) -> Iterator[str]:
    """``px``: token g, columns 8 t of this warp's first group; ``k``: that column."""
    yield f"mul.lo.u32 k, warp, {GROUP * e.groups};"
    yield "mad.lo.u32 k, t, 8, k;"
    yield "cvt.u64.u32 q, k;"
    yield f"mul.lo.s64 q, q, {stride_k};"
    yield "cvt.u64.u32 p, g;"
    yield f"mul.lo.s64 p, p, {stride_n};"
    yield "add.s64 q, q, p;"
    yield "shl.b64 q, q, 1;"
    yield f"add.s64 px, {x}, q;"
    yield f"shl.b64 token8, {stride_n}, 4;"  # bytes of 8 tokens
    yield f"shl.b64 sk, {stride_k}, 1;"
    yield f"sub.s32 tokens, {columns}, g;"  # real tokens from this lane's on


def load_x_all(e: Expand) -> Iterator[str]:
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


def multiply(e: Expand) -> Iterator[str]:
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
