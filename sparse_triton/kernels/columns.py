"""How PTX reads a lane's adjacent columns of X and widens them to float32; for all families."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Columns:
    """``vector`` adjacent columns of dtype ``x_dtype``, fetched by one load of at most 16 bytes.

    A load fills ``words`` registers: float32 columns one each, 16-bit columns in pairs, low first.

    hint  a cache policy of loads from global memory (a register), ``ONCE`` or none
    """

    x_dtype: str
    vector: int
    hint: str = ""

    @property
    def wide(self) -> bool:
        """Whether a loaded word already is a float32 column."""
        return self.x_dtype == "float32"

    @property
    def words(self) -> int:
        return self.vector if self.wide else max(1, self.vector // 2)

    def load(self, words: list[str], address: str, guard: str = "", space: str = "global") -> str:
        """One load instruction; ``guard`` is a predicate such as ``@p``.

        Not ``.nc``: X may be written by the kernel before, up to ``WAIT_FOR_INPUTS``.
        """
        kind = "f32" if self.wide else "b32" if self.vector > 1 else "u16"
        registers = words[0]
        if self.words > 1:
            kind, registers = f"v{self.words}.{kind}", f"{{{', '.join(words)}}}"
        hinted, hint = (".L2::cache_hint", f", {self.hint}") if self.hint else ("", "")
        return f"{guard} ld.{space}{hinted}.{kind} {registers}, [{address}]{hint};".strip()

    def widen(self, words: list[str], columns: list[str]) -> Iterator[str]:
        """float32 columns out of 16-bit words, through the scratch registers ``t, lo, hi``.

        bfloat16 is the upper half of a float32.
        """
        for j, out in enumerate(columns):
            word, high = words[j // 2], j % 2 == 1
            if self.x_dtype == "bfloat16":
                yield f"and.b32 t, {word}, 0xffff0000;" if high else f"shl.b32 t, {word}, 16;"
                yield f"mov.b32 {out}, t;"
            else:
                if not high:
                    yield f"mov.b32 {{lo, hi}}, {word};"
                yield f"cvt.f32.f16 {out}, {'hi' if high else 'lo'};"

    def scratch(self) -> list[str]:
        """Declarations that ``widen`` needs."""
        return [] if self.wide else [".reg .b32 t;", ".reg .b16 lo, hi;"]


def float32(value: float) -> str:
    """A float32 immediate, bit for bit."""
    return f"0f{int(np.float32(value).view(np.uint32)):08X}"


def float16_pair(value: float) -> str:
    """A float16 twice, as one 32-bit immediate."""
    bits = int(np.float16(value).view(np.uint16))
    return f"0x{bits:04X}{bits:04X}"


@dataclass
class Operands:
    """Names operands in the order LLVM numbers them, outputs first; writes their constraints."""

    constraints: list[str] = field(default_factory=list)

    def new(self, constraint: str) -> str:
        self.constraints.append(constraint)
        return f"${len(self.constraints) - 1}"


@dataclass(frozen=True)
class Asm:
    """``text`` and ``constraints`` of one inline assembly; its outputs are float32."""

    text: str
    constraints: str


UID = "_${:uid}"  # LLVM replaces it, so that labels stay unique if a text is instantiated twice

# Lines that leave the L2 cache before others: their policy, and what declares it (sm_80 on).
ONCE = "once"
EVICTED_FIRST = (
    f".reg .b64 {ONCE};",
    f"createpolicy.fractional.L2::evict_first.b64 {ONCE}, 1.0;",
)

# Dependent launch (sm_90 on): the next kernel may start early and fetch its weights; it waits here
# before it touches anything that an earlier kernel writes.
LAUNCH_DEPENDENTS = "griddepcontrol.launch_dependents;"
WAIT_FOR_INPUTS = "griddepcontrol.wait;"
FIRST_ARCH_WITH_DEPENDENT_LAUNCH = 90


def has_dependent_launch(arch: int) -> bool:
    return arch >= FIRST_ARCH_WITH_DEPENDENT_LAUNCH
