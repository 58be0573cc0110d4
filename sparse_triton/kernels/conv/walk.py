"""The inner loop of a gathered convolution in PTX: walk a list of (cell, value) pairs.

Two sets of registers take turns: while one set of ``depth`` pairs is multiplied, the other is on
its way. X comes from the staged tile, ``repeat`` points a pair at immediate offsets. The last
pairs, fewer than ``depth``, are predicated: nothing that is not in the list is multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sparse_triton.kernels.columns import UID, Asm, Operands

PAIR_BYTES = 8


@dataclass(frozen=True)
class Walk:
    """repeat points of a lane, ``step_bytes`` apart, and ``depth`` pairs of one turn."""

    repeat: int
    step_bytes: int
    depth: int


def emit_walk(walk: Walk) -> Asm:
    """Inputs, in order: pointer to the first pair, number of pairs, shared address of this lane's
    first point, the ``repeat`` sums so far. Outputs: the sums."""
    operands, depth = Operands(), walk.depth
    sums = [operands.new("=&f") for _ in range(walk.repeat)]
    pairs, count, tile = (operands.new(c) for c in "lrr")
    for i in range(walk.repeat):
        operands.new(str(i))  # the sums so far lie where the outputs will
    lines = [
        *_declare(walk),
        f"mov.b64 p, {pairs};",
        f"mov.b32 left, {count};",
        *_fetch("a", depth),
        f"setp.lt.s32 done, left, {depth};",
        f"@done bra LAST_A{UID};",
        f"TURN{UID}:",
        *_turn(walk, "a", "b", tile, sums),
        f"@done bra LAST_B{UID};",
        *_turn(walk, "b", "a", tile, sums),
        f"@!done bra TURN{UID};",
        f"LAST_A{UID}:",
        *_last(walk, "a", tile, sums),
        f"bra END{UID};",
        f"LAST_B{UID}:",
        *_last(walk, "b", tile, sums),
        f"END{UID}:",
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))


def _declare(walk: Walk) -> Iterator[str]:
    depth = walk.depth
    yield ".reg .b64 p;"
    yield ".reg .b32 left, o;"
    for name in "ab":
        yield f".reg .b32 {name}k<{depth}>;"
        yield f".reg .f32 {name}w<{depth}>;"
    yield f".reg .f32 x<{depth * walk.repeat}>;"
    yield f".reg .pred done, there<{depth}>;"


def _fetch(name: str, depth: int) -> Iterator[str]:
    """The next ``depth`` pairs; the lists are padded: this never leaves them."""
    for i in range(0, depth, 2):
        four = f"{name}k{i}, {name}w{i}, {name}k{i + 1}, {name}w{i + 1}"
        yield f"ld.global.nc.v4.b32 {{{four}}}, [p+{i * PAIR_BYTES}];"
    yield f"add.s64 p, p, {depth * PAIR_BYTES};"


def _loads(walk: Walk, name: str, i: int, tile: str, guard: str = "") -> Iterator[str]:
    yield f"add.s32 o, {name}k{i}, {tile};"
    for n in range(walk.repeat):
        load = f"ld.shared.f32 x{i * walk.repeat + n}, [o+{n * walk.step_bytes}];"
        yield f"{guard} {load}".strip()


def _products(walk: Walk, name: str, i: int, sums: list[str], guard: str = "") -> Iterator[str]:
    for n, acc in enumerate(sums):
        yield f"{guard} fma.rn.f32 {acc}, x{i * walk.repeat + n}, {name}w{i}, {acc};".strip()


def _turn(walk: Walk, name: str, other: str, tile: str, sums: list[str]) -> Iterator[str]:
    yield from _fetch(other, walk.depth)
    for i in range(walk.depth):
        yield from _loads(walk, name, i, tile)
    for i in range(walk.depth):
        yield from _products(walk, name, i, sums)
    yield f"sub.s32 left, left, {walk.depth};"
    yield f"setp.lt.s32 done, left, {walk.depth};"


def _last(walk: Walk, name: str, tile: str, sums: list[str]) -> Iterator[str]:
    for i in range(walk.depth - 1):
        yield f"setp.gt.s32 there{i}, left, {i};"
        yield from _loads(walk, name, i, tile, f"@there{i}")
    for i in range(walk.depth - 1):
        yield from _products(walk, name, i, sums, f"@there{i}")
