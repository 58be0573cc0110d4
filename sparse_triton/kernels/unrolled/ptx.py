"""Spells a program as one PTX text for ``tl.inline_asm_elementwise``.

Every body stands in the text once; a ``brx.idx`` jumps to the one of this thread's row block and
group. Accumulators, slots and pointers are registers of the text's own scope; the only operands are
those the ``Operands`` allocator hands out, which also writes the constraint string.

Source of the idea: Wang, SparseRT, PACT 2020, section 3 (there: one PTX kernel per matrix).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sparse_triton.kernels.columns import (
    EVICTED_FIRST,
    LAUNCH_DEPENDENTS,
    UID,
    WAIT_FOR_INPUTS,
    Asm,
    Columns,
    Operands,
    float16_pair,
    float32,
)
from sparse_triton.kernels.exchange import (
    barrier,
    before_first_store,
    begin,
    load,
    of_program,
    store,
)
from sparse_triton.kernels.unrolled.limits import Exchange
from sparse_triton.kernels.unrolled.ops import (
    Flush,
    Fma,
    HalfFma,
    Load,
    Op,
    Rebase,
    Sync,
    Widen,
)
from sparse_triton.kernels.unrolled.schedule import Program
from sparse_triton.kernels.unrolled.turns import jump, turns
from sparse_triton.pattern import Int32

Place = Literal["alone", "first", "later"]

# What a kernel does before it reads X and before it stores, by its place among the pieces of one
# program. All but the first begin while the one before still runs: X is complete by then, which the
# fence makes visible, and no piece is over before the one before it.
BEGIN: dict[Place, tuple[str, ...]] = {
    "alone": (LAUNCH_DEPENDENTS, WAIT_FOR_INPUTS),
    "first": (WAIT_FOR_INPUTS, LAUNCH_DEPENDENTS),
    "later": (LAUNCH_DEPENDENTS, "fence.acq_rel.gpu;"),
}
END: dict[Place, tuple[str, ...]] = {"alone": (), "first": (), "later": (WAIT_FOR_INPUTS,)}


@dataclass(frozen=True)
class Spelling:
    """What the ops do not say: how wide a lane is and where X's rows lie.

    row_bytes  distance between rows of X
    exchange   how the partials of bodies become sums
    starts     chunks of a round, see ``turns``
    place      of the kernel among the pieces of a program, see ``pieces``
    """

    columns: Columns
    row_bytes: int
    exchange: Exchange
    dependent_launch: bool
    starts: int = 1
    place: Place = "alone"

    def when_dependent(self, lines: dict[Place, tuple[str, ...]]) -> tuple[str, ...]:
        return lines[self.place] if self.dependent_launch else ()


def emit(program: Program, spelling: Spelling) -> Asm:
    """Inputs of the text, in order: pointer to this lane's first column (int64), body index, lane
    within the group, with several starts this thread's (int32). Outputs: ``block_m / parts *
    vector`` sums; ``held_rows`` says of which rows."""
    operands, held = Operands(), _held(spelling.exchange)
    outputs = [operands.new("=f") for _ in held]
    pointer, body, lane = operands.new("l"), operands.new("r"), operands.new("r")
    start = operands.new("r") if spelling.starts > 1 else ""
    lines = [
        *begin(spelling.exchange.K_blocks),
        *_declare(program, spelling),
        f"mov.b64 p, {pointer};",
        *spelling.when_dependent(BEGIN),
        *_jump(program, spelling, body, start),
        *(
            line
            for i, ops in enumerate(program.bodies)
            for line in _body(i, ops, spelling, pointer)
        ),
        f"DONE{UID}:",
        *spelling.when_dependent(END),
        *_exchange(spelling.exchange, body, lane),
    ]
    lines += [f"mov.f32 {out}, {acc};" for out, acc in zip(outputs, held, strict=True)]
    text = "{\n" + "\n".join(lines) + "\n}"
    return Asm(text, ",".join(operands.constraints))


def _declare(program: Program, spelling: Spelling) -> Iterator[str]:
    slots = 1 + max(
        (op.slot for body in program.bodies for op in body if isinstance(op, Load)), default=0
    )
    yield ".reg .b64 p;"
    yield from EVICTED_FIRST if spelling.columns.hint else ()
    for j in range(spelling.columns.vector):
        yield f".reg .f32 a{j}_<{program.block_m}>, x{j}_<{slots}>;"
    if not spelling.columns.wide:
        yield from (f".reg .b32 h{j}_<{slots}>;" for j in range(spelling.columns.words))
        yield from spelling.columns.scratch()
    if any(isinstance(op, HalfFma) for body in program.bodies for op in body):
        yield ".reg .b32 w;"
        yield ".reg .f32 wide;"
        for j in range(spelling.columns.words):
            yield f".reg .b32 s{j}_<{program.block_m}>;"
            yield from (f"mov.b32 s{j}_{i}, 0;" for i in range(program.block_m))
    for j in range(spelling.columns.vector):
        yield from (f"mov.f32 a{j}_{i}, 0f00000000;" for i in range(program.block_m))


def _jump(program: Program, spelling: Spelling, body: str, start: str) -> Iterator[str]:
    labels = [f"B{i}{UID}" for i in range(len(program.bodies))]
    if spelling.starts > 1:
        yield from turns(body, start, spelling.starts, program.chunks, labels)
    elif len(labels) > 1:
        yield from jump(body, labels)


def _body(index: int, ops: tuple[Op, ...], spelling: Spelling, pointer: str) -> Iterator[str]:
    base, columns = 0, spelling.columns
    yield f"B{index}{UID}:"
    if spelling.starts > 1:  # another chunk may have moved it
        yield f"mov.b64 p, {pointer};"
    for op in ops:
        match op:
            case Rebase(k):
                base = k
                yield f"add.s64 p, {pointer}, {k * spelling.row_bytes};"
            case Load(slot, k):
                offset = (k - base) * spelling.row_bytes
                yield columns.load(_words(slot, columns), f"p+{offset}")
            case Widen(slot):
                xs = [f"x{j}_{slot}" for j in range(columns.vector)]
                yield from columns.widen(_words(slot, columns), xs)
            case Fma(place, slot, weight):
                for j in range(columns.vector):
                    yield f"fma.rn.f32 a{j}_{place}, x{j}_{slot}, {float32(weight)}, a{j}_{place};"
            case HalfFma(place, slot, weight):
                yield f"mov.b32 w, {float16_pair(weight)};"
                for j in range(columns.words):
                    yield f"fma.rn.f16x2 s{j}_{place}, h{j}_{slot}, w, s{j}_{place};"
            case Flush(place):
                yield from _flush(place, columns)
            case Sync():
                yield "bar.sync 0;"
    yield f"bra.uni {'NEXT' if spelling.starts > 1 else 'DONE'}{UID};"


def _flush(place: int, columns: Columns) -> Iterator[str]:
    for j in range(columns.words):
        yield f"mov.b32 {{lo, hi}}, s{j}_{place};"
        for i, part in enumerate(("lo", "hi")):
            acc = f"a{2 * j + i}_{place}"
            yield f"cvt.f32.f16 wide, {part};"
            yield f"add.rn.f32 {acc}, {acc}, wide;"
        yield f"mov.b32 s{j}_{place}, 0;"


def _words(slot: int, columns: Columns) -> list[str]:
    """Registers a load fills: the columns themselves, or 16-bit columns in pairs."""
    return [f"{'x' if columns.wide else 'h'}{j}_{slot}" for j in range(columns.words)]


def held_rows(program: Program, exchange: Exchange) -> Int32:
    """[blocks, parts, block_m / parts] row of each sum that a thread gives back, -1: padding."""
    blocks, parts = len(program.rows), exchange.parts
    rounds = program.rows.reshape(blocks, -1, parts, exchange.share)
    return np.ascontiguousarray(rounds.swapaxes(1, 2)).reshape(blocks, parts, -1)


def _held(exchange: Exchange) -> list[str]:
    """Accumulators a thread gives back: its share of places, columns fastest."""
    share = exchange.block_m // exchange.parts
    return [f"a{j}_{i}" for i in range(share) for j in range(exchange.vector)]


def _exchange(exchange: Exchange, body: str, lane: str) -> Iterator[str]:
    """Sum the partials in part order, a round of places at a time: all partials to the shared
    memory of the program that finishes the place, then each part takes its share of the round.

    Layout of ``partial``: [stacked block][quad of places this program finishes][j][part][lane]
    [place of the quad].
    """
    parts, Gy, K_blocks, quad = exchange.parts, exchange.Gy, exchange.K_blocks, exchange.quad
    if parts == 1:
        return
    share, vector, part_bytes = exchange.share, exchange.vector, exchange.lanes * 4 * quad
    quad_bytes = vector * parts * part_bytes
    yield f".shared .align 16 .b8 partial[{exchange.shared_bytes}];"
    yield f".reg .b32 o, mine, theirs, part, block, mine_in<{K_blocks}>;"
    yield f".reg .f32 other<{quad}>;"
    yield "mov.u32 o, partial;"
    yield f"div.u32 block, {body}, {parts};"
    yield f"and.b32 block, block, {exchange.stack - 1};"
    yield f"mad.lo.u32 o, block, {exchange.block_bytes}, o;"
    yield f"mad.lo.u32 o, {lane}, {4 * quad}, o;"
    yield f"and.b32 part, {body}, {parts - 1};"
    yield f"mad.lo.u32 mine, part, {part_bytes}, o;"
    yield f"and.b32 part, part, {Gy - 1};"
    yield f"mad.lo.u32 theirs, part, {share // quad * quad_bytes}, o;"
    for rank in range(K_blocks):
        yield from of_program(f"mine_in{rank}", "mine", rank, K_blocks)
    yield from before_first_store(K_blocks)
    for first in range(0, exchange.block_m, exchange.round_places):
        if first:
            yield from barrier(K_blocks)
        for i, j in itertools.product(range(0, exchange.round_places, quad), range(vector)):
            rank, place = divmod(i, share * Gy)
            at = place // quad * quad_bytes + j * parts * part_bytes
            values = [f"a{j}_{first + i + n}" for n in range(quad)]
            yield store(f"mine_in{rank}+{at}", values, K_blocks)
        yield from barrier(K_blocks)
        for i, j in itertools.product(range(0, share, quad), range(vector)):
            at = i // quad * quad_bytes + j * parts * part_bytes
            sums = [f"a{j}_{first // parts + i + n}" for n in range(quad)]
            yield load(sums, f"theirs+{at}")
            for q in range(1, parts):
                yield load([f"other{n}" for n in range(quad)], f"theirs+{at + q * part_bytes}")
                yield from (f"add.rn.f32 {a}, {a}, other{n};" for n, a in enumerate(sums))
