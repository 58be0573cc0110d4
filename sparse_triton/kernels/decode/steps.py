"""What the list kernels of family ``decode`` do with a step: indices to addresses, which are real.

``dp4a`` adds up gaps: with the multiplier m in its first j + 1 bytes, where m is the bytes of a
column, it takes the four gaps of a word to the address of entry j in one instruction. Stored gaps
are one less than the distance, so entry j lies another j + 1 columns further. 16-bit columns need
no sum: ``dp2a`` takes one half of a word times m to an address.
"""

from __future__ import annotations

from collections.abc import Iterator

STEP = 8  # entries of a step


def addresses(gap_bits: int, column_bytes: int, slot: int) -> Iterator[str]:
    """``a0 ... a7``: addresses of the entries of a slot, less ``skipped``; ``at`` moves on.

    Needs the registers ``g`` (gaps of the slots), ``even, odd, both``.
    """
    m = column_bytes
    if gap_bits == 16:
        for j in range(STEP):
            multiplier = m << 8 * (j % 2)
            yield f"dp2a.lo.u32.u32 a{j}, g{4 * slot + j // 2}, {multiplier}, at;"
        return
    if gap_bits == 8:
        for j in range(STEP):
            base = "at" if j < 4 else "a3"
            yield f"dp4a.u32.u32 a{j}, g{2 * slot + j // 4}, {_ones(j % 4) * m}, {base};"
    else:
        yield f"and.b32 even, g{slot}, 0x0f0f0f0f;"
        yield f"shr.u32 odd, g{slot}, 4;"
        yield "and.b32 odd, odd, 0x0f0f0f0f;"
        yield "add.u32 both, even, odd;"
        for j in range(STEP // 2):
            yield f"dp4a.u32.u32 a{2 * j + 1}, both, {_ones(j) * m}, at;"
        for j in range(STEP // 2):
            base = f"a{2 * j - 1}" if j else "at"
            yield f"dp4a.u32.u32 a{2 * j}, even, {m << 8 * j}, {base};"
    yield f"add.u32 at, a{STEP - 1}, {STEP * m};"


def skipped(gap_bits: int, column_bytes: int, j: int) -> int:
    """Bytes from ``a<j>`` to the address of entry j."""
    return 0 if gap_bits == 16 else (j + 1) * column_bytes


def nonzero(dtype: str, word: str, j: int) -> str:
    """Predicates ``there<j>``, ``there<j+1>``: which halves of a word are stored weights.

    Needs a register ``zero``.
    """
    kind = "f16x2" if dtype == "float16" else "bf16x2"
    return f"setp.neu.{kind} there{j}|there{j + 1}, {word}, zero;"


def _ones(j: int) -> int:
    """0x01 in the bytes 0 to j."""
    return sum(1 << 8 * i for i in range(j + 1))
