"""Spells a program as one PTX text for ``tl.inline_asm_elementwise``.

Every body stands in the text once; a ``brx.idx`` jumps to the one of this thread's row block and
group. Accumulators, slots and pointers are registers of the text's own scope; the only operands are
those the ``Operands`` allocator hands out, which also writes the constraint string.

Source of the idea: Wang, SparseRT, PACT 2020, section 3 (there: one PTX kernel per matrix).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparse_triton.kernels.columns import (
    LAUNCH_DEPENDENTS,
    UID,
    WAIT_FOR_INPUTS,
    Asm,
    Columns,
    Operands,
    float32,
)
from sparse_triton.kernels.unrolled.limits import exchange_bytes, exchange_round
from sparse_triton.kernels.unrolled.ops import Fma, Load, Op, Rebase, Sync, Widen
from sparse_triton.kernels.unrolled.schedule import Program
from sparse_triton.pattern import Int32


@dataclass(frozen=True)
class Spelling:
    """What the ops do not say: how wide a lane is and where X's rows lie.

    lanes      lanes of one group; each owns ``columns.vector`` adjacent columns
    row_bytes  distance between rows of X
    """

    columns: Columns
    lanes: int
    row_bytes: int
    dependent_launch: bool


def emit(program: Program, spelling: Spelling) -> Asm:
    """Inputs of the text, in order: pointer to this lane's first column (int64), body index, lane
    within the group (int32). Outputs: ``block_m / Gy * vector`` sums; ``held_rows`` says of which
    rows."""
    share = program.block_m // program.Gy
    operands = Operands()
    outputs = [operands.new("=f") for _ in range(share * spelling.columns.vector)]
    pointer, body, lane = operands.new("l"), operands.new("r"), operands.new("r")
    lines = [
        *_declare(program, spelling),
        f"mov.b64 p, {pointer};",
        *([LAUNCH_DEPENDENTS, WAIT_FOR_INPUTS] if spelling.dependent_launch else []),
        *_jump(body, len(program.bodies)),
        *(
            line
            for i, ops in enumerate(program.bodies)
            for line in _body(i, ops, spelling, pointer)
        ),
        f"DONE{UID}:",
        *_exchange(program, spelling, body, lane),
    ]
    lines += [
        f"mov.f32 {out}, {acc};" for out, acc in zip(outputs, _held(program, spelling), strict=True)
    ]
    text = "{\n" + "\n".join(lines) + "\n}"
    return Asm(text, ",".join(operands.constraints))


def _declare(program: Program, spelling: Spelling) -> Iterator[str]:
    slots = 1 + max(
        (op.slot for body in program.bodies for op in body if isinstance(op, Load)), default=0
    )
    yield ".reg .b64 p;"
    for j in range(spelling.columns.vector):
        yield f".reg .f32 a{j}_<{program.block_m}>, x{j}_<{slots}>;"
    if not spelling.columns.wide:
        yield from (f".reg .b32 h{j}_<{slots}>;" for j in range(spelling.columns.words))
        yield from spelling.columns.scratch()
    for j in range(spelling.columns.vector):
        yield from (f"mov.f32 a{j}_{i}, 0f00000000;" for i in range(program.block_m))


def _jump(body: str, bodies: int) -> Iterator[str]:
    if bodies > 1:
        labels = ", ".join(f"B{i}{UID}" for i in range(bodies))
        yield f"BODIES{UID}: .branchtargets {labels};"
        yield f"brx.idx {body}, BODIES{UID};"


def _body(index: int, ops: tuple[Op, ...], spelling: Spelling, pointer: str) -> Iterator[str]:
    base, columns = 0, spelling.columns
    yield f"B{index}{UID}:"
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
            case Sync():
                yield "bar.sync 0;"
    yield f"bra.uni DONE{UID};"


def _words(slot: int, columns: Columns) -> list[str]:
    """Registers a load fills: the columns themselves, or 16-bit columns in pairs."""
    return [f"{'x' if columns.wide else 'h'}{j}_{slot}" for j in range(columns.words)]


def held_rows(program: Program, spelling: Spelling) -> Int32:
    """[blocks, Gy, block_m / Gy] row of each sum that a thread gives back, -1: padding."""
    Gy = program.Gy
    in_round = exchange_round(program.block_m, Gy, spelling.lanes, spelling.columns.vector)
    if Gy == 1:
        in_round = program.block_m
    rounds = program.rows.reshape(len(program.rows), -1, Gy, in_round // Gy)
    return np.ascontiguousarray(rounds.swapaxes(1, 2)).reshape(len(program.rows), Gy, -1)


def _held(program: Program, spelling: Spelling) -> list[str]:
    """Accumulators a thread gives back: its share of places, columns fastest."""
    share = program.block_m // program.Gy
    return [f"a{j}_{i}" for i in range(share) for j in range(spelling.columns.vector)]


def _exchange(program: Program, spelling: Spelling, body: str, lane: str) -> Iterator[str]:
    """Sum the Gy partials in group order, a round of places at a time: all partials to shared
    memory, then each group takes its share of the round.

    Layout of ``partial``: [place][j][group][lane].
    """
    Gy, lanes, vector = program.Gy, spelling.lanes, spelling.columns.vector
    if Gy == 1:
        return
    group_bytes, place_bytes = lanes * 4, vector * Gy * lanes * 4
    in_round = exchange_round(program.block_m, Gy, lanes, vector)
    share = in_round // Gy
    yield f".shared .align 16 .b8 partial[{exchange_bytes(program.block_m, Gy, lanes, vector)}];"
    yield ".reg .b32 o, mine, theirs, group;"
    yield ".reg .f32 other;"
    yield "mov.u32 o, partial;"
    yield f"and.b32 group, {body}, {Gy - 1};"
    yield f"mad.lo.u32 o, {lane}, 4, o;"
    yield f"mad.lo.u32 mine, group, {group_bytes}, o;"
    yield f"mad.lo.u32 theirs, group, {share * place_bytes}, o;"
    for first in range(0, program.block_m, in_round):
        if first:
            yield "bar.sync 0;"
        for i in range(in_round):
            for j in range(vector):
                at = (i * vector + j) * Gy * group_bytes
                yield f"st.shared.f32 [mine+{at}], a{j}_{first + i};"
        yield "bar.sync 0;"
        for i in range(share):
            for j in range(vector):
                at = (i * vector + j) * Gy * group_bytes
                sum_ = f"a{j}_{first // Gy + i}"
                yield f"ld.shared.f32 {sum_}, [theirs+{at}];"
                for g in range(1, Gy):
                    yield f"ld.shared.f32 other, [theirs+{at + g * group_bytes}];"
                    yield f"add.rn.f32 {sum_}, {sum_}, other;"
