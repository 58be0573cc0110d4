"""The inner loop of family ``gather`` in PTX: walk a list of (column, value) pairs.

Each trip fetches ``depth`` pairs for the *next* trip (16 bytes a load, the same address in all lanes
of a row), then its own ``depth`` rows of X, all in flight together, then multiplies. The last trip
is predicated, so that nothing past the list is read from X or multiplied. Weights are fetched before
the wait for the previous kernel, X after it.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.columns import (
    LAUNCH_DEPENDENTS,
    UID,
    WAIT_FOR_INPUTS,
    Asm,
    Columns,
    Operands,
)

PAIR_BYTES = 8


def emit_walk(columns: Columns, depth: int, Gy: int, threads: int, dependent_launch: bool) -> Asm:
    """Inputs, in order: pointer to the first pair, number of pairs, pointer to this lane's first
    column of X, bytes between rows of X, thread number. Outputs: ``vector`` sums, those of the
    whole row in group 0 (and every other group)."""
    operands = Operands()
    outputs = [operands.new("=f") for _ in range(columns.vector)]
    inputs = [operands.new(c) for c in "lrlrr"]
    pairs, count, x, row_bytes, thread = inputs
    lines = [
        *_declare(columns, depth),
        *([LAUNCH_DEPENDENTS] if dependent_launch else []),
        f"mov.b64 p, {pairs};",
        f"mov.b32 left, {count};",
        *_fetch_pairs(depth),
        *([WAIT_FOR_INPUTS] if dependent_launch else []),
        f"setp.lt.s32 done, left, {depth};",
        f"@done bra LAST{UID};",
        f"TRIP{UID}:",
        *_trip(columns, depth, x, row_bytes),
        f"sub.s32 left, left, {depth};",
        f"setp.ge.s32 more, left, {depth};",
        f"@more bra TRIP{UID};",
        f"LAST{UID}:",
        *_last(columns, depth, x, row_bytes),
        *_exchange(columns, Gy, threads, thread),
        *(f"mov.f32 {out}, acc{j};" for j, out in enumerate(outputs)),
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))


def _declare(columns: Columns, depth: int) -> Iterator[str]:
    """``k, w``: pairs of this trip; ``r``: raw words of X; ``v``: columns; ``q``: predicates."""
    yield ".reg .b64 p, a;"
    yield ".reg .b32 left;"
    yield f".reg .b32 k<{depth}>, kk<{depth}>;"
    yield f".reg .f32 w<{depth}>, ww<{depth}>;"
    yield f".reg .{'f' if columns.wide else 'b'}32 r<{depth * columns.words}>;"
    yield f".reg .f32 acc<{columns.vector}>, v<{columns.vector}>;"
    yield f".reg .pred done, more, q<{depth}>;"
    yield from columns.scratch()
    yield from (f"mov.f32 acc{j}, 0f00000000;" for j in range(columns.vector))


def _fetch_pairs(depth: int) -> Iterator[str]:
    """The next ``depth`` pairs into ``kk, ww``; lists are padded, so that this never leaves them."""
    for i in range(0, depth, 2):
        yield f"ld.global.nc.v4.b32 {{kk{i}, ww{i}, kk{i + 1}, ww{i + 1}}}, [p+{i * PAIR_BYTES}];"
    yield f"add.s64 p, p, {depth * PAIR_BYTES};"


def _take_pairs(depth: int) -> Iterator[str]:
    for i in range(depth):
        yield f"mov.b32 k{i}, kk{i};"
        yield f"mov.f32 w{i}, ww{i};"


def _words(columns: Columns, i: int) -> list[str]:
    return [f"r{i * columns.words + j}" for j in range(columns.words)]


def _load(columns: Columns, i: int, x: str, row_bytes: str, guard: str = "") -> Iterator[str]:
    yield f"mad.wide.u32 a, k{i}, {row_bytes}, {x};"
    yield columns.load(_words(columns, i), "a", guard)


def _multiply(columns: Columns, i: int, guard: str = "") -> Iterator[str]:
    xs = _words(columns, i)
    if not columns.wide:
        xs = [f"v{j}" for j in range(columns.vector)]
        yield from columns.widen(_words(columns, i), xs)
    for j, value in enumerate(xs):
        yield f"{guard} fma.rn.f32 acc{j}, {value}, w{i}, acc{j};".strip()


def _trip(columns: Columns, depth: int, x: str, row_bytes: str) -> Iterator[str]:
    yield from _take_pairs(depth)
    yield from _fetch_pairs(depth)
    for i in range(depth):
        yield from _load(columns, i, x, row_bytes)
    for i in range(depth):
        yield from _multiply(columns, i)


def _last(columns: Columns, depth: int, x: str, row_bytes: str) -> Iterator[str]:
    """The fewer than ``depth`` pairs that are left, each behind its own predicate."""
    yield from _take_pairs(depth)
    for i in range(depth - 1):
        yield f"setp.gt.s32 q{i}, left, {i};"
        yield from _load(columns, i, x, row_bytes, f"@q{i}")
    for i in range(depth - 1):
        yield from _multiply(columns, i, f"@q{i}")


def _exchange(columns: Columns, Gy: int, threads: int, thread: str) -> Iterator[str]:
    """Sum the Gy partials in group order through shared memory, laid out [column][thread]."""
    if Gy == 1:
        return
    row_threads = threads // Gy
    yield f".shared .align 16 .b8 partial[{columns.vector * threads * 4}];"
    yield ".reg .b32 o, place;"
    yield ".reg .f32 other;"
    yield "mov.u32 o, partial;"
    yield f"mad.lo.u32 o, {thread}, 4, o;"
    for j in range(columns.vector):
        yield f"st.shared.f32 [o+{j * threads * 4}], acc{j};"
    yield "bar.sync 0;"
    yield f"and.b32 place, {thread}, {row_threads - 1};"
    yield "mov.u32 o, partial;"
    yield "mad.lo.u32 o, place, 4, o;"
    for j in range(columns.vector):
        yield f"ld.shared.f32 acc{j}, [o+{j * threads * 4}];"
        for g in range(1, Gy):
            yield f"ld.shared.f32 other, [o+{(j * threads + g * row_threads) * 4}];"
            yield f"add.rn.f32 acc{j}, acc{j}, other;"
