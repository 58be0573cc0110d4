"""The inner loop of family ``gather`` in PTX: walk a list of (column, value) pairs.

Each trip fetches ``depth`` pairs for the *next* trip (16 bytes a load, the same address in all
lanes of a row), then its own ``depth`` rows of X, all in flight together, then multiplies. The last
trip is predicated, so that nothing past the list is read from X or multiplied. Weights are fetched
before the wait for the previous kernel, X after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sparse_triton.kernels.columns import (
    LAUNCH_DEPENDENTS,
    UID,
    WAIT_FOR_INPUTS,
    Asm,
    Columns,
    Operands,
)
from sparse_triton.kernels.gather.limits import exchange_bytes

PAIR_BYTES = 8


@dataclass(frozen=True)
class Walk:
    """How a list is walked: everything the PTX depends on.

    columns   one load of X
    lanes     of a row; its loads of one pair lie side by side
    repeat    loads of X per lane and pair, a row of lanes apart
    depth     pairs of one trip
    threads   of the program, Gy groups of ``threads / Gy``
    split     whether a row may have further places, each ``lanes`` threads on
    """

    columns: Columns
    lanes: int
    repeat: int
    depth: int
    Gy: int
    threads: int
    split: bool
    dependent_launch: bool

    @property
    def repeat_columns(self) -> int:
        return self.lanes * self.columns.vector

    @property
    def repeat_bytes(self) -> int:
        return self.repeat_columns * (4 if self.columns.wide else 2)

    @property
    def sums(self) -> int:
        return self.columns.vector * self.repeat


def emit_walk(walk: Walk) -> Asm:
    """Inputs, in order: pointer to the first pair, number of pairs, pointer to this lane's first
    column of X, bytes between rows of X, thread number, columns of X from this lane's first on,
    further places of the row. Outputs: ``vector * repeat`` sums of the whole row, the same in every
    group."""
    operands = Operands()
    outputs = [operands.new("=f") for _ in range(walk.sums)]
    inputs = [operands.new(c) for c in "lrlrrrr"]
    pairs, count, x, row_bytes, thread, columns_left, further = inputs
    depth = walk.depth
    lines = [
        *_declare(walk, columns_left),
        *([LAUNCH_DEPENDENTS] if walk.dependent_launch else []),
        f"mov.b64 p, {pairs};",
        f"mov.b32 left, {count};",
        *_fetch_pairs(depth, "k", "w"),
        *([WAIT_FOR_INPUTS] if walk.dependent_launch else []),
        f"setp.eq.u32 never, {row_bytes}, 0;",
        f"TRIP{UID}:",
        *_trip(walk, x, row_bytes, "k", "w", ahead=("kk", "ww"), last=f"LAST{UID}"),
        *_trip(walk, x, row_bytes, "kk", "ww", ahead=("k", "w"), last=f"MOVED{UID}"),
        f"bra TRIP{UID};",
        f"MOVED{UID}:",
        *(f"mov.b32 k{i}, kk{i};" for i in range(depth - 1)),
        *(f"mov.f32 w{i}, ww{i};" for i in range(depth - 1)),
        f"LAST{UID}:",
        *_last(walk, x, row_bytes),
        *_exchange(walk, thread, further),
        *(f"mov.f32 {out}, acc{j};" for j, out in enumerate(outputs)),
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))


def _declare(walk: Walk, columns_left: str) -> Iterator[str]:
    """``k, w`` and ``kk, ww``: pairs of one trip and of the next, in turns; ``r``: raw words of X;
    ``v``: columns; ``here``: whether a repeat lies inside X; ``there``: whether a pair of the last
    trip exists."""
    columns, depth = walk.columns, walk.depth
    yield ".reg .b64 p, a;"
    yield ".reg .b32 left;"
    yield f".reg .b32 k<{depth}>, kk<{depth}>;"
    yield f".reg .f32 w<{depth}>, ww<{depth}>;"
    yield f".reg .{'f' if columns.wide else 'b'}32 r<{depth * walk.repeat * columns.words}>;"
    yield f".reg .f32 acc<{walk.sums}>, v<{columns.vector}>;"
    yield f".reg .pred never, done, both, here<{walk.repeat}>, there<{depth}>;"
    yield from columns.scratch()
    yield from (f"mov.f32 acc{j}, 0f00000000;" for j in range(walk.sums))
    for n in range(1, walk.repeat):
        yield f"setp.gt.s32 here{n}, {columns_left}, {n * walk.repeat_columns};"


def _fetch_pairs(depth: int, k: str, w: str) -> Iterator[str]:
    """The next ``depth`` pairs; lists are padded: this never leaves them."""
    for i in range(0, depth, 2):
        words = f"{{{k}{i}, {w}{i}, {k}{i + 1}, {w}{i + 1}}}"
        yield f"ld.relaxed.cta.global.v4.b32 {words}, [p+{i * PAIR_BYTES}];"
    yield f"add.s64 p, p, {depth * PAIR_BYTES};"


def _words(walk: Walk, i: int, n: int) -> list[str]:
    first = (i * walk.repeat + n) * walk.columns.words
    return [f"r{first + j}" for j in range(walk.columns.words)]


def _multiply(walk: Walk, i: int, w: str, guard: str = "") -> Iterator[str]:
    """acc += w * x for pair i; a repeat outside X multiplies what it holds, and is never stored."""
    columns = walk.columns
    for n in range(walk.repeat):
        xs = _words(walk, i, n)
        if not columns.wide:
            xs = [f"v{j}" for j in range(columns.vector)]
            yield from columns.widen(_words(walk, i, n), xs)
        for j, value in enumerate(xs):
            acc = f"acc{n * columns.vector + j}"
            yield f"{guard} fma.rn.f32 {acc}, {value}, {w}{i}, {acc};".strip()


def _trip(
    walk: Walk, x: str, row_bytes: str, k: str, w: str, ahead: tuple[str, str], last: str
) -> Iterator[str]:
    """``depth`` pairs, while the next are on their way. Leaves for ``last`` where fewer are left.

    Two sets of registers take turns, and a branch that is never taken ends the block: otherwise the
    assembler asks for the next pairs only after the last use of these, to save registers.
    """
    yield f"setp.lt.s32 done, left, {walk.depth};"
    yield f"@done bra {last};"
    yield f"sub.s32 left, left, {walk.depth};"
    yield from _fetch_pairs(walk.depth, *ahead)
    yield f"@never bra {last};"
    for i in range(walk.depth):
        yield f"mad.wide.u32 a, {k}{i}, {row_bytes}, {x};"
        for n in range(walk.repeat):
            guard = f"@here{n}" if n else ""
            yield walk.columns.load(_words(walk, i, n), f"a+{n * walk.repeat_bytes}", guard)
    for i in range(walk.depth):
        yield from _multiply(walk, i, w)


def _last(walk: Walk, x: str, row_bytes: str) -> Iterator[str]:
    """The fewer than ``depth`` pairs that are left: one that is not there neither loads nor
    multiplies."""
    for i in range(walk.depth - 1):
        yield f"setp.gt.s32 there{i}, left, {i};"
        yield f"mad.wide.u32 a, k{i}, {row_bytes}, {x};"
        for n in range(walk.repeat):
            if n:
                yield f"setp.gt.and.s32 both, left, {i}, here{n};"
            guard = "@both" if n else f"@there{i}"
            yield walk.columns.load(_words(walk, i, n), f"a+{n * walk.repeat_bytes}", guard)
    for i in range(walk.depth - 1):
        yield from _multiply(walk, i, "w", f"@there{i}")


def _exchange(walk: Walk, thread: str, further: str) -> Iterator[str]:
    """Sum the partials through shared memory, laid out [sum][thread]: those of the row's first
    place in group order, then those of its further places."""
    if walk.Gy == 1 and not walk.split:
        return
    threads = walk.threads
    shared = exchange_bytes(walk.sums, threads, walk.Gy, walk.split)
    yield f".shared .align 16 .b8 partial[{shared}];"
    yield ".reg .b32 o, place, left_over;"
    yield ".reg .f32 other;"
    yield ".reg .pred alone;"
    yield "mov.u32 o, partial;"
    yield f"mad.lo.u32 o, {thread}, 4, o;"
    for j in range(walk.sums):
        yield f"st.shared.f32 [o+{j * threads * 4}], acc{j};"
    yield "bar.sync 0;"
    yield f"and.b32 place, {thread}, {threads // walk.Gy - 1};"
    yield "mov.u32 o, partial;"
    yield "mad.lo.u32 o, place, 4, o;"
    for j in range(walk.sums):
        yield f"ld.shared.f32 acc{j}, [o+{j * threads * 4}];"
    yield from _add_groups(walk, first=1)
    if walk.split:
        yield f"mov.b32 left_over, {further};"
        yield f"PLACE{UID}:"
        yield "setp.eq.s32 alone, left_over, 0;"
        yield f"@alone bra SUMMED{UID};"
        yield f"add.u32 o, o, {walk.lanes * 4};"
        yield from _add_groups(walk, first=0)
        yield "sub.s32 left_over, left_over, 1;"
        yield f"bra PLACE{UID};"
        yield f"SUMMED{UID}:"


def _add_groups(walk: Walk, first: int) -> Iterator[str]:
    """Add the partials of the place at ``o``, from group ``first`` on."""
    row_threads = walk.threads // walk.Gy
    for g in range(first, walk.Gy):
        for j in range(walk.sums):
            yield f"ld.shared.f32 other, [o+{(j * walk.threads + g * row_threads) * 4}];"
            yield f"add.rn.f32 acc{j}, acc{j}, other;"
