"""The inner loop of a gathered convolution in PTX: walk a list of (cell, value) pairs.

The lanes of a row fetch their list together, one pair a lane: a batch. A batch goes through shared
memory, so that each lane reads all of it, ``depth`` pairs a turn, two a load, while the next batch
is on its way from memory. X comes from the staged tile, ``repeat`` points a pair at immediate
offsets. The last pairs of a list take smaller turns, of a half, a quarter, ..., two
pairs: a list of odd length ends with a pair that reads zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sparse_triton.kernels.columns import UID, Asm, Operands

PAIR_BYTES = 8
WARP = 32
SMALLEST_TURN = 2  # pairs: one load of shared memory


@dataclass(frozen=True)
class Walk:
    """repeat points of a lane, ``step_bytes`` apart; ``depth`` pairs of one turn; ``batch`` lanes,
    within one warp, that read the same list."""

    repeat: int
    step_bytes: int
    depth: int
    batch: int


def emit_walk(walk: Walk) -> Asm:
    """Inputs, in order: pointer to this lane's first pair, that pair, number of pairs of the list,
    shared address of this lane's pair and of the batch, number of this lane in the batch, shared
    address of this lane's first point, the ``repeat`` sums so far. Outputs: the sums."""
    operands = Operands()
    sums = [operands.new("=&f") for _ in range(walk.repeat)]
    pointer, first, count, mine, batch, lane, tile = (operands.new(c) for c in "llrrrrr")
    for i in range(walk.repeat):
        operands.new(str(i))  # the sums so far lie where the outputs will
    lines = [
        *_declare(walk),
        f"mov.b64 p, {pointer};",
        f"mov.b64 pair, {first};",
        f"mov.b32 left, {count};",
        *_mask(walk, lane),
        "setp.le.s32 more, left, 0;",
        f"@more bra END{UID};",
        f"BATCH{UID}:",
        '.pragma "nounroll";',
        "bar.warp.sync mask;",
        f"st.shared.b64 [{mine}], pair;",
        "bar.warp.sync mask;",
        f"min.s32 here, left, {walk.batch};",
        f"sub.s32 left, left, {walk.batch};",
        f"add.s64 p, p, {walk.batch * PAIR_BYTES};",
        f"setp.gt.s32 more, left, {lane};",
        "@more ld.global.nc.b64 pair, [p];",
        f"mov.b32 at, {batch};",
        *_turns(walk, tile, sums),
        "setp.gt.s32 more, left, 0;",
        f"@more bra BATCH{UID};",
        f"END{UID}:",
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))


def _declare(walk: Walk) -> Iterator[str]:
    yield ".reg .b64 p, pair;"
    yield ".reg .b32 left, here, at, o, mask;"
    yield f".reg .b32 k<{walk.depth}>;"
    yield f".reg .f32 w<{walk.depth}>, x<{walk.depth * walk.repeat}>;"
    yield ".reg .pred more;"


def _mask(walk: Walk, lane: str) -> Iterator[str]:
    """The lanes of this warp that share the batch."""
    if walk.batch == WARP:
        yield "mov.b32 mask, 0xffffffff;"
    else:
        yield "mov.u32 o, %laneid;"
        yield f"sub.u32 o, o, {lane};"
        yield f"shl.b32 mask, {(1 << walk.batch) - 1}, o;"


def _turns(walk: Walk, tile: str, sums: list[str]) -> Iterator[str]:
    """Whole turns as long as there are pairs for them, then one of each smaller size needed."""
    yield f"sub.s32 here, here, {walk.depth};"
    yield "setp.lt.s32 more, here, 0;"
    yield f"@more bra REST{UID};"
    yield f"TURN{UID}:"
    yield '.pragma "nounroll";'
    yield from _turn(walk, walk.depth, tile, sums)
    yield f"sub.s32 here, here, {walk.depth};"
    yield "setp.ge.s32 more, here, 0;"
    yield f"@more bra TURN{UID};"
    yield f"REST{UID}:"
    pairs = walk.depth // 2
    while pairs >= SMALLEST_TURN:  # the bits of a negative number say what is left over, too
        yield f"and.b32 o, here, {pairs};"
        yield "setp.eq.s32 more, o, 0;"
        yield f"@more bra SKIP{pairs}{UID};"
        yield from _turn(walk, pairs, tile, sums)
        yield f"SKIP{pairs}{UID}:"
        pairs //= 2


def _turn(walk: Walk, pairs: int, tile: str, sums: list[str]) -> Iterator[str]:
    """The next pairs, then their points, then the products."""
    for i in range(0, pairs, 2):
        two = f"k{i}, w{i}, k{i + 1}, w{i + 1}"
        yield f"ld.shared.v4.b32 {{{two}}}, [at+{i * PAIR_BYTES}];"
    for i in range(pairs):
        yield f"add.s32 o, k{i}, {tile};"
        for n in range(walk.repeat):
            yield f"ld.shared.f32 x{i * walk.repeat + n}, [o+{n * walk.step_bytes}];"
    for i in range(pairs):
        for n, acc in enumerate(sums):
            yield f"fma.rn.f32 {acc}, x{i * walk.repeat + n}, w{i}, {acc};"
    yield f"add.s32 at, at, {pairs * PAIR_BYTES};"
