"""A record out of its bitmap and values into registers, and multiplied, a tile at a time."""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.decode.bitmap_program import FOURS, RECORD_HEAD, Bitmap
from sparse_triton.kernels.decode.bitmap_x import load_x


def scan() -> Iterator[str]:
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


def multiply_tile(b: Bitmap, m: int) -> Iterator[str]:
    """Expand this lane's 8 elements of a tile and multiply."""
    if m == 2 and b.groups == 2 and b.n_tiles > 2:
        yield from load_x(b, 1)
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
    yield f"dp4a.u32.u32 pos0, e{q // 4}, {2 << 8 * (q % 4)}, base{q};"
    yield f"shr.u32 w, bits, {q};"
    yield "and.b32 w, w, 0x01010101;"
    for i in range(1, 4):
        yield f"dp4a.u32.u32 pos{i}, w, {0x02020202 >> 8 * (4 - i)}, pos0;"
    for i in range(4):
        yield f"ld.shared.u16 v{i}, [pos{i}];"
    # Selects bytes 0 and 1 of a value that is there, else 2 and 3, which are zero.
    yield f"mad.lo.u32 w, w, {2**32 - 0x22}, 0x76327632;"
    yield f"prmt.b32 a{q % 2 * 2}, v0, v1, w;"
    yield "shr.u32 w, w, 16;"
    yield f"prmt.b32 a{q % 2 * 2 + 1}, v2, v3, w;"
