"""The inner loop of family ``decode`` in PTX: gaps to addresses, gather, multiply.

A thread owns one piece of one row. It holds ``depth`` steps of its list in registers, the first
ones fetched before the wait for the previous kernel. X is staged in shared memory as [K][vector],
whatever its layout was. Entries of value zero bridge wide gaps: they neither load nor multiply.

Shared memory is one window, asked for at launch, that begins right after the 16 declared bytes:
first X, then, after a barrier, the partial sums.
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
from sparse_triton.kernels.decode.limits import STATIC_SHARED_BYTES, WalkShape
from sparse_triton.kernels.decode.stage import Stage, Way, registers, stage
from sparse_triton.kernels.decode.steps import STEP, addresses, nonzero, skipped
from sparse_triton.kernels.decode.sums import add_up


@dataclass(frozen=True)
class Walk:
    """Everything the PTX depends on.

    depth  steps in registers
    way    how X is staged
    """

    K: int
    x_dtype: str
    w_dtype: str
    shape: WalkShape
    gap_bits: int
    depth: int
    way: Way
    dependent_launch: bool

    @property
    def vector(self) -> int:
        return self.shape.vector

    @property
    def threads(self) -> int:
        return self.shape.threads

    @property
    def gap_words(self) -> int:
        return self.gap_bits // 4

    @property
    def column_bytes(self) -> int:
        return 2 * self.vector

    @property
    def load(self) -> Columns:
        return Columns(self.x_dtype, min(self.vector, 8))

    @property
    def loads(self) -> int:
        """Loads of X a column."""
        return max(1, self.vector // 8)

    def x_words(self, entry: int, part: int) -> list[str]:
        n = self.load.words
        return [f"x{(entry * self.loads + part) * n + j}" for j in range(n)]


def emit_walk(walk: Walk) -> Asm:
    """Inputs, in order: pointers to the first values and the first gaps of the piece, its steps,
    the column before it, pointer to the tile of X, element strides of X along K and N, columns of
    the tile, thread number. Output: for thread t below block_m * vector the sum of row t % block_m
    of the block and column t // block_m of the tile."""
    operands = Operands()
    out = operands.new("=f")
    values, gaps, steps, before, x, stride_k, stride_n, columns, thread = (
        operands.new(c) for c in "llrrlllrr"
    )
    lines = [
        *_declare(walk),
        *([LAUNCH_DEPENDENTS] if walk.dependent_launch else []),
        f"mov.b64 pv, {values};",
        f"mov.b64 pg, {gaps};",
        f"mov.b32 left, {steps};",
        *(line for i in range(walk.depth) for line in _fetch(walk, i, i)),
        *_advance(walk),
        *([WAIT_FOR_INPUTS] if walk.dependent_launch else []),
        "mov.u32 window, anchor;",
        f"add.u32 window, window, {STATIC_SHARED_BYTES};",
        *stage(
            Stage(
                walk.K, walk.vector, walk.threads, walk.way, x, stride_k, stride_n, columns, thread
            )
        ),
        "bar.sync 0;",
        f"mad.lo.s32 at, {before}, {walk.column_bytes}, window;"
        if walk.gap_bits < 16
        else "mov.b32 at, window;",
        f"TRIP{UID}:",
        *(line for i in range(walk.depth) for line in _step(walk, i)),
        *_advance(walk),
        f"sub.s32 left, left, {walk.depth};",
        f"bra TRIP{UID};",
        f"LAST{UID}:",
        *exchange(walk, thread, out),
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))


def _declare(walk: Walk) -> Iterator[str]:
    """``v``, ``g``: values and gaps of the steps in flight; ``a``: addresses; ``x``: words of X."""
    yield f".shared .align 16 .b8 anchor[{STATIC_SHARED_BYTES}];"
    yield ".reg .b64 pv, pg, p, q;"
    yield ".reg .b32 left, window, at, even, odd, both, k, o, w;"
    yield f".reg .b32 v<{walk.depth * 4}>, g<{walk.depth * walk.gap_words}>, a<{STEP}>;"
    yield f".reg .b32 x<{STEP * walk.loads * walk.load.words}>;"
    yield f".reg .f32 acc<{walk.vector}>, w<{STEP}>, c<{walk.vector}>, f0, sum;"
    yield from registers()
    yield f".reg .pred there<{STEP}>, have, done;"
    yield ".reg .b32 t, zero;"
    yield "mov.b32 zero, 0;"
    yield ".reg .b16 lo, hi;"
    yield from (f"mov.f32 acc{j}, 0f00000000;" for j in range(walk.vector))


def _fetch(walk: Walk, slot: int, ahead: int) -> Iterator[str]:
    """Step ``ahead`` from now into a slot, if the piece has it; pointers stand at slot 0."""
    stream = "ld.global.nc.L1::no_allocate"
    value_bytes, gap_bytes = 16 * walk.shape.block_m, 4 * walk.gap_words * walk.shape.block_m
    v = ", ".join(f"v{4 * slot + j}" for j in range(4))
    g = [f"g{walk.gap_words * slot + j}" for j in range(walk.gap_words)]
    yield f"setp.gt.s32 have, left, {ahead};"
    yield f"@have {stream}.v4.b32 {{{v}}}, [pv+{slot * value_bytes}];"
    if len(g) == 1:
        yield f"@have {stream}.b32 {g[0]}, [pg+{slot * gap_bytes}];"
    else:
        yield f"@have {stream}.v{len(g)}.b32 {{{', '.join(g)}}}, [pg+{slot * gap_bytes}];"


def _advance(walk: Walk) -> Iterator[str]:
    yield f"add.s64 pv, pv, {walk.depth * 16 * walk.shape.block_m};"
    yield f"add.s64 pg, pg, {walk.depth * 4 * walk.gap_words * walk.shape.block_m};"


def _step(walk: Walk, slot: int) -> Iterator[str]:
    """Multiply the step in a slot and fetch the one ``depth`` steps later into it."""
    yield f"setp.le.s32 done, left, {slot};"
    yield f"@done bra LAST{UID};"
    yield from addresses(walk.gap_bits, walk.column_bytes, slot)
    half = STEP // 2
    for first in (0, half):
        for j in range(first, first + half, 2):
            yield nonzero(walk.w_dtype, f"v{4 * slot + j // 2}", j)
        for j in range(first, first + half):
            for part in range(walk.loads):
                offset = part * 16 + skipped(walk.gap_bits, walk.column_bytes, j)
                address = f"a{j}+{offset}"
                yield walk.load.load(walk.x_words(j, part), address, f"@there{j}", "shared")
        for j in range(first, first + half):
            yield from _multiply(walk, slot, j)
    yield from _fetch(walk, slot, walk.depth + slot)


def _multiply(walk: Walk, slot: int, j: int) -> Iterator[str]:
    if j % 2 == 0:
        word = f"v{4 * slot + j // 2}"
        yield from Columns(walk.w_dtype, 2).widen([word], [f"w{j}", f"w{j + 1}"])
    for part in range(walk.loads):
        n = walk.load.vector
        columns = [f"c{part * n + i}" for i in range(n)]
        yield from walk.load.widen(walk.x_words(j, part), columns)
        for i, column in enumerate(columns):
            acc = f"acc{part * n + i}"
            yield f"@there{j} fma.rn.f32 {acc}, {column}, w{j}, {acc};"


# -- the sums of a row -----------------------------------------------------------------------------


def exchange(walk: Walk, thread: str, out: str) -> Iterator[str]:
    """Partials laid out [column][piece][row]; one thread a sum adds them in piece order."""
    block_m, threads = walk.shape.block_m, walk.threads
    yield "bar.sync 0;"  # nobody reads X any more
    yield f"mad.lo.u32 o, {thread}, 4, window;"
    for j in range(walk.vector):
        yield f"st.shared.f32 [o+{4 * j * threads}], acc{j};"
    yield "bar.sync 0;"
    sums = block_m * walk.vector
    address = (
        f"and.b32 o, {thread}, {block_m - 1};",
        f"shr.u32 w, {thread}, {block_m.bit_length() - 1};",
        f"mad.lo.u32 o, w, {threads}, o;",
        "mad.lo.u32 o, o, 4, window;",
    )
    yield from add_up(out, 0, thread, sums, iter(address), walk.shape.Gy, 4 * block_m)
