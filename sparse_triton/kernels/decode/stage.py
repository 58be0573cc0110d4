"""A few columns of X into shared memory as [K][vector], in PTX, whatever their layout is.

copy   they lie in memory as they will in shared memory: 16 bytes a load
pairs  token-major, K even: a thread loads two adjacent values of every token and turns them
any    any strides: a thread loads one value of every token

Columns of the tile past N become zeros. Many loads are in flight, because each takes long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sparse_triton.kernels.columns import UID

AT_ONCE = 4  # 16-byte loads in flight per thread
WORDS = 16  # registers r that hold what is in flight

Way = Literal["copy", "pairs", "any"]


@dataclass(frozen=True)
class Stage:
    """What is staged; operand names: pointer ``x``, element strides, real columns, thread."""

    K: int
    vector: int
    threads: int
    way: Way
    x: str
    stride_k: str
    stride_n: str
    columns: str
    thread: str

    @property
    def column_bytes(self) -> int:
        return 2 * self.vector


def registers() -> Iterator[str]:
    """Declarations that ``stage`` needs besides ``window, k, o, w, p, q, lo, have, done``."""
    yield f".reg .b32 r<{WORDS}>, s<{WORDS}>;"
    yield f".reg .pred in<{max(AT_ONCE, WORDS)}>;"


def stage(s: Stage) -> Iterator[str]:
    yield from {"copy": _copy, "pairs": _pairs, "any": _any}[s.way](s)


def _copy(s: Stage) -> Iterator[str]:
    loads, rest = divmod(s.K * s.vector, 8)
    if loads:
        yield from _begin(s, loads)
        yield f"mad.wide.u32 p, k, 16, {s.x};"
        yield "mad.lo.u32 o, k, 16, window;"
        for i in range(AT_ONCE):
            r = ", ".join(f"r{4 * i + j}" for j in range(4))
            yield f"setp.lt.s32 in{i}, k, {loads - i * s.threads};"
            yield f"@in{i} ld.global.v4.b32 {{{r}}}, [p+{i * 16 * s.threads}];"
        for i in range(AT_ONCE):
            r = ", ".join(f"r{4 * i + j}" for j in range(4))
            yield f"@in{i} st.shared.v4.b32 [o+{i * 16 * s.threads}], {{{r}}};"
        yield from _again(s, AT_ONCE, loads)
    if rest:
        yield f"setp.lt.s32 have, {s.thread}, {rest};"
        yield f"mad.wide.u32 p, {s.thread}, 2, {s.x};"
        yield f"mad.lo.u32 o, {s.thread}, 2, window;"
        yield f"@have ld.global.u16 lo, [p+{loads * 16}];"
        yield f"@have st.shared.u16 [o+{loads * 16}], lo;"


def _pairs(s: Stage) -> Iterator[str]:
    """Two columns of K a thread and turn, several turns at once."""
    pairs, at_once = s.K // 2, max(1, min(AT_ONCE, WORDS // s.vector))
    yield from _begin(s, pairs)
    yield f"mad.wide.u32 p, k, 4, {s.x};"
    yield f"shl.b64 q, {s.stride_n}, 1;"
    yield f"mad.lo.u32 o, k, {2 * s.column_bytes}, window;"
    for i in range(at_once):
        yield f"setp.lt.s32 in{i}, k, {pairs - i * s.threads};"
    for n in range(s.vector):
        yield f"setp.gt.s32 have, {s.columns}, {n};"
        for i in range(at_once):
            word = f"r{i * s.vector + n}"
            yield f"mov.b32 {word}, 0;"
            yield f"and.pred done, have, in{i};"
            yield f"@done ld.global.b32 {word}, [p+{4 * i * s.threads}];"
        if n + 1 < s.vector:
            yield "add.s64 p, p, q;"
    for i in range(at_once):
        yield from _store_pair(s, i)
    yield from _again(s, at_once, pairs)


def _store_pair(s: Stage, i: int) -> Iterator[str]:
    """Low halves of all tokens, then high halves: two columns side by side."""
    words = [f"r{i * s.vector + n}" for n in range(s.vector)]
    half = s.vector // 2
    for j in range(half):
        a, b = words[2 * j], words[2 * j + 1]
        yield f"prmt.b32 s{j}, {a}, {b}, 0x5410;"
        yield f"prmt.b32 s{half + j}, {a}, {b}, 0x7632;"
    turned = [f"s{j}" for j in range(s.vector)] if half else words
    at = 2 * s.column_bytes * i * s.threads
    yield from _store(turned, at, f"@in{i}")


def _any(s: Stage) -> Iterator[str]:
    yield from _begin(s, s.K)
    yield "cvt.u64.u32 p, k;"
    yield f"mul.lo.s64 p, p, {s.stride_k};"
    yield "shl.b64 p, p, 1;"
    yield f"add.s64 p, p, {s.x};"
    yield f"shl.b64 q, {s.stride_n}, 1;"
    yield f"mad.lo.u32 o, k, {s.column_bytes}, window;"
    for n in range(s.vector):
        yield f"setp.gt.s32 have, {s.columns}, {n};"
        yield f"mov.b32 r{n}, 0;"
        yield f"@have ld.global.u16 r{n}, [p];"
        yield "add.s64 p, p, q;"
    if s.vector == 1:
        yield "cvt.u16.u32 lo, r0;"
        yield "st.shared.u16 [o], lo;"
    else:
        for j in range(s.vector // 2):
            yield f"prmt.b32 s{j}, r{2 * j}, r{2 * j + 1}, 0x5410;"
        yield from _store([f"s{j}" for j in range(s.vector // 2)], 0, "")
    yield from _again(s, 1, s.K)


def _store(words: list[str], at: int, guard: str) -> Iterator[str]:
    for i in range(0, len(words), 4):
        part = words[i : i + 4]
        kind = f"v{len(part)}.b32" if len(part) > 1 else "b32"
        stored = f"{{{', '.join(part)}}}" if len(part) > 1 else part[0]
        yield f"{guard} st.shared.{kind} [o+{at + 4 * i}], {stored};".strip()


def _begin(s: Stage, items: int) -> Iterator[str]:
    """One item a thread, from ``k = thread`` on."""
    yield f"mov.b32 k, {s.thread};"
    yield f"setp.ge.s32 done, k, {items};"
    yield f"@done bra STAGED{UID};"
    yield f"STAGE{UID}:"


def _again(s: Stage, at_once: int, items: int) -> Iterator[str]:
    yield f"add.s32 k, k, {at_once * s.threads};"
    yield f"setp.lt.s32 have, k, {items};"
    yield f"@have bra STAGE{UID};"
    yield f"STAGED{UID}:"
