"""Spells a program as one PTX text for ``tl.inline_asm_elementwise``.

Every body stands in the text once; a ``brx.idx`` jumps to the one of this thread's row block and
group. Accumulators, slots and pointers are registers of the text's own scope; the only operands are
those the ``Operands`` allocator hands out, which also writes the constraint string.

Source of the idea: Wang, SparseRT, PACT 2020, section 3 (there: one PTX kernel per matrix).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from sparse_triton.kernels.unrolled.limits import exchange_bytes
from sparse_triton.kernels.unrolled.ops import Fma, Load, Op, Rebase, Sync, Widen
from sparse_triton.kernels.unrolled.schedule import Program

UID = "_${:uid}"  # LLVM replaces it, so that labels stay unique if the text is instantiated twice


@dataclass(frozen=True)
class Spelling:
    """What the ops do not say: how wide a lane is and where X's rows lie.

    lanes      lanes of one group; each owns ``vector`` adjacent columns
    row_bytes  distance between rows of X
    """

    x_dtype: str
    vector: int
    lanes: int
    row_bytes: int


@dataclass(frozen=True)
class Asm:
    """``text`` and ``constraints`` of one inline assembly; its outputs are float32."""

    text: str
    constraints: str
    outputs: int


@dataclass
class Operands:
    """Names operands in the order LLVM numbers them: outputs first."""

    constraints: list[str] = field(default_factory=list)

    def new(self, constraint: str) -> str:
        self.constraints.append(constraint)
        return f"${len(self.constraints) - 1}"


def emit(program: Program, spelling: Spelling) -> Asm:
    """Inputs of the text, in order: pointer to this lane's first column (int64), body index, lane
    within the group (int32). Outputs: ``block_m / Gy * vector`` sums; group g of a program holds
    those of places ``g * block_m / Gy …``."""
    share = program.block_m // program.Gy
    operands = Operands()
    outputs = [operands.new("=f") for _ in range(share * spelling.vector)]
    pointer, body, lane = operands.new("l"), operands.new("r"), operands.new("r")
    lines = [
        *_declare(program, spelling),
        f"mov.b64 p, {pointer};",
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
    return Asm(text, ",".join(operands.constraints), len(outputs))


def _declare(program: Program, spelling: Spelling) -> Iterator[str]:
    slots = 1 + max(
        (op.slot for body in program.bodies for op in body if isinstance(op, Load)), default=0
    )
    yield ".reg .b64 p;"
    for j in range(spelling.vector):
        yield f".reg .f32 a{j}_<{program.block_m}>, x{j}_<{slots}>;"
    if spelling.x_dtype != "float32":
        yield f".reg .b32 h<{slots}>, g<{slots}>, t;"
        yield ".reg .b16 lo, hi;"
    for j in range(spelling.vector):
        yield from (f"mov.f32 a{j}_{i}, 0f00000000;" for i in range(program.block_m))


def _jump(body: str, bodies: int) -> Iterator[str]:
    if bodies > 1:
        labels = ", ".join(f"B{i}{UID}" for i in range(bodies))
        yield f"BODIES{UID}: .branchtargets {labels};"
        yield f"brx.idx {body}, BODIES{UID};"


def _body(index: int, ops: tuple[Op, ...], spelling: Spelling, pointer: str) -> Iterator[str]:
    base = 0
    yield f"B{index}{UID}:"
    for op in ops:
        match op:
            case Rebase(k):
                base = k
                yield f"add.s64 p, {pointer}, {k * spelling.row_bytes};"
            case Load(slot, k):
                yield _load(slot, (k - base) * spelling.row_bytes, spelling)
            case Widen(slot):
                yield from _widen(slot, spelling)
            case Fma(place, slot, weight):
                for j in range(spelling.vector):
                    yield f"fma.rn.f32 a{j}_{place}, x{j}_{slot}, {float32(weight)}, a{j}_{place};"
            case Sync():
                yield "bar.sync 0;"
    yield f"bra.uni DONE{UID};"


def float32(value: float) -> str:
    """A float32 immediate, bit for bit."""
    return f"0f{int(np.float32(value).view(np.uint32)):08X}"


def _load(slot: int, offset: int, spelling: Spelling) -> str:
    match spelling.x_dtype, spelling.vector:
        case "float32", 1:
            return f"ld.global.nc.f32 x0_{slot}, [p+{offset}];"
        case "float32", 2:
            return f"ld.global.nc.v2.f32 {{x0_{slot}, x1_{slot}}}, [p+{offset}];"
        case "float32", 4:
            xs = ", ".join(f"x{j}_{slot}" for j in range(4))
            return f"ld.global.nc.v4.f32 {{{xs}}}, [p+{offset}];"
        case _, 1:
            return f"ld.global.nc.u16 h{slot}, [p+{offset}];"
        case _, 2:
            return f"ld.global.nc.b32 h{slot}, [p+{offset}];"
        case _, 4:
            return f"ld.global.nc.v2.b32 {{h{slot}, g{slot}}}, [p+{offset}];"
    raise AssertionError(spelling)


def _widen(slot: int, spelling: Spelling) -> Iterator[str]:
    """Halves are packed low column first. bfloat16 is the upper half of a float32."""
    words = [f"h{slot}", f"g{slot}"][: max(1, spelling.vector // 2)]
    for j in range(spelling.vector):
        word, out = words[j // 2], f"x{j}_{slot}"
        if spelling.x_dtype == "bfloat16":
            yield f"shl.b32 t, {word}, 16;" if j % 2 == 0 else f"and.b32 t, {word}, 0xffff0000;"
            yield f"mov.b32 {out}, t;"
        else:
            if j % 2 == 0:
                yield f"mov.b32 {{lo, hi}}, {word};"
            yield f"cvt.f32.f16 {out}, {'lo' if j % 2 == 0 else 'hi'};"


def _held(program: Program, spelling: Spelling) -> list[str]:
    """Accumulators a thread gives back: its share of places, columns fastest."""
    share = program.block_m // program.Gy
    return [f"a{j}_{i}" for i in range(share) for j in range(spelling.vector)]


def _exchange(program: Program, spelling: Spelling, body: str, lane: str) -> Iterator[str]:
    """Sum the Gy partials in group order: all to shared memory, then each group takes its share.

    Layout of ``partial``: [place][j][group][lane].
    """
    Gy, lanes, vector = program.Gy, spelling.lanes, spelling.vector
    if Gy == 1:
        return
    group_bytes, place_bytes = lanes * 4, vector * Gy * lanes * 4
    share = program.block_m // Gy
    yield f".shared .align 16 .b8 partial[{exchange_bytes(program.block_m, Gy, lanes, vector)}];"
    yield ".reg .b32 o, s, group;"
    yield ".reg .f32 v;"
    yield "mov.u32 o, partial;"
    yield f"and.b32 group, {body}, {Gy - 1};"
    yield f"mad.lo.u32 o, {lane}, 4, o;"
    yield f"mad.lo.u32 s, group, {group_bytes}, o;"
    for i in range(program.block_m):
        for j in range(vector):
            yield f"st.shared.f32 [s+{(i * vector + j) * Gy * group_bytes}], a{j}_{i};"
    yield "bar.sync 0;"
    yield f"mad.lo.u32 s, group, {share * place_bytes}, o;"
    for i in range(share):
        for j in range(vector):
            at = (i * vector + j) * Gy * group_bytes
            yield f"ld.shared.f32 a{j}_{i}, [s+{at}];"
            for g in range(1, Gy):
                yield f"ld.shared.f32 v, [s+{at + g * group_bytes}];"
                yield f"add.rn.f32 a{j}_{i}, a{j}_{i}, v;"
